"""No interrupt hits in OpenTelemetry: a span whose lock is never given back blocks whoever ends it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import FrameType, FunctionType, TracebackType
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

from resilient import Registry, TimeoutExceededError, timeout
from resilient.drivers.safe_points import Hesitation

SITE_PACKAGES = os.path.join(os.path.dirname(os.path.dirname(os.__file__)), "site-packages")


def placed(function: Callable[..., Any], *path: str) -> Any:
    """Make `function` look as if it stood in another file."""
    assert isinstance(function, FunctionType)
    function.__code__ = function.__code__.replace(co_filename=os.path.join(SITE_PACKAGES, *path))
    return function


def call(function: Callable[[], Any]) -> Any:
    return function()


def own_frame() -> FrameType:
    return sys._getframe()


def waits(frame: FrameType) -> bool:
    return Hesitation().put_off(frame, (), object())


@pytest.mark.parametrize(
    "path",
    [
        ("sdk", "trace", "__init__.py"),
        ("trace", "__init__.py"),
        ("context", "contextvars_context.py"),
        ("attributes", "__init__.py"),
    ],
)
def test_an_interrupt_waits_there_and_in_what_is_called_from_there(path: tuple[str, ...]) -> None:
    assert waits(placed(lambda: sys._getframe(), "opentelemetry", *path)())
    assert waits(placed(lambda: call(own_frame), "opentelemetry", *path)())


def test_not_in_the_users_code_below_instrumentation_nor_in_what_is_only_called_like_it() -> None:
    assert not waits(placed(lambda: own_frame(), "opentelemetry", "instrumentation", "httpx", "__init__.py")())
    assert not waits(placed(lambda: sys._getframe(), "opentelemetry_tools", "trace.py")())


@pytest.mark.realtime
def test_a_body_that_opens_one_span_after_the_other_is_interrupted_between_them() -> None:
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
    spans: list[Any] = []

    def body() -> None:
        while True:
            span = tracer.start_span("span", attributes={"some": "attribute"})
            spans.append(span)
            span.set_attribute("another", 1)
            span.end()
            # Most of the time by far: an interrupt that finds no safe point comes anyway in the end, and on a busy
            # machine it looks no more than ten times.
            sum(range(20_000))

    for _ in range(30):
        with pytest.raises(TimeoutExceededError) as raised:
            timeout(0.002, name="short", registry=Registry()).call(body)
        interrupt = raised.value.__cause__
        assert interrupt is not None
        assert innermost(interrupt.__traceback__) == __file__
        assert not any(span._lock.locked() for span in spans)
        spans.clear()


def innermost(traceback: TracebackType | None) -> str:
    """The file of the function that was interrupted; below it stands the handler of the signal."""
    files: list[str] = []
    while traceback is not None:
        files.append(traceback.tb_frame.f_code.co_filename)
        traceback = traceback.tb_next
    return [file for file in files if os.path.join("resilient", "drivers") not in file][-1]
