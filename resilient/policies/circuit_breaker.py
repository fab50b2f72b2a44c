"""Circuit breaker: stop calling what is known to fail, and find out when it is back."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from math import inf
from typing import Any, ClassVar, overload

from resilient.core.checks import Checker, Matcher, Seconds, key_of, refuse_keyed
from resilient.core.circuit import Circuit, Ticket
from resilient.core.circuit_keys import KeyedCircuits
from resilient.core.circuit_plan import CircuitState, Transition, why_rejected
from resilient.core.clock import CLOCK
from resilient.core.events import Outbox
from resilient.core.meters import CircuitBreakerMeter
from resilient.errors import CircuitOpenError
from resilient.fused import Fragment
from resilient.operation import Args, AsyncCall, Call, Kwargs, Operation, Scope, SyncCall, result_in
from resilient.pipeline import F
from resilient.policies import straight
from resilient.policies.base import Policy
from resilient.policies.circuit_breaker_settings import CircuitBreakerSettings, check_settings
from resilient.policies.circuit_breaker_use import CircuitScope
from resilient.registry import Registry, registry


class CircuitBreaker(Policy):
    """A circuit breaker; made by `circuit_breaker(...)`."""

    __slots__ = ("_circuit", "_keys", "_meter", "_outbox")

    kind: ClassVar[str] = "circuit_breaker"

    def __init__(self, name: str | None, settings: CircuitBreakerSettings, registry: Registry) -> None:
        super().__init__(name, settings, registry)
        self._meter = CircuitBreakerMeter()
        self._circuit = circuit = Circuit(settings, CLOCK.now())
        self._keys = None if settings.key is None else KeyedCircuits(circuit, settings.max_keys, CLOCK.now)
        self._outbox = Outbox(circuit.transitions, self._tell_transition)
        circuit.published = self._outbox.flush

    @property
    def state(self) -> CircuitState:
        """The state in force; with `key`, the worst of any. Open it stays until the first call after the break."""
        return self._circuit.period.state if self._keys is None else self._keys.state

    def snapshot(self) -> dict[str, object]:
        """State, rates and counts of the window; `rejected` is a total. Takes no lock and changes nothing."""
        now = CLOCK.now()
        circuits = self._circuit if self._keys is None else self._keys
        report = circuits.report(now)
        snapshot: dict[str, object] = {
            **report.plain(),
            "rejected": int(self._meter.rejected),
            "last_error": report.last_error,
            "totals": self._meter.calls(),
            "transitions": {
                f"{before._value_}->{after._value_}": count
                for (before, after), count in self._circuit.transition_counts.copy().items()
            },
            "time_in_state": {state._value_: spent for state, spent in circuits.time_by_state(now).items()},
        }
        if self._keys is not None:
            snapshot["keys"] = self._keys.unhealthy(now)
        return snapshot

    def trip(self, duration: Seconds | None = None) -> None:
        """Open the circuit now, for `duration` seconds (default: its `open_duration`), whatever its state.

        Raises:
            ConfigurationError: the duration is negative or no duration.
        """
        seconds = Checker(self.kind, self.name).optional_seconds("duration", duration, zero=True)
        self._circuit.trip(CLOCK.now(), seconds)

    def force_open(self) -> None:
        """Reject every call until `reset`, `disable` or `trip`."""
        self._circuit.force_open(CLOCK.now())

    def disable(self) -> None:
        """Let every call through, still counting, until `reset`, `force_open` or `trip`."""
        self._circuit.disable(CLOCK.now())

    def reset(self) -> None:
        """Close the circuit and forget what it has counted in its window; with `key`, that of every key."""
        circuits = self._circuit if self._keys is None else self._keys
        circuits.reset(CLOCK.now())

    def count_on(self, older: CircuitBreaker, /) -> None:
        self._meter = older._meter

    def renew(self, newer: CircuitBreaker, /) -> None:
        super().renew(newer)
        self._circuit.plan = newer._circuit.plan
        if self._keys is not None:
            self._keys.replan(newer._circuit.plan)

    def refusal(self, use: str) -> str | None:
        return None if self._keys is None else refuse_keyed(self._shown(), use)

    def wrap_sync(self, call: SyncCall, operation: Operation) -> SyncCall:
        if self._keys is None:
            return self._guard(self._circuit, call, operation)

        def keyed(args: Args, kwargs: Kwargs) -> Any:
            return self._guard(self._circuit_of(args, kwargs, operation), call, operation)(args, kwargs)

        return keyed

    def wrap_async(self, call: AsyncCall, operation: Operation) -> AsyncCall:
        if self._keys is None:
            return self._guard_async(self._circuit, call, operation)

        async def keyed(args: Args, kwargs: Kwargs) -> Any:
            return await self._guard_async(self._circuit_of(args, kwargs, operation), call, operation)(args, kwargs)

        return keyed

    def straight(self, operation: Operation, own: Call, inner: Call, asynchronous: bool) -> Fragment | None:
        return straight.of_circuit_breaker(self, own)

    def scope(self, operation: Operation) -> Scope:
        return CircuitScope(self, operation)

    def _circuit_of(self, args: Args, kwargs: Kwargs, operation: Operation) -> Circuit:
        assert self._keys is not None
        key = key_of(self._settings.key, args[operation.user_args :], kwargs, self._shown)
        return self._keys.of(key)

    def _guard(self, circuit: Circuit, call: SyncCall, operation: Operation) -> SyncCall:
        meter, clock = self._meter, CLOCK

        def examined(args: Args, kwargs: Kwargs) -> Any:
            started = clock.now()
            ticket = self._admit(circuit, operation)
            try:
                result = call(args, kwargs)
            except BaseException as error:
                self._failed(ticket, error, started)
                raise
            self._returned(ticket, result, started)
            return result

        if self._settings.examines_success:
            return examined

        def guarded(args: Args, kwargs: Kwargs) -> Any:
            period = circuit.period
            if period.open_to_all is False:
                return examined(args, kwargs)
            try:
                result = call(args, kwargs)
            except BaseException as error:
                self._failed(period, error, None)
                raise
            period.success(0.0)
            meter.success += 1
            return result

        return guarded

    def _guard_async(self, circuit: Circuit, call: AsyncCall, operation: Operation) -> AsyncCall:
        meter, clock = self._meter, CLOCK

        async def examined(args: Args, kwargs: Kwargs) -> Any:
            started = clock.now()
            ticket = self._admit(circuit, operation)
            try:
                result = await call(args, kwargs)
            except BaseException as error:
                self._failed(ticket, error, started)
                raise
            self._returned(ticket, result, started)
            return result

        if self._settings.examines_success:
            return examined

        async def guarded(args: Args, kwargs: Kwargs) -> Any:
            period = circuit.period
            if period.open_to_all is False:
                return await examined(args, kwargs)
            try:
                result = await call(args, kwargs)
            except BaseException as error:
                self._failed(period, error, None)
                raise
            period.success(0.0)
            meter.success += 1
            return result

        return guarded

    def _admit(self, circuit: Circuit, operation: Operation) -> Ticket:
        now = CLOCK.now()
        ticket = circuit.admit(now)
        if ticket is not None:
            return ticket
        raise self.rejection(circuit, operation, now)

    def rejection(self, circuit: Circuit, operation: Operation, now: float) -> CircuitOpenError:
        """Count a rejection and tell of it; the error to raise."""
        self._meter.rejected += 1
        period, last_error = circuit.period, circuit.last_error
        left = period.until - now
        retry_after = None if left == inf else max(0.0, left)
        tell = self._hearing("call_rejected", now)
        if tell is not None:
            data = {"state": period.state.value, "retry_after": retry_after, "last_error": last_error}
            tell(operation.name, data)
        name = self._name or self.kind
        error = CircuitOpenError.__new__(CircuitOpenError)
        # All at once, and without the four constructors: this is half of what a rejection costs.
        error.__dict__ = {
            "policy": name,
            "retry_after": retry_after,
            "last_error": last_error,
            "_why": (why_rejected, (name, circuit is not self._circuit, period.state, retry_after, last_error)),
        }
        return error

    def refusal_counted(self, circuit: Circuit, operation: Operation, started: float) -> CircuitOpenError:
        """The same where nobody else counts the call."""
        error = self.rejection(circuit, operation, started)
        operation.meter.raised(error, CLOCK.now() - started)
        return error

    def _returned(self, ticket: Ticket, result: object, started: float) -> None:
        try:
            unwanted = self._settings.on_result
            failure = unwanted is not None and bool(unwanted(result_in(result)))
        except BaseException:
            self._no_verdict(ticket)
            raise
        self._record(ticket, failure, started)

    def _failed(self, ticket: Ticket, error: BaseException, started: float | None) -> None:
        try:
            verdict = self._settings.verdict(error)
        except BaseException:
            self._no_verdict(ticket)
            raise
        if verdict is None:
            self._no_verdict(ticket)
            return
        self._record(ticket, verdict, started, type(error).__name__ if verdict else None)

    def _no_verdict(self, ticket: Ticket) -> None:
        self._meter.ignored += 1
        ticket.neutral()

    def _record(self, ticket: Ticket, failure: bool, started: float | None, error: str | None = None) -> None:
        now = CLOCK.now()
        limit = self._settings.slow_call_duration
        slow = limit is not None and started is not None and now - started >= limit
        if failure:
            self._meter.failure += 1
        elif slow:
            self._meter.slow += 1
        else:
            self._meter.success += 1
            ticket.success(now)
            return
        ticket.bad(now, failure=failure, slow=slow, error=error)

    def _tell_transition(self, transition: Transition) -> None:
        if self._keys is not None:
            self._keys.note_state(transition.at)
        self._tell(
            "circuit_state_changed",
            None,
            {
                "from": transition.before.value,
                "to": transition.after.value,
                "reason": transition.reason,
                "retry_after": transition.retry_after,
                "last_error": transition.last_error,
            },
            transition.at,
        )


@overload
def circuit_breaker(function: F, /) -> F: ...
@overload
def circuit_breaker(
    name: str | None = None,
    *,
    consecutive_failures: int | None = None,
    failure_rate: float | None = None,
    slow_call_rate: float | None = None,
    slow_call_duration: Seconds | None = None,
    window_calls: int | None = None,
    window_duration: Seconds | None = None,
    minimum_calls: int | None = None,
    open_duration: Seconds | Callable[[int], float] = 30.0,
    half_open_calls: int = 1,
    success_threshold: int | None = None,
    half_open_failure_rate: float | None = None,
    half_open_timeout: Seconds | None = None,
    on: Matcher = Exception,
    ignore: Matcher = (),
    on_result: Callable[[Any], object] | None = None,
    key: Callable[..., Hashable] | None = None,
    max_keys: int = 1000,
    registry: Registry = ...,
) -> CircuitBreaker: ...
def circuit_breaker(
    name: Any = None,
    *,
    consecutive_failures: int | None = None,
    failure_rate: float | None = None,
    slow_call_rate: float | None = None,
    slow_call_duration: Seconds | None = None,
    window_calls: int | None = None,
    window_duration: Seconds | None = None,
    minimum_calls: int | None = None,
    open_duration: Seconds | Callable[[int], float] = 30.0,
    half_open_calls: int = 1,
    success_threshold: int | None = None,
    half_open_failure_rate: float | None = None,
    half_open_timeout: Seconds | None = None,
    on: Matcher = Exception,
    ignore: Matcher = (),
    on_result: Callable[[Any], object] | None = None,
    key: Callable[..., Hashable] | None = None,
    max_keys: int = 1000,
    registry: Registry = registry,
) -> Any:
    """Stop calling what fails; let a few calls through after a while to see whether it is back.

    Closed, it counts. It opens on failures in a row, on a share of failures or on a share of slow calls, whichever
    comes first; all thresholds are inclusive. Open, it rejects calls at once with `CircuitOpenError`. After
    `open_duration` the next call makes it half-open: a few probes pass, and decide whether it closes or opens again.

    Args:
        name: shared by all who give it; the settings must then be equal. Default: name of the first guarded function.
        consecutive_failures: opens after so many failures in a row, at least 1. Default: 5 when no rate is given.
        failure_rate: opens when this share of the calls in the window failed, above 0 and at most 1.
        slow_call_rate: opens when this share of the calls in the window was slow; needs `slow_call_duration`. A slow
            probe then opens the circuit again, as a failed one does.
        slow_call_duration: seconds from which on a call counts as slow.
        window_calls: the window is the last so many calls, at least 1. Default: 100.
        window_duration: the window is the last so many seconds; not together with `window_calls`.
        minimum_calls: rates are unknown below so many calls in the window. Default: 10, or the size of the window.
        open_duration: seconds that the circuit stays open, or a function of how often in a row it has opened.
        half_open_calls: so many probes at once, at least 1.
        success_threshold: closes after so many successful probes. Default: `half_open_calls`.
        half_open_failure_rate: judge `half_open_calls` probes together: at this share of failures it opens again.
        half_open_timeout: seconds after which a probe that has not come back opens it again. Default: `open_duration`.
        on: exceptions that are failures; others count as successes.
        ignore: exceptions that are neither.
        on_result: tells whether a result is a failure.
        key: a function of the call's arguments: each key has a circuit of its own. Not for blocks and generators.
            `trip`, `force_open` and `disable` move all keys together.
        max_keys: so many keys are kept, at least 1; the least recently used goes.
        registry: where the name is registered.

    Raises:
        ConfigurationError: a setting is wrong, two contradict each other, or the name has other settings already.

    Example:
        >>> from resilient import circuit_breaker
        >>> @circuit_breaker("inventory", failure_rate=0.5, window_duration=10, open_duration=5)
        ... def in_stock(item: str) -> bool:
        ...     return True
        >>> in_stock("chair")
        True
    """
    function = None
    if callable(name) or isinstance(name, (staticmethod, classmethod)):
        function, name = name, None
    check = Checker("circuit_breaker", name)
    settings = check_settings(
        check,
        consecutive_failures=consecutive_failures,
        failure_rate=failure_rate,
        slow_call_rate=slow_call_rate,
        slow_call_duration=slow_call_duration,
        window_calls=window_calls,
        window_duration=window_duration,
        minimum_calls=minimum_calls,
        open_duration=open_duration,
        half_open_calls=half_open_calls,
        success_threshold=success_threshold,
        half_open_failure_rate=half_open_failure_rate,
        half_open_timeout=half_open_timeout,
        on=on,
        ignore=ignore,
        on_result=on_result,
        key=key,
        max_keys=max_keys,
    )
    check.instance("registry", registry, Registry)
    if name is None:
        breaker = CircuitBreaker(None, settings, registry)
        return breaker if function is None else breaker(function)
    return registry.obtain(CircuitBreaker.kind, name, lambda: CircuitBreaker(name, settings, registry))
