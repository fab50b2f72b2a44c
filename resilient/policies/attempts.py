"""The attempts face of retry: `for attempt in policy:` with `with attempt:` inside."""

from __future__ import annotations

import sys
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Literal, Self

from resilient.core.retry_plan import RetryRun, Stop
from resilient.core.tracing import TRACING, UNTRACED, CallTrace
from resilient.operation import BYPASS, Operation, Scope
from resilient.pipeline import COROUTINE, SUSPENDABLE
from resilient.traced import count

if TYPE_CHECKING:
    from resilient.policies.retry import Retry


class Attempt:
    """One attempt; a context manager for the body of the loop.

    Attributes:
        number: 1 for the first.
    """

    __slots__ = ("_attempts", "number")

    def __init__(self, attempts: Attempts, number: int) -> None:
        self._attempts = attempts
        self.number = number

    @property
    def next_delay(self) -> float | None:
        """Seconds before the next attempt, if it fails and the failure asks for no other wait; None for the last."""
        return self._attempts.upcoming_delay()

    def __enter__(self) -> Self:
        self._attempts.enter(sys._getframe(1))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> bool:
        try:
            instead = self._attempts.leave(error)
            if isinstance(instead, Exception) and self._attempts.goes_on_after(instead):
                self._attempts.pause()
                return True
        except BaseException as raised:
            self._attempts.end(raised)
            raise
        self._attempts.end(instead)
        if instead is not None and instead is not error:
            raise instead from error
        return False


class Attempts:
    """An iterator over attempts, in `for` or in `async for`; it belongs to one loop."""

    __slots__ = ("_async", "_delay", "_error", "_operation", "_retry", "_part", "_run", "_scope", "_state", "_trace")

    def __init__(self, retry: Retry) -> None:
        self._retry = retry
        self._operation: Operation | None = None
        self._run: RetryRun | None = None
        self._state: Literal["new", "handed out", "in its block", "failed", "ended"] = "new"
        self._async = False
        self._scope: Scope | None = None
        self._delay = 0.0
        self._error: Exception | None = None
        self._trace: CallTrace | None = None
        self._part = UNTRACED

    def __del__(self) -> None:
        # Left between two attempts, by a `break` behind the block: nobody else says how it ended.
        begun = self._run is not None and self._run.attempts > 1
        if begun and self._state in ("failed", "handed out"):
            self.end(self._error or GeneratorExit())

    def __iter__(self) -> Self:
        return self

    def __aiter__(self) -> Self:
        return self

    def __next__(self) -> Attempt:
        if self._state == "ended":
            raise StopIteration
        if self._state == "failed":
            try:
                self._retry.wait(self._delay)
                self._start_in_time()
            except BaseException as error:
                self.end(error)
                raise
        return self._hand_out()

    async def __anext__(self) -> Attempt:
        self._async = True
        if self._state == "ended":
            raise StopAsyncIteration
        if self._state == "failed":
            try:
                await self._retry.wait_async(self._delay)
                self._start_in_time()
            except BaseException as error:
                self.end(error)
                raise
        return self._hand_out()

    def upcoming_delay(self) -> float | None:
        if self._state == "failed":
            return self._delay
        return None if self._run is None or self._state == "ended" else self._run.upcoming()

    def enter(self, frame: FrameType) -> None:
        if self._state != "handed out":
            raise RuntimeError("`with attempt:` is entered once, in the turn of the loop that the attempt belongs to")
        limit = None if BYPASS.active else self._retry.attempt_timeout
        if limit is not None and not self._async and frame.f_code.co_flags & SUSPENDABLE:
            raise TypeError(
                f"{self._retry!r} has an attempt_timeout, which would time out whatever runs while this "
                f"{'coroutine' if frame.f_code.co_flags & COROUTINE else 'generator'} is suspended: write `async for` "
                f"in async code, or decorate a function"
            )
        self._state = "in its block"
        operation, run = self._current()
        if run.attempts == 1:
            operation.meter.started += 1
            if "opentelemetry.trace" in sys.modules:
                self._trace = TRACING.open(operation)
        if self._trace is not None:
            self._trace.attach()
            if run.attempts > 1:
                self._part = self._trace.retry(run.attempts, self._delay)
                self._part.__enter__()
        if limit is None:
            return
        scope = limit.scope(operation)
        scope.bind(self._abandon)
        try:
            scope.begin()
            if self._async:
                scope.resume_async()
            else:
                scope.resume(frame)
        except BaseException as error:
            scope.end(error)
            self._part.__exit__(None, error, None)
            self.end(error)
            raise
        self._scope = scope

    def leave(self, error: BaseException | None) -> BaseException | None:
        """The attempt's own timeout ends; what it puts in the place of `error`."""
        scope, self._scope = self._scope, None
        if scope is not None:
            paused = scope.pause_async(error) if self._async else scope.pause(error)
            error = scope.end(paused or error) or paused or error
        self._part.__exit__(None, error, None)
        return error

    def pause(self) -> None:
        """The loop's own code and its waits are no part of the trace."""
        if self._trace is not None:
            self._trace.detach()

    def _abandon(self, source: Scope, error: BaseException) -> None:
        """The attempt's timeout interrupts where no `__exit__` follows: there is no other attempt."""
        self._scope = None
        source.end(error)
        self.end(error)

    def goes_on_after(self, error: Exception) -> bool:
        """Will there be another attempt?"""
        operation, run = self._current()
        delay = self._retry.next_delay(run, operation, error, None)
        part, self._part = self._part, UNTRACED
        part.end("failure" if delay is Stop.NOT_RETRYABLE else "retryable_failure")
        if isinstance(delay, Stop):
            self._retry.conclude(run, operation, delay, error)
            return False
        self._delay = delay
        self._error = error
        self._state = "failed"
        return True

    def end(self, error: BaseException | None) -> None:
        operation, run = self._current()
        self._state = "ended"
        self._error = None
        self._part.end("success" if error is None else "failure")
        if error is None:
            self._retry.succeeded(run.attempts)
        trace, self._trace = self._trace, None
        count(operation, trace, error, run.started)

    def _hand_out(self) -> Attempt:
        if self._state in ("handed out", "in its block"):
            raise RuntimeError("the body of a loop over attempts belongs in `with attempt:`")
        if self._run is None:
            self._operation, self._run = self._retry.start()
        self._state = "handed out"
        return Attempt(self, self._run.attempts)

    def _start_in_time(self) -> None:
        operation, run = self._current()
        error, self._error = self._error, None
        if error is not None and self._retry.is_too_late(run):
            if self._trace is not None:
                self._trace.attach()
            self._retry.give_up(run, operation, Stop.LATE, error, None)

    def _current(self) -> tuple[Operation, RetryRun]:
        if self._operation is None or self._run is None:
            raise RuntimeError("an attempt belongs to a loop over its retry policy")
        return self._operation, self._run
