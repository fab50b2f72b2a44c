"""Failover: several providers of the same answer, asked in order, each behind its own circuit breaker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, ParamSpec, TypeVar

from resilient.core.checks import Checker, Matcher, Seconds, matches, refuse
from resilient.core.clock import CLOCK
from resilient.core.deadline import deadline_at
from resilient.core.meters_fallback import FailoverMeter
from resilient.core.tracing import trace_fallback
from resilient.decorate import bare_async, bare_sync, kind_of, name_of
from resilient.errors import CircuitOpenError, TimeoutExceededError
from resilient.operation import Args, AsyncCall, Kwargs, Operation, Served, SyncCall
from resilient.pipeline import Pipeline
from resilient.policies.base import Policy
from resilient.policies.circuit_breaker import CircuitBreaker, circuit_breaker
from resilient.policies.timeout import Timeout
from resilient.registry import Registry, registry

P = ParamSpec("P")
R = TypeVar("R")


class Providers:
    """Names and functions in their order. As a setting, functions are the same where their qualified names are."""

    __slots__ = ("functions", "names")

    def __init__(self, names: tuple[str, ...], functions: tuple[Callable[..., Any], ...]) -> None:
        self.names = names
        self.functions = functions

    def settings_key(self) -> tuple[tuple[str, str], ...]:
        return tuple(zip(self.names, map(name_of, self.functions), strict=True))

    def __repr__(self) -> str:
        return repr(dict(self.settings_key()))


@dataclass(frozen=True, slots=True)
class FailoverSettings:
    """What the factory was given, checked and in seconds."""

    providers: Providers
    deadline: float | None
    on: Matcher


class Failover(Policy):
    """What stands behind a function that `failover(...)` made: the function that it guards, and those that step in."""

    __slots__ = ("_breakers", "_deadline", "_meter")

    kind: ClassVar[str] = "failover"

    def __init__(self, name: str | None, settings: FailoverSettings, registry: Registry) -> None:
        super().__init__(name, settings, registry)
        names = settings.providers.names
        self._meter = FailoverMeter(names)
        self._breakers = [_breaker(name, provider, settings.on, registry) for provider in names]
        seconds = settings.deadline
        self._deadline = None if seconds is None else Timeout.unregistered(seconds, registry)
        if self._deadline is not None:
            self._deadline.name_after(self)

    def snapshot(self) -> dict[str, object]:
        """Calls by result and by who served them, as totals, and the state of each provider's breaker."""
        names = self._settings.providers.names
        snapshot: dict[str, object] = {
            "calls": self._meter.calls(),
            "served": {name: int(self._meter.served[name]) for name in names},
            "providers": {name: breaker.state.value for name, breaker in zip(names, self._breakers, strict=True)},
        }
        if self._deadline is not None:
            snapshot["deadline"] = self._deadline.snapshot()
        return snapshot

    def claim(self, name: str) -> None:
        super().claim(name)
        for provider, breaker in zip(self._settings.providers.names, self._breakers, strict=True):
            breaker.claim(f"{name}.{provider}")
        if self._deadline is not None:
            self._deadline.name_after(self)

    def count_on(self, older: Failover, /) -> None:
        self._meter = older._meter
        self._meter.add(self._settings.providers.names)

    def refusal(self, use: str) -> str | None:
        if use.startswith("block"):
            return (
                "failover can't be used as a block, because a block has no providers: call what failover(...) returned"
            )
        if use in ("generator", "async generator"):
            return (
                f"{self._shown()}: providers can't be {use} functions, because items already given out can't be taken "
                f"back: let them return all items as a list"
            )
        return None

    def wrap_sync(self, call: SyncCall, operation: Operation) -> SyncCall:
        operation.expect_fallback()
        others = [_stand_in(operation.user_args, bare_sync(other)) for other in self._settings.providers.functions[1:]]
        chain = [
            breaker.wrap_sync(provider, operation)
            for breaker, provider in zip(self._breakers, [call, *others], strict=True)
        ]

        def guarded(args: Args, kwargs: Kwargs) -> Any:
            errors: list[Exception] = []
            try:
                for index, provider in enumerate(chain):
                    if self._is_too_late(index, errors):
                        continue
                    try:
                        result = provider(args, kwargs)
                    except Exception as error:
                        if not self._goes_on_after(error, index):
                            raise
                        errors.append(error)
                    else:
                        return self._served(index, result, errors, operation)
                raise self._all_failed(errors)
            finally:
                errors.clear()

        return guarded if self._deadline is None else self._deadline.wrap_sync(guarded, operation)

    def wrap_async(self, call: AsyncCall, operation: Operation) -> AsyncCall:
        operation.expect_fallback()
        others = [
            _stand_in_async(operation.user_args, bare_async(other)) for other in self._settings.providers.functions[1:]
        ]
        chain = [
            breaker.wrap_async(provider, operation)
            for breaker, provider in zip(self._breakers, [call, *others], strict=True)
        ]

        async def guarded(args: Args, kwargs: Kwargs) -> Any:
            errors: list[Exception] = []
            try:
                for index, provider in enumerate(chain):
                    if self._is_too_late(index, errors):
                        continue
                    try:
                        result = await provider(args, kwargs)
                    except Exception as error:
                        if not self._goes_on_after(error, index):
                            raise
                        errors.append(error)
                    else:
                        return self._served(index, result, errors, operation)
                raise self._all_failed(errors)
            finally:
                errors.clear()

        return guarded if self._deadline is None else self._deadline.wrap_async(guarded, operation)

    def _is_too_late(self, index: int, errors: list[Exception]) -> bool:
        """Has the deadline passed before this provider was asked? Then there is an error for it, too."""
        if index == 0 or CLOCK.now() < deadline_at():
            return False
        provider = self._settings.providers.names[index]
        errors.append(
            TimeoutExceededError(
                f"{self._shown()}: {provider} was not asked, because the deadline had passed",
                policy=self._name or self.kind,
                seconds=self._settings.deadline or 0.0,
            )
        )
        return True

    def _goes_on_after(self, error: Exception, index: int) -> bool:
        if isinstance(error, CircuitOpenError) and error.policy == self._breakers[index].name:
            return True
        try:
            selected = matches(self._settings.on, error)
        except Exception:
            self._meter.failed += 1
            raise
        if not selected:
            self._meter.not_needed += 1
        return selected

    def _served(self, index: int, result: Any, errors: list[Exception], operation: Operation) -> Any:
        provider = self._settings.providers.names[index]
        self._meter.served[provider] += 1
        if index == 0:
            self._meter.not_needed += 1
            return result
        self._meter.applied += 1
        self._tell("fallback_applied", operation.name, {"provider": provider, "error": type(errors[-1]).__name__})
        return Served(result)

    def _all_failed(self, errors: list[Exception]) -> ExceptionGroup[Exception]:
        self._meter.failed += 1
        names = self._settings.providers.names
        shown = ", ".join(f"{name}: {type(error).__name__}" for name, error in zip(names, errors, strict=True))
        return ExceptionGroup(f"{self._shown()}: all providers failed ({shown})", tuple(errors))


