"""The view without a terminal: one aligned line a second, at most 80 columns, and not one control character."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from resilient.demo.frame import Frame
from resilient.demo.report import Report
from resilient.demo.script import Script
from resilient.demo.summary import summary_text
from resilient.demo.users import Tally
from resilient.demo.view import View

HEADER: Final = (
    "                                            guarded             unguarded\n"
    "time upstream  breaker   fail retry refuse  ok err  p50  p99   ok err  p50  p99"
)


class PlainView(View):
    """Lines for pipes, log files and terminals without rich."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._before: Frame | None = None

    def open(self, script: Script) -> None:
        self._write(f"{opening(script)}\n\n{HEADER}\n")

    def show(self, frame: Frame) -> None:
        self._write(line(frame, self._before) + "\n")
        self._before = frame

    def close(self, report: Report) -> None:
        self._write("\n" + summary_text(report))


def opening(script: Script) -> str:
    return (
        f"Two clients call one HTTP server for {script.seconds:g} s while it has an outage (seed {script.seed}).\n"
        f"A line a second: users served (ok), users who saw an error (err), and how long\n"
        f"answers took in ms; and the policies of the guarded client: state of its circuit\n"
        f"breaker, share of failures in the breaker's window, retries, calls refused."
    )


def line(frame: Frame, before: Frame | None = None) -> str:
    """The second that ends with this frame; `before` is the frame of the line above."""
    breaker = frame.breaker.replace("_", "-")
    fail = "-" if frame.failing is None else f"{frame.failing:.0%}"
    retried = frame.retries - (before.retries if before else 0)
    refused = frame.refused - (before.refused if before else 0)
    sides = "  ".join(_side(side.last_second) for side in (frame.guarded, frame.unguarded))
    return f"{frame.elapsed:4.0f} {frame.stage.name:<9} {breaker:<9} {fail:>4} {retried:5} {refused:6} {sides}"


def _side(tally: Tally) -> str:
    return f"{tally.answered:3} {tally.errors:3} {_ms(tally.p50):>4} {_ms(tally.p99):>4}"


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.0f}"
