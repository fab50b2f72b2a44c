"""Chaos: a share of the calls is late, fails or is answered by somebody else, on purpose."""

from __future__ import annotations

from collections.abc import Callable
from types import CoroutineType
from typing import Any, ClassVar, Final

from resilient.chaos.settings import (
    NOT_GIVEN,
    ChaosSettings,
    Dice,
    ErrorMix,
    ErrorSource,
    Flag,
    Latency,
    check_error,
    check_flag,
    check_latency,
    check_rate,
    check_seed,
)
from resilient.core.checks import Checker, contradiction
from resilient.core.clock import CLOCK
from resilient.core.deadline import deadline_at
from resilient.core.meters import Meter, number
from resilient.decorate import kind_of, name_of
from resilient.drivers import tasks, threads
from resilient.operation import Args, AsyncCall, Kwargs, Misuse, Operation, Scope, SyncCall
from resilient.policies.base import Policy
from resilient.registry import Registry, registry

# A wait that would cross the deadline ends so many seconds after it: an enclosing timeout that can end it comes first.
_PAST_DEADLINE: Final = 0.05


class ChaosMeter(Meter):
    """Calls that were hit and those that passed, and the faults they were hit by."""

    __slots__ = ("error", "hit", "latency", "passed", "result")

    def __init__(self) -> None:
        self.passed = number()
        self.hit = number()
        self.latency = number()
        self.error = number()
        self.result = number()

    def calls(self) -> dict[str, int]:
        return {"passed": int(self.passed), "hit": int(self.hit)}

    def faults(self) -> dict[str, int]:
        return {"latency": int(self.latency), "error": int(self.error), "result": int(self.result)}


class Chaos(Policy):
    """A policy that injects faults; made by `chaos(...)`."""

    __slots__ = ("_dice", "_enabled", "_meter", "_warned")

    kind: ClassVar[str] = "chaos"

    def __init__(self, name: str | None, settings: ChaosSettings, registry: Registry) -> None:
        super().__init__(name, settings, registry)
        self._enabled = settings.enabled
        self._dice = Dice(settings.seed)
        self._meter = ChaosMeter()
        self._warned = False

    @property
    def enabled(self) -> bool:
        """Are calls hit now? Set it to True, False or a function that tells; calls already hit go on as they are.

        Raises:
            ConfigurationError: it is set to something else.
        """
        flag = self._enabled
        return bool(flag() if callable(flag) else flag)

    @enabled.setter
    def enabled(self, value: Flag) -> None:
        self._enabled = check_flag(Checker(self.kind, self._name), value)

    def restart(self) -> None:
        """Begin the sequence of the seed anew."""
        self._dice.restart()

    def snapshot(self) -> dict[str, object]:
        """Whether it is on ("function" where one decides), the rate, and calls and faults as totals."""
        return {
            "enabled": "function" if callable(self._enabled) else self._enabled,
            "rate": self._settings.rate,
            "calls": self._meter.calls(),
            "faults": self._meter.faults(),
        }

    def count_on(self, older: Chaos, /) -> None:
        self._meter = older._meter

    def renew(self, newer: Chaos, /) -> None:
        if self._enabled is self._settings.enabled:
            self._enabled = newer._enabled
        super().renew(newer)

    def refusal(self, use: str) -> str | None:
        result = self._settings.result
        if result is NOT_GIVEN:
            return None
        if use.startswith("block"):
            return "chaos(result=...) can't be used as a block, because a block has no result to replace: decorate"
        if use in ("generator", "async generator"):
            return f"{self._shown()} has result=, which can't stand in for the items of {use} functions"
        if use == "function" and callable(result) and kind_of(result) == "async function":
            return self._needs_async(result)
        return None

    def _needs_async(self, result: Callable[..., Any]) -> str:
        return (
            f"{self._shown()}: result={name_of(result)} is async, but the guarded function is not, so nobody would "
            f"await it: give a plain function, or guard an `async def`"
        )

    def wrap_sync(self, call: SyncCall, operation: Operation) -> SyncCall:
        def guarded(args: Args, kwargs: Kwargs) -> Any:
            if not self._hits():
                return call(args, kwargs)
            self._wait(self._draw_wait(operation))
            self._fail(operation)
            if self._settings.result is NOT_GIVEN:
                return call(args, kwargs)
            result = self._answer(operation)
            if type(result) is CoroutineType:
                result.close()
                raise Misuse(TypeError(self._needs_async(self._settings.result)))
            return result

        return guarded

    def wrap_async(self, call: AsyncCall, operation: Operation) -> AsyncCall:
        async def guarded(args: Args, kwargs: Kwargs) -> Any:
            if not self._hits():
                return await call(args, kwargs)
            await self._wait_async(self._draw_wait(operation))
            self._fail(operation)
            if self._settings.result is NOT_GIVEN:
                return await call(args, kwargs)
            result = self._answer(operation)
            if callable(self._settings.result) and hasattr(type(result), "__await__"):
                result = await result
            return result

        return guarded

    def scope(self, operation: Operation) -> Scope:
        return _ChaosScope(self, operation)

    def _hits(self) -> bool:
        """Is this call hit?"""
        if self.enabled and self._dice.hits(self._settings.rate):
            self._meter.hit += 1
            return True
        self._meter.passed += 1
        return False

    def _draw_wait(self, operation: Operation) -> float:
        """Seconds by which this call is late."""
        delay: float = self._settings.draw_latency(self._dice)
        if delay <= 0.0:
            return 0.0
        now = CLOCK.now()
        self._meter.latency += 1
        self._tell("fault_injected", operation.name, {"fault": "latency", "delay": delay, "error": None}, now)
        return min(delay, max(0.0, deadline_at() - now) + _PAST_DEADLINE)

    def _wait(self, delay: float) -> None:
        if delay > 0.0:
            if not self._warned:
                self._warned = threads.warn_if_loop_runs(self._shown(), "`async with`, `async def` or call_async")
            threads.sleep(delay)

    async def _wait_async(self, delay: float) -> None:
        if delay > 0.0:
            await tasks.sleep(delay)

    def _fail(self, operation: Operation) -> None:
        errors = self._settings.error
        error = None if errors is None else errors.make(self._dice)
        if error is None:
            return
        self._meter.error += 1
        data = {"fault": "error", "delay": None, "error": type(error).__name__}
        self._tell("fault_injected", operation.name, data)
        note = f"injected by {self._shown()}"
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)
        raise error

    def _answer(self, operation: Operation) -> Any:
        result = self._settings.result
        self._meter.result += 1
        self._tell("fault_injected", operation.name, {"fault": "result", "delay": None, "error": None})
        return result() if callable(result) else result


