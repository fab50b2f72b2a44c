"""A series of a timer: a histogram of the seconds that functions and blocks of an application take."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from resilient.blocks import OpenBlocks, holder_of
from resilient.core.clock import CLOCK
from resilient.decorate import kind_of, name_of
from resilient.pipeline import F
from resilient.telemetry.app_series import BoundHistogram


class BoundTimer(BoundHistogram):
    """One series of a timer: decorator and `with` block. It may be in many blocks at once."""

    __slots__ = ("_open",)

    def __init__(self, shown: str, bounds: tuple[float, ...]) -> None:
        super().__init__(shown, bounds)
        self._open: OpenBlocks[float] = OpenBlocks()

    def __call__(self, function: F, /) -> F:
        """Time each call of a function, however it ends; it keeps its name, signature, kind and type.

        Raises:
            TypeError: what is decorated is no function, or a generator function.
        """
        timed: F = _timed(self, function)
        return timed

    def __enter__(self) -> Self:
        self.enter(sys._getframe(1))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        self.exit(sys._getframe(1))

    def enter(self, frame: FrameType) -> None:
        self._open.push(holder_of(frame), CLOCK.now())

    def exit(self, frame: FrameType) -> None:
        now = CLOCK.now()
        started = self._open.pop(holder_of(frame))
        if started is not None:
            self.took(now - started)

    def took(self, seconds: float) -> None:
        # Never negative, whatever a test does to the clock meanwhile: the end of a block is no place to raise.
        elapsed = seconds if seconds > 0.0 else 0.0
        self._buckets.observe(elapsed)


def _timed(series: BoundTimer, function: Any) -> Any:
    if isinstance(function, (staticmethod, classmethod)):
        return type(function)(_timed(series, function.__func__))
    if isinstance(function, type) or not callable(function):
        raise TypeError(f"{series._shown} can't time {function!r}: decorate functions or methods")
    call: Callable[..., Any] = function
    kind = kind_of(call)
    if kind == "async function":

        @functools.wraps(function)
        async def timed_async(*args: Any, **kwargs: Any) -> Any:
            started = CLOCK.now()
            try:
                return await call(*args, **kwargs)
            finally:
                series.took(CLOCK.now() - started)

        return timed_async
    if kind != "function":
        raise TypeError(
            f"{series._shown} can't time {name_of(function)}, {'an' if kind[0] == 'a' else 'a'} {kind} function, whose "
            f"body runs after the call: write `with timer(...):` in the body, or decorate it with observed"
        )

    @functools.wraps(function)
    def timed(*args: Any, **kwargs: Any) -> Any:
        started = CLOCK.now()
        try:
            return call(*args, **kwargs)
        finally:
            series.took(CLOCK.now() - started)

    return timed