def _breaker(name: str | None, provider: str, on: Matcher, registry: Registry) -> CircuitBreaker:
    """The provider's breaker: one that the user made under its name beforehand, or a new one."""
    if name is None:
        return circuit_breaker(on=on, registry=registry)
    full_name = f"{name}.{provider}"
    return registry.find(CircuitBreaker, full_name) or circuit_breaker(full_name, on=on, registry=registry)


def _stand_in(user_args: int, call: SyncCall) -> SyncCall:
    """The call with the user's own arguments only: a `.call` hands its function over as the first."""

    def guarded(args: Args, kwargs: Kwargs) -> Any:
        with trace_fallback():
            return call(args[user_args:], kwargs)

    return guarded


def _stand_in_async(user_args: int, call: AsyncCall) -> AsyncCall:
    async def guarded(args: Args, kwargs: Kwargs) -> Any:
        with trace_fallback():
            return await call(args[user_args:], kwargs)

    return guarded


def failover(
    *providers: tuple[str, Callable[P, R]],
    deadline: Seconds | None = None,
    on: Matcher = Exception,
    name: str | None = None,
    registry: Registry = registry,
) -> Callable[P, R]:
    """A function that asks several providers of the same answer, in order, until one gives it.

    Each provider stands behind a circuit breaker of its own, named `<name>.<provider>`; one that is open is skipped.
    For other settings than the defaults, make the breaker before, under that name.

    Args:
        providers: pairs of a name and a function, the preferred one first; at least two, all of them async or none.
            The function returned takes the same arguments, and looks like the first.
        deadline: seconds for all providers together. None: only enclosing timeouts count.
        on: exceptions after which the next provider is asked, and which the breakers count. Others are raised at once.
        name: shared by all who give it; the settings must then be equal. Default: name of the first function.
        registry: where the names are registered.

    Raises:
        ConfigurationError: a setting is wrong, or the name has other settings already.
        TypeError: the providers are generator functions.

    When all fail, the function raises an `ExceptionGroup` with one error for each provider, in their order. Those of
    skipped ones are `CircuitOpenError`; where the deadline passed before a provider was asked, `TimeoutExceededError`.

    Example:
        >>> from resilient import failover
        >>> def primary(word: str) -> list[str]:
        ...     raise ConnectionError("primary is down")
        >>> def replica(word: str) -> list[str]:
        ...     return [f"all about {word}"]
        >>> search = failover(("primary", primary), ("replica", replica), deadline=2.0, name="search")
        >>> search("otters")
        ['all about otters']
    """
    check = Checker("failover", name)
    check.instance("registry", registry, Registry)
    for provider in providers:
        if not _is_provider(provider):
            refuse(check.policy, "providers", provider, 'pairs of a name and a function, as in ("primary", fetch)')
    names = tuple(provider for provider, _ in providers)
    functions = tuple(function for _, function in providers)
    if len(names) < 2:
        refuse(check.policy, "providers", names, "at least two")
    if len(set(names)) < len(names):
        refuse(check.policy, "providers", names, "names that differ")
    kinds = [kind_of(function) for function in functions]
    if len(set(kinds)) > 1:
        refuse(check.policy, "providers", dict(zip(names, kinds, strict=True)), "all of them async functions, or none")
    settings = FailoverSettings(
        providers=Providers(names, functions),
        deadline=check.optional_seconds("deadline", deadline),
        on=check.matcher("on", on),
    )
    if name is None:
        policy = Failover(None, settings, registry)
    else:
        policy = registry.obtain(Failover.kind, name, lambda: Failover(name, settings, registry))
    guarded: Callable[P, R] = Pipeline(name, (policy,), registry).guard(functions[0])
    return guarded


def _is_provider(provider: object) -> bool:
    return (
        isinstance(provider, tuple)
        and len(provider) == 2
        and isinstance(provider[0], str)
        and bool(provider[0].strip())
        and callable(provider[1])
    )
