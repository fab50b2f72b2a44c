"""Letting the time run out at a chosen instruction of a function."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from resilient.testing import FakeClock


def interrupted_at(instruction: int, function: Callable[[], object], clock: FakeClock, seconds: float = 10.0) -> bool:
    """Call `function`, and advance the clock before its n-th instruction; False where it ended before that."""
    seen = -1

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal seen
        if frame.f_code is not function.__code__:  # type: ignore[attr-defined]
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "opcode":
            seen += 1
            if seen == instruction:
                clock.advance(seconds)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return seen >= instruction
