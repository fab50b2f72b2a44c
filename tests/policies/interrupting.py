"""Letting the time run out at a chosen instruction of a function."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

from resilient.testing import FakeClock


def interrupted_at(instruction: int, function: Callable[[], object], clock: FakeClock, seconds: float = 10.0) -> bool:
    """Call `function`, and advance the clock before its n-th instruction; False where it ended before that."""
    seen = -1

    def before_each() -> None:
        nonlocal seen
        seen += 1
        if seen == instruction:
            clock.advance(seconds)

    with _watched(function.__code__, before_each):  # type: ignore[attr-defined]
        function()
    return seen >= instruction


@contextmanager
def _watched(code: CodeType, before_each: Callable[[], object]) -> Iterator[None]:
    """Call `before_each` before each instruction of the function with this code."""
    if sys.version_info < (3, 12):
        before = sys.gettrace()
        sys.settrace(_tracer(code, before_each))
        try:
            yield
        finally:
            sys.settrace(before)
        return
    # Tracing shows no instructions on 3.13.0 where it begins.
    monitoring, tool = sys.monitoring, 4
    event = monitoring.events.INSTRUCTION
    monitoring.use_tool_id(tool, __name__)
    monitoring.register_callback(tool, event, lambda code, offset: before_each())
    monitoring.set_local_events(tool, code, event)
    try:
        yield
    finally:
        monitoring.set_local_events(tool, code, 0)
        monitoring.free_tool_id(tool)


def _tracer(code: CodeType, before_each: Callable[[], object]) -> Callable[[FrameType, str, object], Any]:
    def trace(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code is not code:
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "opcode":
            before_each()
        return trace

    return trace
