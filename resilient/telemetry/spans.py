"""Spans: one for each guarded call, and one for each further attempt, hedge and fallback within it.

Nothing is paid, and nothing opened, where nobody would see it: as long as the application has imported no OpenTelemetry
or set no provider, and below an unsampled parent where the sampler follows parents. Whether the current span records is
no such sign: below a parent that does not, samplers other than the parent-based may still want ours.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextvars import Token
from time import time_ns
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from resilient.core.meters import Exemplar, Histogram, error_type
from resilient.core.tracing import CIRCUIT_STATE, FALLBACK_RESULT, RETRY_RESULT, TRACING, CallTrace, NotSeen, Part
from resilient.operation import Operation
from resilient.telemetry.span_gate import TRACE_KEY, Gate, is_unsampled

if TYPE_CHECKING:
    from opentelemetry.trace import Span

_FALLING_BACK: Final = frozenset({"fallback", "stale", "failover"})
_modules: Final = sys.modules


_gate: Gate | None = None
_UNKNOWN: Final = NotSeen._TRACER_PROVIDER
_unsampled: Final[list[Any]] = [None]


class _Kinds:
    """What the spans of an operation say each time."""

    __slots__ = ("attempt", "breaker", "execute", "fallback", "falls_back", "retries", "retries_fallbacks", "types")

    def __init__(self, operation: Operation) -> None:
        self.execute = f"execute {operation.name}"
        self.attempt = f"attempt {operation.name}"
        self.fallback = f"fallback {operation.name}"
        self.types = types = tuple(policy.kind for policy in operation.policies)
        self.breaker = next((policy for policy in operation.policies if policy.kind == "circuit_breaker"), None)
        self.falls_back = not _FALLING_BACK.isdisjoint(types)
        self.retries = "retry" in types
        # A retry takes what a fallback inside of it has served for a success.
        self.retries_fallbacks = self.retries and not _FALLING_BACK.isdisjoint(types[types.index("retry") :])


def open_span(operation: object) -> CallTrace | None:
    """The span of a call that is about to begin, or None where nobody would see it."""
    global _gate
    try:
        provider = TRACING.api._TRACER_PROVIDER
        if provider is _UNKNOWN:
            api = _modules["opentelemetry.trace"]
            provider = api._TRACER_PROVIDER
            TRACING.api = api
    except (KeyError, AttributeError):
        return None
    if provider is None:
        return None
    try:
        gate = _gate
        if gate is None or gate.provider is not provider:
            gate = _gate = Gate(provider)
        outside = gate.current()
        if gate.follows_parent and (parent := outside.get(gate.span_key)) is not None:
            if parent is _unsampled[0]:
                return None
            if is_unsampled(parent):
                # Of many calls below the same parent only the first looks closely. Other kinds of spans may be large.
                if type(parent) is gate.api.NonRecordingSpan:
                    _unsampled[0] = parent
                return None
        if outside.get(gate.suppress_key):
            return None
        return _open(gate, operation, outside)  # type: ignore[arg-type]
    except Exception:  # noqa: BLE001 - a broken sampler or processor must not fail a call
        _log_broken()
        return None


def _open(gate: Gate, operation: Operation, outside: Any) -> CallTrace:
    kinds: _Kinds | None = operation.traced_as
    if kinds is None:
        kinds = operation.traced_as = _Kinds(operation)
    breaker = kinds.breaker
    state: str | None = None if breaker is None else breaker.state._value_
    attributes = {"resilience.pipeline.name": operation.name, "resilience.policy.types": kinds.types}
    span = gate.start_span(kinds.execute, outside, attributes=attributes)
    return Trace(gate, operation.name, kinds, span, outside, state)


def current() -> Trace | None:
    """The trace of the call under way, unless a span opened here and now would not belong to it."""
    gate = _gate
    if gate is None:
        return None
    try:
        context = gate.current()
        trace = context.get(TRACE_KEY)
        return None if trace is None or gate.is_shut(context) else trace
    except Exception:  # noqa: BLE001 - see open_span
        _log_broken()
        return None


class Trace:
    """A span, current for a while, again and again, and then ended.

    The context in which it is current holds it, and so it must not hold that context: calls would leave cycles behind.
    """

    __slots__ = ("_outside", "_token", "attempts", "gate", "kinds", "name", "notes", "span", "state")

    def __init__(self, gate: Gate, name: str, kinds: _Kinds, span: Span, outside: Any, state: str | None) -> None:
        self.gate = gate
        self.name = name
        self.kinds = kinds
        self.span = span
        self.state = state
        self.attempts = 1
        self.notes: dict[str, str | float] | None = None
        self._outside = outside
        self._token: Token[Any] | None = None

    def attach(self) -> None:
        if self._token is None:
            gate = self.gate
            self._token = gate.attach(gate.with_span(self._outside, self.span, self))

    def detach(self) -> None:
        token, self._token = self._token, None
        if token is None:
            return
        try:
            self.gate.detach(token)
        except ValueError:
            pass  # ended by another task or thread, or by the garbage collector: it was never current there

    def note(self, attribute: str, value: str | float) -> None:
        if self.notes is None:
            self.notes = {}
        self.notes[attribute] = value

    def retry(self, number: int, backoff: float) -> Part:
        self.attempts += 1
        attributes: dict[str, Any] = {"resilience.attempt.number": number, "resilience.retry.backoff": backoff}
        return _Attempt(self, self.kinds.attempt, attributes)

    def hedge(self, number: int, over_as: Callable[[], str | None]) -> Part:
        self.attempts += 1
        attributes: dict[str, Any] = {"resilience.attempt.number": number, "resilience.attempt.hedge": True}
        return _Hedge(self, self.kinds.attempt, attributes, over_as)

    def fallback(self) -> Part:
        return _Fallback(self, self.kinds.fallback, {})

    def end(self, outcome: str, error: BaseException | None, histogram: Histogram, elapsed: float) -> None:
        span = self.span
        try:
            if span.is_recording():
                span.set_attributes(_told_at_the_end(self, outcome))
                if isinstance(error, Exception):
                    span.set_attribute("error.type", error_type(error))
                    span.set_status(self.gate.api.StatusCode.ERROR)
        except Exception:  # noqa: BLE001 - see open_span
            _log_broken()
        try:
            span.end()
        except Exception:  # noqa: BLE001 - see open_span
            _log_broken()
        try:
            context = span.get_span_context()
            if context.trace_flags & 1:
                histogram.exemplify(Exemplar(elapsed, context.trace_id, context.span_id, time_ns()))
        except Exception:  # noqa: BLE001 - see open_span
            _log_broken()


def _told_at_the_end(trace: Trace, outcome: str) -> dict[str, Any]:
    attributes: dict[str, Any] = {"resilience.outcome": outcome}
    kinds = trace.kinds
    if trace.state is not None:
        attributes[CIRCUIT_STATE] = trace.state
    if outcome == "success":
        if kinds.retries:
            attributes[RETRY_RESULT] = "first_try"
        if kinds.falls_back:
            attributes[FALLBACK_RESULT] = "not_needed"
    elif outcome == "fallback" and kinds.retries_fallbacks:
        attributes[RETRY_RESULT] = "first_try"
    if trace.attempts > 1:
        attributes["resilience.attempt.count"] = trace.attempts
    if trace.notes is not None:
        attributes.update(trace.notes)
    return attributes


class _Attempt(Part):
    """An attempt that its policy ends. Ended by cancellation, it has nobody else to say so.

    It begins as its block is entered: a thread may find no place to run, and a task be cancelled before its first step.
    """

    __slots__ = ("_attributes", "_name", "_open", "_token", "_trace")

    attribute = "resilience.attempt.result"

    def __init__(self, trace: Trace, name: str, attributes: dict[str, Any]) -> None:
        self._trace = trace
        self._name = name
        self._attributes = attributes
        # A list, because taking the last of it is atomic: attempts beside each other are ended by two threads.
        self._open: list[Span] = []
        self._token: Token[Any] | None = None

    def __enter__(self) -> Self:
        trace = self._trace
        gate = trace.gate
        try:
            outside = gate.current()
            attributes = {"resilience.pipeline.name": trace.name, **self._attributes}
            span = gate.start_span(self._name, outside, attributes=attributes, links=self._links(outside))
            self._open.append(span)
            self._token = gate.attach(gate.with_span(outside, span, trace))
        except Exception:  # noqa: BLE001 - see open_span
            _log_broken()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        token, self._token = self._token, None
        if token is not None:
            try:
                self._trace.gate.detach(token)
            except ValueError:
                pass  # see Trace.detach
        self._left(error)

    def end(self, result: str) -> None:
        self._end(result, None)

    def _left(self, error: BaseException | None) -> None:
        if error is not None and not isinstance(error, Exception):
            self.end("cancelled")

    def _links(self, outside: Any) -> tuple[Any, ...]:
        return ()

    def _end(self, result: str | None, at: int | None) -> None:
        try:
            span = self._open.pop()
        except IndexError:
            return
        try:
            if result is not None and span.is_recording():
                span.set_attribute(self.attribute, result)
        except Exception:  # noqa: BLE001 - see open_span
            _log_broken()
        try:
            span.end(at)
        except Exception:  # noqa: BLE001 - see open_span
            _log_broken()


class _Hedge(_Attempt):
    """An attempt beside others: only the policy can say whether it was the first to come back."""

    __slots__ = ("_left_at", "_over_as")

    def __init__(self, trace: Trace, name: str, attributes: dict[str, Any], over_as: Callable[[], str | None]) -> None:
        super().__init__(trace, name, attributes)
        self._over_as = over_as
        self._left_at: int | None = None

    def settle(self, result: str) -> None:
        if self._left_at is not None:
            self._end(result, self._left_at)

    def _left(self, error: BaseException | None) -> None:
        if error is not None and not isinstance(error, Exception):
            self.end("cancelled")
            return
        # In this order. The policy says first that it is over and then looks for this: one of us sees the other.
        self._left_at = time_ns()
        result = self._over_as()
        if result is not None:
            self._end(result, self._left_at)

    def _links(self, outside: Any) -> tuple[Any, ...]:
        """To the first attempt. It has no span of its own, but that of what the hedge stands in."""
        api = self._trace.gate.api
        return (api.Link(api.get_current_span(outside).get_span_context()),)


class _Fallback(_Attempt):
    __slots__ = ()

    attribute = FALLBACK_RESULT

    def _left(self, error: BaseException | None) -> None:
        result = None
        if error is None or isinstance(error, Exception):
            result = "applied" if error is None else "failed"
            self._trace.note(FALLBACK_RESULT, result)
        self._end(result, None)


_told: set[str] = set()


def _log_broken() -> None:
    if _told:
        return
    _told.add("broken")
    import logging

    logging.getLogger("resilient.telemetry").debug("opening or ending a span failed; told once", exc_info=True)  # noqa: LOG014


TRACING.open = open_span
TRACING.current = current
