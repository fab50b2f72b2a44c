"""One use of a pipeline around a body that is not a function call: a `with` block, or the steps of a generator."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from types import FrameType
from typing import Any

from resilient.core.clock import CLOCK
from resilient.core.tracing import TRACING, CallTrace
from resilient.operation import Operation, Scope
from resilient.traced import count


class Use:
    """Enters and leaves the scopes of a pipeline in their order, whatever is raised on the way.

    `is_current` tells whether a trace of it may be the current one from its beginning to its end: not in a generator of
    the user's own, which is left with the block open, and may be resumed by another thread.
    """

    __slots__ = ("_begun", "_operation", "_resumed", "_scopes", "_started", "_trace", "forget", "is_current")

    def __init__(self, operation: Operation, scopes: list[Scope], forget: Callable[[], object] | None = None) -> None:
        self._operation = operation
        self._scopes = scopes
        self._begun = self._resumed = 0
        self._started = 0.0
        self._trace: CallTrace | None = None
        self.forget = forget
        self.is_current = True
        for scope in scopes:
            scope.bind(self.abandon)

    def enter(self, frame: FrameType) -> None:
        """Begin and resume every scope, outermost first; where one refuses, leave those before it."""
        self._start()
        try:
            for scope in self._scopes:
                scope.begin()
                self._begun += 1
                scope.resume(frame)
                self._resumed += 1
        except BaseException as error:
            _pass_on(error, self.leave(error))
            raise

    async def enter_async(self) -> None:
        self._start()
        try:
            for scope in self._scopes:
                await scope.begin_async()
                self._begun += 1
                scope.resume_async()
                self._resumed += 1
        except BaseException as error:
            _pass_on(error, self.leave_async(error))
            raise

    def resume(self, frame: FrameType) -> None:
        if self._trace is not None:
            self._trace.attach()
        for scope in self._scopes:
            scope.resume(frame)
            self._resumed += 1

    def resume_async(self) -> None:
        if self._trace is not None:
            self._trace.attach()
        for scope in self._scopes:
            scope.resume_async()
            self._resumed += 1

    def pause(self, error: BaseException | None) -> BaseException | None:
        """Pause every scope, innermost first. What is to be raised: `error`, what replaces it, or nothing."""
        while self._resumed:
            self._resumed -= 1
            error = _outcome(self._scopes[self._resumed].pause, error)
        if self._trace is not None:
            self._trace.detach()
        return error

    def pause_async(self, error: BaseException | None) -> BaseException | None:
        while self._resumed:
            self._resumed -= 1
            error = _outcome(self._scopes[self._resumed].pause_async, error)
        if self._trace is not None:
            self._trace.detach()
        return error

    def attach(self) -> None:
        """For the clean-up of a generator that is closed: its own code, but no longer guarded."""
        if self._trace is not None:
            self._trace.attach()

    def leave(self, error: BaseException | None) -> BaseException | None:
        """Pause and end every scope, innermost first, and count the call."""
        for index in range(len(self._scopes) - 1, -1, -1):
            scope = self._scopes[index]
            if index < self._resumed:
                self._resumed = index
                error = _outcome(scope.pause, error)
            if index < self._begun:
                self._begun = index
                error = _outcome(scope.end, error)
        return self._finish(error)

    def leave_async(self, error: BaseException | None) -> BaseException | None:
        for index in range(len(self._scopes) - 1, -1, -1):
            scope = self._scopes[index]
            if index < self._resumed:
                self._resumed = index
                error = _outcome(scope.pause_async, error)
            if index < self._begun:
                self._begun = index
                error = _outcome(scope.end, error)
        return self._finish(error)

    def abandon(self, source: Scope, error: BaseException) -> None:
        """An interrupt of `source` skips the end of the block: give back what the block holds."""
        self._resumed = min(self._resumed, self._scopes.index(source))
        self.leave(error)
        if self.forget is not None:
            self.forget()

    def _start(self) -> None:
        self._operation.meter.started += 1
        self._started = CLOCK.now()
        if "opentelemetry.trace" in sys.modules and (trace := TRACING.open(self._operation)) is not None:
            self._trace = trace
            if self.is_current:
                trace.attach()

    def _finish(self, error: BaseException | None) -> BaseException | None:
        trace, self._trace = self._trace, None
        count(self._operation, trace, error, self._started)
        return error


def _outcome(
    leave: Callable[[BaseException | None], BaseException | None], error: BaseException | None
) -> BaseException | None:
    try:
        return leave(error) or error
    except BaseException as raised:  # noqa: BLE001 - the scopes further out are left with it
        return raised


def iterate(body: Generator[Any, Any, Any], use: Use) -> Generator[Any, Any, Any]:
    """Run a generator with the scopes of `use` in force while its own code runs, and only then."""
    use.enter(sys._getframe())
    advance: Callable[[Any], Any] = body.send
    argument: Any = None
    returned: Any = None
    try:
        _pass_on(None, use.pause(None))
        while True:
            try:
                item = _step(use, advance, argument)
            except StopIteration as stop:
                returned = stop.value
                break
            try:
                argument = yield item
                advance = body.send
            except GeneratorExit:
                use.attach()
                body.close()
                raise
            except BaseException as thrown:  # noqa: BLE001 - handed to the body, as a bare generator would
                advance, argument = body.throw, thrown
    except BaseException as error:
        use.attach()
        try:
            body.close()
        except BaseException as raised:
            _pass_on(raised, use.leave(raised))
            raise
        _pass_on(error, use.leave(error))
        raise
    _pass_on(None, use.leave(None))
    return returned


def _step(use: Use, advance: Callable[[Any], Any], argument: Any) -> Any:
    use.resume(sys._getframe())
    try:
        item = advance(argument)
    except StopIteration:
        _pass_on(None, use.pause(None))
        raise
    except BaseException as error:
        _pass_on(error, use.pause(error))
        raise
    _pass_on(None, use.pause(None))
    return item


async def iterate_async(body: AsyncGenerator[Any, Any], use: Use) -> AsyncGenerator[Any, Any]:
    """The same for an async generator."""
    await use.enter_async()
    advance: Callable[[Any], Awaitable[Any]] = body.asend
    argument: Any = None
    try:
        _pass_on(None, use.pause_async(None))
        while True:
            try:
                item = await _step_async(use, advance, argument)
            except StopAsyncIteration:
                break
            try:
                argument = yield item
                advance = body.asend
            except GeneratorExit:
                use.attach()
                await body.aclose()
                raise
            except BaseException as thrown:  # noqa: BLE001 - handed to the body, as a bare generator would
                advance, argument = body.athrow, thrown
    except BaseException as error:
        use.attach()
        try:
            await body.aclose()
        except BaseException as raised:
            _pass_on(raised, use.leave_async(raised))
            raise
        _pass_on(error, use.leave_async(error))
        raise
    _pass_on(None, use.leave_async(None))


async def _step_async(use: Use, advance: Callable[[Any], Awaitable[Any]], argument: Any) -> Any:
    try:
        use.resume_async()
        item = await advance(argument)
    except StopAsyncIteration:
        _pass_on(None, use.pause_async(None))
        raise
    except BaseException as error:
        _pass_on(error, use.pause_async(error))
        raise
    _pass_on(None, use.pause_async(None))
    return item


def _pass_on(error: BaseException | None, instead: BaseException | None) -> None:
    """Raise what a scope put in the place of `error`, if it did."""
    if instead is not None and instead is not error:
        raise instead from error
