"""Timeout: bound the time of a call, and tell everything inside it how much is left."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextvars import Token, copy_context
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any, ClassVar, Final, Literal

from resilient.blocks import current_owner, holder_of
from resilient.core.checks import Checker, Seconds, refuse
from resilient.core.clock import CLOCK
from resilient.core.deadline import DEADLINE, shorten_deadline
from resilient.core.meters import TimeoutMeter
from resilient.drivers.helper_threads import HelperCall
from resilient.drivers.interrupt_blocks import Block
from resilient.drivers.interrupts import open_block
from resilient.drivers.tasks import TaskBlock, TaskTimeouts
from resilient.errors import TimeoutExceededError
from resilient.fused import Fragment
from resilient.operation import Args, AsyncCall, Call, Kwargs, Operation, Scope, SyncCall
from resilient.policies import straight
from resilient.policies.base import Policy
from resilient.registry import Registry, registry

Interrupt = Literal["auto", "always", "thread", "never", "scope"]

_INTERRUPTS: Final = ("auto", "always", "thread", "never", "scope")


@dataclass(frozen=True, slots=True)
class TimeoutSettings:
    """What the factory was given, checked."""

    seconds: float
    interrupt: Interrupt


class Timeout(Policy):
    """A timeout; made by `timeout(...)`."""

    __slots__ = ("_always", "_arms", "_meter", "_seconds", "_tasks")

    kind: ClassVar[str] = "timeout"

    def __init__(self, name: str | None, settings: TimeoutSettings, registry: Registry) -> None:
        super().__init__(name, settings, registry)
        self._seconds: Final = settings.seconds
        self._arms: Final = settings.interrupt != "never"
        self._always: Final = settings.interrupt == "always"
        self._meter = TimeoutMeter()
        self._tasks: TaskTimeouts | None = None

    @classmethod
    def unregistered(cls, seconds: float, registry: Registry) -> Timeout:
        """A timeout that is part of another policy."""
        return cls(None, TimeoutSettings(seconds, "auto"), registry)

    @property
    def seconds(self) -> float:
        """The time allowed."""
        return self._seconds

    def snapshot(self) -> dict[str, object]:
        """Calls by result, as totals, and bodies that still run on helper threads after their time."""
        return {"seconds": self._seconds, "calls": self._meter.calls(), "orphaned": int(self._meter.orphaned)}

    def count_on(self, older: Timeout, /) -> None:
        self._meter = older._meter

    def name_after(self, policy: Policy) -> None:
        """Report under the name of the policy that this timeout is part of."""
        self._name = policy.name

    def refusal(self, use: str) -> str | None:
        if self._settings.interrupt == "thread" and use != "function":
            return (
                f'{self._shown()} has interrupt="thread", which runs a plain function on a helper thread: '
                f"it can't guard {'a ' if use.startswith('block') else ''}{use}{'' if use.startswith('block') else 's'}"
            )
        if use == "block in a coroutine":
            return (
                "`with timeout(...):` in an async function would time out whatever runs while it is suspended: "
                "write `async with`, or decorate the function"
            )
        if use == "block in a generator":
            return (
                "`with timeout(...):` in a generator would time out whatever runs while it is suspended: "
                "decorate the generator function instead"
            )
        return None

    def wrap_sync(self, call: SyncCall, operation: Operation) -> SyncCall:
        if self._settings.interrupt == "thread":
            return self._wrap_helper_thread(call, operation)
        meter, clock, seconds, arms, always = self._meter, CLOCK, self._seconds, self._arms, self._always
        at_edge = partial(self._expired, operation)

        def guarded(args: Args, kwargs: Kwargs) -> Any:
            at = clock.now() + seconds
            token = shorten_deadline(at)
            try:
                block = None
                if arms:
                    block = open_block(at_edge, always, at, sys._getframe())
                try:
                    result = call(args, kwargs)
                except BaseException as error:
                    if block is not None and self._is_over(block, error):
                        raise self._expired(operation) from error
                    meter.completed += 1
                    raise
                if clock.now() >= at if block is None else self._is_over(block, None):
                    raise self._expired(operation)
                meter.completed += 1
                return result
            finally:
                if token is not None:
                    DEADLINE.reset(token)

        return guarded

    def wrap_async(self, call: AsyncCall, operation: Operation) -> AsyncCall:
        meter, clock, seconds = self._meter, CLOCK, self._seconds
        if not self._arms:
            return self._wrap_unarmed(call, operation)
        timeouts = self._task_timeouts()

        async def guarded(args: Args, kwargs: Kwargs) -> Any:
            block = timeouts.open()  # raises outside a task: no deadline may be left behind then
            token = shorten_deadline(clock.now() + seconds)
            try:
                result = await call(args, kwargs)
            except BaseException as error:
                if block.exit(error):
                    raise self._expired(operation) from error
                meter.completed += 1
                raise
            else:
                block.exit(None)
                meter.completed += 1
                return result
            finally:
                if token is not None:
                    DEADLINE.reset(token)

        return guarded

    def _wrap_unarmed(self, call: AsyncCall, operation: Operation) -> AsyncCall:
        async def guarded(args: Args, kwargs: Kwargs) -> Any:
            at = CLOCK.now() + self._seconds
            token = shorten_deadline(at)
            try:
                result = await call(args, kwargs)
            except BaseException:
                self._meter.completed += 1
                raise
            finally:
                if token is not None:
                    DEADLINE.reset(token)
            if CLOCK.now() >= at:
                raise self._expired(operation)
            self._meter.completed += 1
            return result

        return guarded

    def _wrap_helper_thread(self, call: SyncCall, operation: Operation) -> SyncCall:
        def guarded(args: Args, kwargs: Kwargs) -> Any:
            at = CLOCK.now() + self._seconds
            token = shorten_deadline(at)
            context = copy_context()
            try:
                body = HelperCall(lambda: context.run(call, args, kwargs), self._orphan_ended, current_owner())
            finally:
                if token is not None:
                    DEADLINE.reset(token)
            try:
                in_time = body.wait_until(at)
            except BaseException:
                self._abandon(body)
                self._meter.completed += 1
                raise
            if not in_time and self._abandon(body):
                raise self._expired(operation)
            self._meter.completed += 1
            return body.result()

        return guarded

    def straight(self, operation: Operation, own: Call, inner: Call, asynchronous: bool) -> Fragment | None:
        return straight.of_timeout(self, operation, asynchronous)

    def scope(self, operation: Operation) -> Scope:
        return _TimeoutScope(self, operation)

    def _task_timeouts(self) -> TaskTimeouts:
        if self._tasks is None:
            self._tasks = TaskTimeouts(self._seconds, scoped=self._settings.interrupt == "scope")
        return self._tasks

    def _is_over(self, block: Block, error: BaseException | None) -> bool:
        """Leave the block; it may raise what an enclosing timeout is owed, and then this call was in time."""
        try:
            over = block.exit(error)
        except BaseException:
            self._meter.completed += 1
            raise
        # Elsewhere than on the main thread nothing breaks a blocking call, and it may have been the last thing done.
        return over or (self._always and error is None and CLOCK.now() >= block.deadline)

    def _expired(self, operation: Operation) -> TimeoutExceededError:
        self._meter.timed_out += 1
        self._tell("timed_out", operation.name, {"seconds": self._seconds})
        return TimeoutExceededError(
            f"{self._shown()}: not finished within {self._seconds:g} s. Allow more time, or look at what it was "
            f"waiting for",
            policy=self._name or self.kind,
            seconds=self._seconds,
        )

    def _abandon(self, body: HelperCall) -> bool:
        """Leave the body to itself; False where it has just ended."""
        self._meter.orphaned += 1
        if body.abandon():
            return True
        self._meter.orphaned -= 1
        return False

    def _orphan_ended(self) -> None:
        self._meter.orphaned -= 1


class _TimeoutScope(Scope):
    __slots__ = ("_abandon", "_at", "_block", "_operation", "_task_block", "_timed_out", "_timeout", "_token")

    def __init__(self, timeout: Timeout, operation: Operation) -> None:
        self._timeout = timeout
        self._operation = operation
        self._at = 0.0
        self._timed_out = False
        self._block: Block | None = None
        self._task_block: TaskBlock | None = None
        self._token: Token[float] | None = None
        self._abandon: Callable[[Scope, BaseException], None] = _nothing_to_abandon

    def bind(self, abandon: Callable[[Scope, BaseException], None]) -> None:
        self._abandon = abandon

    def begin(self) -> None:
        self._at = CLOCK.now() + self._timeout._seconds

    def resume(self, frame: FrameType) -> None:
        self._check_time()
        timeout = self._timeout
        self._token = shorten_deadline(self._at)
        # In an ExitStack no handler of the frame tells where the block ends: late bodies raise there, uninterrupted.
        if timeout._arms and holder_of(frame) is frame:
            self._block = open_block(self._at_edge, timeout._always, self._at, frame)

    def resume_async(self) -> None:
        self._check_time()
        self._token = shorten_deadline(self._at)
        if self._timeout._arms:
            self._task_block = block = self._timeout._task_timeouts().block()
            block.enter(max(0.0, self._at - CLOCK.now()))

    def pause(self, error: BaseException | None) -> BaseException | None:
        block, self._block = self._block, None
        try:
            late = block is not None and block.exit(error)
            if not late and error is None and (block is None or self._timeout._always):
                late = CLOCK.now() >= self._at
        finally:
            self._restore_deadline()
        return self._expired() if late else None

    def pause_async(self, error: BaseException | None) -> BaseException | None:
        block, self._task_block = self._task_block, None
        try:
            late = block.exit(error) if block is not None else error is None and CLOCK.now() >= self._at
        finally:
            self._restore_deadline()
        return self._expired() if late else None

    def end(self, error: BaseException | None) -> None:
        self._restore_deadline()
        if not self._timed_out:
            self._timeout._meter.completed += 1

    def _check_time(self) -> None:
        if CLOCK.now() >= self._at:
            raise self._expired()

    def _expired(self) -> TimeoutExceededError:
        self._timed_out = True
        return self._timeout._expired(self._operation)

    def _at_edge(self) -> BaseException:
        """The interrupt arrives where nothing calls `pause` any more: all of the use ends here."""
        self._block = None
        error = self._expired()
        self._abandon(self, error)
        return error

    def _restore_deadline(self) -> None:
        token, self._token = self._token, None
        if token is not None:
            try:
                DEADLINE.reset(token)
            except ValueError:
                pass  # an async generator closed by another task: that task's context never had our deadline


def _nothing_to_abandon(scope: Scope, error: BaseException) -> None: ...


def timeout(
    seconds: Seconds, *, name: str | None = None, interrupt: Interrupt = "auto", registry: Registry = registry
) -> Timeout:
    """Bound the time of a call or block, and set the deadline that everything inside can read.

    Async bodies are cancelled. On the main thread plain code is interrupted by a signal (SIGURG), put off inside the
    standard library's own critical sections; on other threads nothing is thrown into the body: `current_deadline()` is
    there for clients to read, and a body that comes back late raises at its end.

    Args:
        seconds: the time allowed, above 0; seconds or a timedelta.
        name: shared by all who give it; the settings must then be equal. Default: name of the first guarded function.
        interrupt: what ends the body. "auto": as above. "always": Python code on other threads is interrupted, too.
            "thread": a plain function runs on a helper thread, and the caller gets the error in time while the body
            runs on. "never": nothing; a late body raises at its end. "scope": like "auto", but async bodies are
            cancelled through an anyio cancel scope, for bodies that use shielded anyio scopes.
        registry: where the name is registered.

    Raises:
        ConfigurationError: a setting is wrong, or the name has other settings already.

    The guarded code raises `TimeoutExceededError`, which is a `TimeoutError`, when its time is up.

    Example:
        >>> from resilient import timeout
        >>> @timeout(2.0)
        ... def work() -> str:
        ...     return "done"
        >>> work()
        'done'
        >>> with timeout(2.0):
        ...     work()
        'done'
    """
    check = Checker("timeout", name)
    if callable(seconds) or isinstance(seconds, (staticmethod, classmethod)):
        refuse(check.policy, "seconds", seconds, "seconds above 0, as in @timeout(2.0): it has no default")
    check.choice("interrupt", interrupt, _INTERRUPTS)
    settings = TimeoutSettings(check.seconds("seconds", seconds), interrupt)
    check.instance("registry", registry, Registry)
    if name is None:
        return Timeout(None, settings, registry)
    return registry.obtain(Timeout.kind, name, lambda: Timeout(name, settings, registry))
