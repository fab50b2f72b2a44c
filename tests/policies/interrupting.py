"""Letting the time run out at a chosen instruction of a function."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from resilient.testing import FakeClock


def interrupted_at(instruction: int, function: Callable[[], object], clock: FakeClock, seconds: float = 10.0) -> bool:
    """Call `function`, and advance the clock before its n-th instruction; False where it ended before that.

    Begin with -1, which advances nothing: Python 3.13.0 shows no instructions where it traces a function for the first
    time.
    """
    seen = -1

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal seen
        if frame.f_code is not getattr(function, "__code__", None):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "opcode":
            seen += 1
            if seen == instruction:
                clock.advance(seconds)
        return trace

    before = sys.gettrace()
    # From 3.12 on it takes one frame that asks for instructions before the tracing begins.
    sys._getframe().f_trace_opcodes = True
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return seen >= instruction
