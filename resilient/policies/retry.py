"""Retry: call again what failed, after a wait, within bounds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, ClassVar, Literal, NoReturn, Self, overload

from resilient.core.backoff import Backoff
from resilient.core.budget import RetryBudget
from resilient.core.checks import Checker, Matcher, Seconds
from resilient.core.clock import CLOCK
from resilient.core.deadline import deadline_at
from resilient.core.meters import RetryMeter
from resilient.core.retry_after import default_retry_after
from resilient.core.retry_plan import RetryPlan, RetryRun, Stop, add_one_note
from resilient.core.tracing import RETRY_RESULT, UNTRACED, note, trace_retry
from resilient.drivers import tasks, threads
from resilient.errors import RetryExhaustedError
from resilient.fused import Fragment
from resilient.operation import BYPASS, CAP, Args, AsyncCall, Call, Kwargs, Operation, SyncCall, result_in
from resilient.pipeline import F
from resilient.policies import straight
from resilient.policies.attempts import Attempt, Attempts
from resilient.policies.base import Policy
from resilient.policies.retry_settings import DEFAULT_BACKOFF, NO_BLOCK, RetrySettings, check_function, check_settings
from resilient.policies.timeout import Timeout
from resilient.registry import Registry, registry


class Retry(Policy):
    """A retry policy; made by `retry(...)`."""

    __slots__ = ("_meter", "_plan", "_warned", "attempt_timeout")

    kind: ClassVar[str] = "retry"

    def __init__(self, name: str | None, settings: RetrySettings, registry: Registry) -> None:
        super().__init__(name, settings, registry)
        self._plan: RetryPlan = settings
        self._meter = RetryMeter()
        self._warned = False
        seconds = settings.attempt_timeout
        self.attempt_timeout: Timeout | None = None if seconds is None else Timeout.unregistered(seconds, registry)
        self._name_attempt_timeout()

    def snapshot(self) -> dict[str, object]:
        """Calls and attempts by result, and the seconds spent waiting; totals since the start."""
        meter = self._meter
        snapshot: dict[str, object] = {"calls": meter.calls(), "attempts": meter.attempts()}
        snapshot["backoff_seconds"] = float(meter.waited)
        if self._plan.budget is not None:
            snapshot["budget"] = self._plan.budget.snapshot()
        if self.attempt_timeout is not None:
            snapshot["attempt_timeout"] = self.attempt_timeout.snapshot()
        return snapshot

    def claim(self, name: str) -> None:
        super().claim(name)
        self._name_attempt_timeout()

    def registered(self, name: str) -> Self:
        policy = super().registered(name)
        policy._name_attempt_timeout()
        return policy

    def _name_attempt_timeout(self) -> None:
        if self.attempt_timeout is not None:
            self.attempt_timeout.name_after(self)

    def count_on(self, older: Retry, /) -> None:
        self._meter = older._meter

    def renew(self, newer: Retry, /) -> None:
        # The budget stays: functions guarded before go on paying into it.
        self._settings = replace(newer._settings, budget=self._plan.budget)
        self._plan = self._settings

    def refusal(self, use: str) -> str | None:
        if use == "block":
            return NO_BLOCK
        if use in ("generator", "async generator"):
            return f"{self._shown()} can't guard {use} functions: items already given out can't be taken back"
        return None if self.attempt_timeout is None else self.attempt_timeout.refusal(use)

    def __enter__(self) -> NoReturn:
        raise TypeError(NO_BLOCK)

    def __aenter__(self) -> NoReturn:
        raise TypeError(NO_BLOCK)

    def __iter__(self) -> Iterator[Attempt]:
        """Attempts for a loop: `for attempt in retry(...):` with `with attempt:` around the body."""
        return Attempts(self)

    def __aiter__(self) -> AsyncIterator[Attempt]:
        """The same for `async for`; the block inside is `with attempt:` too."""
        return Attempts(self)

    def wrap_sync(self, call: SyncCall, operation: Operation) -> SyncCall:
        if self.attempt_timeout is not None:
            call = self.attempt_timeout.wrap_sync(call, operation)
        meter, clock = self._meter, CLOCK
        budget, asks_result = self._plan.budget, self._plan.on_result is not None

        def guarded(args: Args, kwargs: Kwargs) -> Any:
            started = clock.now()
            if budget is not None:
                budget.deposit(started)
            try:
                result = call(args, kwargs)
            except Exception as error:  # noqa: BLE001 - which errors are retried is decided out of line
                failure = error
            else:
                if asks_result and self._unwanted(result):
                    return self._again(call, args, kwargs, operation, self.new_run(started), None, result)
                meter.first_try += 1
                return result
            try:
                return self._again(call, args, kwargs, operation, self.new_run(started), failure, None)
            finally:
                del failure

        return guarded

    def wrap_async(self, call: AsyncCall, operation: Operation) -> AsyncCall:
        if self.attempt_timeout is not None:
            call = self.attempt_timeout.wrap_async(call, operation)
        meter, clock = self._meter, CLOCK
        budget, asks_result = self._plan.budget, self._plan.on_result is not None

        async def guarded(args: Args, kwargs: Kwargs) -> Any:
            started = clock.now()
            if budget is not None:
                budget.deposit(started)
            try:
                result = await call(args, kwargs)
            except Exception as error:  # noqa: BLE001 - which errors are retried is decided out of line
                failure = error
            else:
                if asks_result and self._unwanted(result):
                    return await self._again_async(call, args, kwargs, operation, self.new_run(started), None, result)
                meter.first_try += 1
                return result
            try:
                return await self._again_async(call, args, kwargs, operation, self.new_run(started), failure, None)
            finally:
                del failure

        return guarded

    def straight(self, operation: Operation, own: Call, inner: Call, asynchronous: bool) -> Fragment | None:
        return straight.of_retry(self, inner, asynchronous)

    def _again(
        self,
        call: SyncCall,
        args: Args,
        kwargs: Kwargs,
        operation: Operation,
        run: RetryRun,
        error: Exception | None,
        result: Any,
    ) -> Any:
        part = UNTRACED
        try:
            while True:
                delay = self.next_delay(run, operation, error, result)
                part.end("failure" if delay is Stop.NOT_RETRYABLE else "retryable_failure")
                if isinstance(delay, Stop):
                    return self.give_up(run, operation, delay, error, result)
                self.wait(delay)
                if self.is_too_late(run):
                    return self.give_up(run, operation, Stop.LATE, error, result)
                part = trace_retry(run.attempts, delay)
                try:
                    with part:
                        result, error = call(args, kwargs), None
                except Exception as raised:  # noqa: BLE001 - see above
                    result, error = None, raised
                    continue
                if not self._unwanted(result):
                    part.end("success")
                    self.succeeded(run.attempts)
                    return result
        finally:
            part.end("failure")
            del error

    async def _again_async(
        self,
        call: AsyncCall,
        args: Args,
        kwargs: Kwargs,
        operation: Operation,
        run: RetryRun,
        error: Exception | None,
        result: Any,
    ) -> Any:
        part = UNTRACED
        try:
            while True:
                delay = self.next_delay(run, operation, error, result)
                part.end("failure" if delay is Stop.NOT_RETRYABLE else "retryable_failure")
                if isinstance(delay, Stop):
                    return self.give_up(run, operation, delay, error, result)
                await self.wait_async(delay)
                if self.is_too_late(run):
                    return self.give_up(run, operation, Stop.LATE, error, result)
                part = trace_retry(run.attempts, delay)
                try:
                    with part:
                        result, error = await call(args, kwargs), None
                except Exception as raised:  # noqa: BLE001 - see above
                    result, error = None, raised
                    continue
                if not self._unwanted(result):
                    part.end("success")
                    self.succeeded(run.attempts)
                    return result
        finally:
            part.end("failure")
            del error

    def new_run(self, started: float) -> RetryRun:
        plan = self._plan
        cap = 1 if BYPASS.active else CAP.attempts
        if cap is not None:
            plan = replace(plan, attempts=cap if plan.attempts is None else min(cap, plan.attempts))
        return RetryRun(plan, started)

    def next_delay(self, run: RetryRun, operation: Operation, error: Exception | None, result: object) -> float | Stop:
        """What comes after an attempt that gave this error, or this unwanted result."""
        now = CLOCK.now()
        failed = run.attempts
        limit = deadline_at()
        delay = run.after_result(result_in(result), now, limit) if error is None else run.after_error(error, now, limit)
        if not isinstance(delay, Stop):
            self._meter.retries += 1
            data = {"attempt": failed, "delay": delay, "error": None if error is None else type(error).__name__}
            self._tell("retry_scheduled", operation.name, data, now)
        return delay

    def wait(self, delay: float) -> None:
        if not self._warned:
            self._warned = threads.warn_if_loop_runs(self._shown(), "`async def`, `async for` or call_async")
        started = CLOCK.now()
        threads.sleep(delay)
        waited = CLOCK.now() - started
        self._meter.waited += waited

    async def wait_async(self, delay: float) -> None:
        started = CLOCK.now()
        await tasks.sleep(delay)
        waited = CLOCK.now() - started
        self._meter.waited += waited

    def succeeded(self, attempts: int) -> None:
        self._meter.succeeded(attempts)
        if attempts > 1:
            note(RETRY_RESULT, "recovered")

    def is_too_late(self, run: RetryRun) -> bool:
        """Has the wait itself taken so long that the deadline has passed? Then what it waited for is no attempt."""
        if CLOCK.now() < deadline_at():
            return False
        run.attempts -= 1
        return True

    def give_up(self, run: RetryRun, operation: Operation, stop: Stop, error: Exception | None, result: Any) -> Any:
        """Raise the error, with its note; or hand back the result that nobody wanted."""
        note = self.conclude(run, operation, stop, error)
        if error is not None:
            try:
                raise error
            finally:
                del error
        if run.plan.on_exhausted == "raise":
            raise RetryExhaustedError(
                f"{note}; the last result is in .result",
                policy=self._name or self.kind,
                result=result_in(result),
                attempts=run.attempts,
            )
        return result

    def conclude(self, run: RetryRun, operation: Operation, stop: Stop, error: Exception | None) -> str:
        """Count why it stopped, tell it, and note it on the error."""
        self._meter.gave_up(stop.result, late=stop is Stop.LATE)
        note(RETRY_RESULT, stop.result)
        now = CLOCK.now()
        text = run.note(stop, now, self._name or self.kind)
        if stop is not Stop.NOT_RETRYABLE:
            kind = None if error is None else type(error).__name__
            data = {"attempts": run.attempts, "reason": stop.reason, "result": stop.result, "error": kind}
            self._tell("retry_exhausted", operation.name, data, now)
        if error is not None and (stop is not Stop.NOT_RETRYABLE or run.attempts > 1):
            add_one_note(error, text)
        return text

    def _unwanted(self, result: Any) -> bool:
        asked = self._plan.on_result
        return asked is not None and bool(asked(result_in(result)))

    def start(self) -> tuple[Operation, RetryRun]:
        """Begin a loop of attempts: the operation that it counts in, and its run."""
        now = CLOCK.now()
        if self._plan.budget is not None:
            self._plan.budget.deposit(now)
        return self._pipeline().loop_operation(), self.new_run(now)


@overload
def retry(function: F, /) -> F: ...
@overload
def retry(
    *,
    on: Matcher = Exception,
    on_result: Callable[[Any], object] | None = None,
    attempts: int | None = 3,
    backoff: Backoff | Seconds | Iterable[Seconds] | Callable[[int], Seconds] = DEFAULT_BACKOFF,
    max_duration: Seconds | None = None,
    attempt_timeout: Seconds | None = None,
    retry_after: Callable[[Any], object] | None = default_retry_after,
    retry_after_max: Seconds = 60.0,
    budget: RetryBudget | None = None,
    on_exhausted: Literal["return", "raise"] = "return",
    name: str | None = None,
    registry: Registry = ...,
) -> Retry: ...
def retry(
    function: Any = None,
    /,
    *,
    on: Matcher = Exception,
    on_result: Callable[[Any], object] | None = None,
    attempts: int | None = 3,
    backoff: Backoff | Seconds | Iterable[Seconds] | Callable[[int], Seconds] = DEFAULT_BACKOFF,
    max_duration: Seconds | None = None,
    attempt_timeout: Seconds | None = None,
    retry_after: Callable[[Any], object] | None = default_retry_after,
    retry_after_max: Seconds = 60.0,
    budget: RetryBudget | None = None,
    on_exhausted: Literal["return", "raise"] = "return",
    name: str | None = None,
    registry: Registry = registry,
) -> Any:
    """Call again what failed, after a wait that grows, within bounds of number, time and budget.

    Only for functions that are safe to call twice. When it gives up it raises the last exception itself, with a note
    that tells how many attempts were made, in what time, and why it stopped.

    Args:
        on: exceptions to retry. A predicate may return a number: the seconds to wait. Rejections by inner policies
            (`RejectedError`) are retried only where `on` is or holds a class of rejections.
        on_result: tells whether a result is to be retried.
        attempts: how many in all, the first included; None: no limit, which needs `max_duration`.
        backoff: the waits: seconds, an iterable of seconds (the last repeats), a function `(attempt) -> seconds`, or
            what `resilient.backoff` makes. Default: `exponential()`, from 0.1 s to 30 s with full jitter.
        max_duration: no attempt starts later than so many seconds after the first.
        attempt_timeout: seconds that each attempt may take.
        retry_after: reads the wait that a server asks for from an exception or result; None: don't ask.
        retry_after_max: give up where the server asks for more seconds than this.
        budget: shared with other retry and hedge policies; when it is spent nothing is retried.
        on_exhausted: "return" the last unwanted result, or "raise" `RetryExhaustedError`.
        name: shared by all who give it; the settings must then be equal. Default: name of the first guarded function.
        registry: where the name is registered.

    Raises:
        ConfigurationError: a setting is wrong, two contradict each other, or the name has other settings already.

    Example:
        >>> from resilient import retry
        >>> @retry(on=ConnectionError, attempts=5, max_duration=10)
        ... def fetch() -> str:
        ...     return "fetched"
        >>> fetch()
        'fetched'
    """
    if function is not None:
        check_function(function)
    check = Checker("retry", name)
    settings = check_settings(
        check,
        on=on,
        on_result=on_result,
        attempts=attempts,
        backoff=backoff,
        max_duration=max_duration,
        attempt_timeout=attempt_timeout,
        retry_after=retry_after,
        retry_after_max=retry_after_max,
        budget=budget,
        on_exhausted=on_exhausted,
    )
    check.instance("registry", registry, Registry)
    made = Retry(name, settings, registry)
    policy = made if name is None else registry.obtain(Retry.kind, name, lambda: made)
    return policy if function is None else policy(function)
