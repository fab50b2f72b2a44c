"""What the run tells those who show it."""

from __future__ import annotations

from resilient.demo.frame import Frame
from resilient.demo.report import Report
from resilient.demo.script import Script


class View:
    """Shows nothing; views override what they have something to show for.

    Attributes:
        interval: seconds between two frames.
    """

    interval = 1.0

    def open(self, script: Script) -> None:
        """The run begins."""

    def show(self, frame: Frame) -> None:
        """It goes on."""

    def leave(self) -> None:
        """It is over, however it ended: give the terminal back."""

    def close(self, report: Report) -> None:
        """It has ended well, by time or by hand."""