class _ChaosScope(Scope):
    __slots__ = ("_chaos", "_operation")

    def __init__(self, chaos: Chaos, operation: Operation) -> None:
        self._chaos = chaos
        self._operation = operation

    def begin(self) -> None:
        chaos = self._chaos
        if chaos._hits():
            chaos._wait(chaos._draw_wait(self._operation))
            chaos._fail(self._operation)

    async def begin_async(self) -> None:
        chaos = self._chaos
        if chaos._hits():
            await chaos._wait_async(chaos._draw_wait(self._operation))
            chaos._fail(self._operation)


def chaos(
    name: str | None = None,
    *,
    latency: Latency | None = None,
    error: ErrorSource | ErrorMix | None = None,
    result: object = NOT_GIVEN,
    rate: float = 1.0,
    enabled: Flag = True,
    seed: int | str | None = None,
    registry: Registry = registry,
) -> Chaos:
    """Inject faults into a share of the calls, to see what the policies around make of them.

    Its place is the innermost of a pipeline: whatever is around takes the fault for one of the function's own. A call
    that is hit is late first, and then fails or is answered in the function's place; where it is only late, the
    function is called afterwards. For an error in some calls and an answer in others use two of these policies.

    Args:
        name: shared by all who give it; the settings must then be equal. Default: name of the first guarded function.
        latency: seconds by which calls are late, at least 0; a pair `(lowest, highest)` to draw from evenly; or a
            function that gives seconds. The wait ends early if the call is cancelled or its time is up.
        error: what is raised. An exception, of which each call gets a copy; a class; or a function that gives one of
            the two, or None for no error this time. Or a list of these, each alone (weight 1) or as `(error, weight)`.
        result: what is returned, any value; or what this function returns (async functions may be guarded with async
            ones). Not for blocks and generators.
        rate: share of the calls that are hit, 0 to 1.
        enabled: False lets all calls pass; a function is asked at each call. Settable later: `policy.enabled = False`.
        seed: a whole number or a string. With the same seed the same calls are hit, counted from the first, in the
            same way. Default: by chance.
        registry: where the name is registered.

    Raises:
        ConfigurationError: a setting is wrong, both `error` and `result` are given or nothing at all to inject, or the
            name has other settings already.

    Errors that it raises carry a note: "injected by chaos 'payments'".

    Example:
        >>> from resilient import pipeline, retry
        >>> from resilient.chaos import chaos
        >>> storm = chaos(error=ConnectionError("reset by peer"), rate=0.5, seed=7)
        >>> @pipeline(retry(attempts=5, backoff=0), storm)
        ... def ask() -> str:
        ...     return "an answer"
        >>> [ask() for _ in range(3)]
        ['an answer', 'an answer', 'an answer']
        >>> storm.snapshot()["faults"]["error"] > 0
        True
    """
    check = Checker("chaos", name)
    if error is not None and result is not NOT_GIVEN:
        contradiction(check.policy, "error and result", (error, result), "give one of the two, or use two policies")
    if latency is None and error is None and result is NOT_GIVEN:
        contradiction(
            check.policy, "latency, error and result", (latency, error, result), "give at least one of the three"
        )
    settings = ChaosSettings(
        latency=check_latency(check, latency),
        error=check_error(check, error),
        result=result,
        rate=check_rate(check, rate),
        enabled=check_flag(check, enabled),
        seed=check_seed(check, seed),
    )
    check.instance("registry", registry, Registry)
    if name is None:
        return Chaos(None, settings, registry)
    return registry.obtain(Chaos.kind, name, lambda: Chaos(name, settings, registry))
