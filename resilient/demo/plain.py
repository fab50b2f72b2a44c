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
    "                                             guarded               unguarded\n"
    "time upstream  breaker   fail retry  ok mem def err  p50  p99   ok err  p50  p99"
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
        f"A line a second: users with a fresh answer (ok), users who saw an error (err),\n"
        f"and how long fresh answers took in ms. The guarded client may ask a small\n"
        f"replica, too, or else answer from memory (mem) or by a default (def). Of its\n"
        f"policies: state of its circuit breaker, failures in its window, retries."
    )


def line(frame: Frame, before: Frame | None = None) -> str:
    """The second that ends with this frame; `before` is the frame of the line above."""
    breaker = frame.breaker.replace("_", "-")
    fail = "-" if frame.failing is None else f"{frame.failing:.0%}"
    retried = frame.retries - (before.retries if before else 0)
    ours, theirs = frame.guarded.last_second, frame.unguarded.last_second
    instead = f"{ours.from_memory:3} {ours.default:3}"
    return (
        f"{frame.elapsed:4.0f} {frame.stage.name:<9} {breaker:<9} {fail:>4} {retried:5} "
        f"{ours.answered:3} {instead} {_errors(ours)}  {theirs.answered:3} {_errors(theirs)}"
    )


def _errors(tally: Tally) -> str:
    """Errors, and the times of fresh answers."""
    return f"{tally.errors:3} {_ms(tally.p50):>4} {_ms(tally.p99):>4}"


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.0f}"
