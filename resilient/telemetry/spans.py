"""Spans: one for each guarded call, and one for each further attempt, hedge and fallback within it.

Nothing is paid, and nothing opened, where nobody would see it: as long as the application has imported no OpenTelemetry
or set no provider, and below an unsampled parent where the sampler follows parents. Whether the current span records is
no such sign: below a parent that does not, samplers other than the parent-based may still want ours.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar, Token
from functools import partial
from time import time_ns
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from resilient.core.meters import Exemplar, Histogram, error_type
from resilient.core.tracing import (
    CIRCUIT_STATE,
    FALLBACK_RESULT,
    RETRY_RESULT,
    TRACING,
    UNTRACED,
    CallTrace,
    Part,
)
from resilient.operation import Operation

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer, TracerProvider

SCOPE: Final = "resilient"

_TRACE_KEY: Final = "resilience-call-trace"
_modules: Final = sys.modules


class _Gate:
    """What is known of the application's provider; looked at anew where it has another."""

    __slots__ = ("api", "context_api", "current", "follows_parent", "provider", "span_key", "suppress_key", "tracer")

    def __init__(self) -> None:
        self.provider: TracerProvider | None = None
        self.follows_parent = False
        self.tracer: Tracer
        self.api: Any = None
        self.context_api: Any = None
        self.span_key: object = None
        self.suppress_key: object = None
        self.current: ContextVar[Mapping[Any, Any]] | None = None

    def adopt(self, provider: TracerProvider) -> None:
        from opentelemetry import context, trace
        from opentelemetry.trace import propagation

        from resilient import __version__

        self.api, self.context_api = trace, context
        self.tracer = provider.get_tracer(SCOPE, __version__)
        self.follows_parent = _follows_parent(provider)
        self.span_key = getattr(propagation, "_SPAN_KEY", None)
        self.suppress_key = getattr(context, "_SUPPRESS_INSTRUMENTATION_KEY", "suppress_instrumentation")
        # Read directly: by the API's own functions the look at the parent costs three times as much.
        current = getattr(getattr(context, "_RUNTIME_CONTEXT", None), "_current_context", None)
        self.current = current if isinstance(current, ContextVar) and self.span_key is not None else None
        self.provider = provider

    def parent(self) -> Any:
        if self.current is not None:
            return self.current.get().get(self.span_key)
        return self.api.get_current_span()


_GATE: Final = _Gate()


def _follows_parent(provider: Any) -> bool:
    """Would its sampler drop whatever stands below an unsampled parent? Known of the SDK's own classes only."""
    sampling = _modules.get("opentelemetry.sdk.trace.sampling")
    sampler = getattr(provider, "sampler", None)
    if sampling is None or type(sampler) not in (sampling.ParentBased, sampling.ParentBasedTraceIdRatio):
        return False
    rules = (
        getattr(sampler, "_local_parent_not_sampled", None),
        getattr(sampler, "_remote_parent_not_sampled", None),
    )
    return all(rule is sampling.ALWAYS_OFF for rule in rules)


def open_span(operation: object) -> CallTrace | None:
    """The span of a call that is about to begin, or None where nobody would see it."""
    api = _modules.get("opentelemetry.trace")
    provider = getattr(api, "_TRACER_PROVIDER", None)
    if provider is None:
        return None
    gate = _GATE
    if provider is not gate.provider:
        gate.adopt(provider)
    if gate.follows_parent:
        parent = gate.parent()
        if parent is not None:
            context = parent.get_span_context()
            # A bit of the flags: others may be set beside it.
            if not context.trace_flags & 1 and context.is_valid:
                return None
    assert isinstance(operation, Operation)
    try:
        return _open(gate, operation)
    except Exception:  # noqa: BLE001 - a broken sampler or processor must not fail a call
        _log_broken()
        return None


def _open(gate: _Gate, operation: Operation) -> CallTrace | None:
    context = gate.context_api.get_current()
    if context.get(gate.suppress_key):
        return None
    attributes = {
        "resilience.pipeline.name": operation.name,
        "resilience.policy.types": tuple(policy.kind for policy in operation.policies),
    }
    span = gate.tracer.start_span(f"execute {operation.name}", context, attributes=attributes)
    return _Trace(operation, span, context)


def current() -> CallTrace | None:
    gate = _GATE
    if gate.provider is None:
        return None
    if gate.current is not None:
        trace = gate.current.get().get(_TRACE_KEY)
    else:
        trace = gate.context_api.get_current().get(_TRACE_KEY)
    return trace if isinstance(trace, CallTrace) else None


class _Attached:
    """A span that is current for a while, again and again."""

    __slots__ = ("_context", "_token", "span")

    def __init__(self, span: Span, context: Context) -> None:
        self.span = span
        self._context = context
        self._token: Token[Any] | None = None

    def attach(self) -> None:
        self._token = _GATE.context_api.attach(self._context)

    def detach(self) -> None:
        token, self._token = self._token, None
        if token is None:
            return
        gate = _GATE
        try:
            if gate.current is not None:
                gate.current.reset(token)
            else:
                gate.context_api.detach(token)
        except ValueError:
            pass  # ended by another task or thread, or by the garbage collector: it was never current there


class _Trace(CallTrace):
    __slots__ = ("_attached", "_attempts", "_notes", "_operation")

    def __init__(self, operation: Operation, span: Span, outside: Context) -> None:
        gate = _GATE
        self._operation = operation
        self._attempts = 1
        self._notes: dict[str, str | float] = {}
        inside = gate.api.set_span_in_context(span, outside)
        self._attached = _Attached(span, gate.context_api.set_value(_TRACE_KEY, self, inside))
        for policy in operation.policies:
            if policy.kind == "circuit_breaker":
                self._notes[CIRCUIT_STATE] = policy.state.value
                break

    def attach(self) -> None:
        self._attached.attach()

    def detach(self) -> None:
        self._attached.detach()

    def note(self, attribute: str, value: str | float) -> None:
        self._notes[attribute] = value

    def retry(self, number: int, backoff: float) -> Part:
        self._attempts += 1
        attributes = {"resilience.attempt.number": number, "resilience.retry.backoff": backoff}
        return self._part("attempt", attributes, _Attempt)

    def hedge(self, number: int, is_over: Callable[[], bool]) -> Part:
        from opentelemetry.trace import Link

        self._attempts += 1
        first = _GATE.api.get_current_span().get_span_context()
        attributes = {"resilience.attempt.number": number, "resilience.attempt.hedge": True}
        return self._part("attempt", attributes, partial(_Hedge, is_over=is_over), (Link(first),))

    def fallback(self) -> Part:
        return self._part("fallback", {}, _Fallback)

    def _part(
        self,
        what: str,
        attributes: dict[str, Any],
        make: Callable[[_Attached, _Trace], Part],
        links: Sequence[Any] = (),
    ) -> Part:
        gate, name = _GATE, self._operation.name
        try:
            outside = gate.context_api.get_current()
            attributes["resilience.pipeline.name"] = name
            span = gate.tracer.start_span(f"{what} {name}", outside, attributes=attributes, links=links)
            return make(_Attached(span, gate.api.set_span_in_context(span, outside)), self)
        except Exception:  # noqa: BLE001 - see open_span
            _log_broken()
            return UNTRACED

    def end(self, outcome: str, error: BaseException | None, histogram: Histogram, elapsed: float) -> None:
        try:
            self._end(outcome, error)
            context = self._attached.span.get_span_context()
            if context.trace_flags & 1:
                histogram.exemplify(Exemplar(elapsed, context.trace_id, context.span_id, time_ns()))
        except Exception:  # noqa: BLE001 - see open_span
            _log_broken()

    def _end(self, outcome: str, error: BaseException | None) -> None:
        span = self._attached.span
        if not span.is_recording():
            span.end()
            return
        attributes: dict[str, Any] = {"resilience.outcome": outcome, **self._notes}
        if self._attempts > 1:
            attributes["resilience.attempt.count"] = self._attempts
        if outcome == "success":
            kinds = {policy.kind for policy in self._operation.policies}
            if "retry" in kinds:
                attributes.setdefault(RETRY_RESULT, "first_try")
            if "fallback" in kinds:
                attributes.setdefault(FALLBACK_RESULT, "not_needed")
        if isinstance(error, Exception):
            attributes["error.type"] = error_type(error)
            span.set_status(_GATE.api.StatusCode.ERROR)
        span.set_attributes(attributes)
        span.end()


class _Attempt(Part):
    """An attempt that its policy ends; ended by cancellation, it has nobody else to say so."""

    __slots__ = ("_attached", "_trace")

    attribute = "resilience.attempt.result"

    def __init__(self, attached: _Attached, trace: _Trace) -> None:
        self._attached = attached
        self._trace = trace

    def __enter__(self) -> Self:
        self._attached.attach()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        self._attached.detach()
        result = self._result(error)
        if result is not None:
            self.end(result)

    def end(self, result: str) -> None:
        try:
            span = self._attached.span
            span.set_attribute(self.attribute, result)
            span.end()
        except Exception:  # noqa: BLE001 - see open_span
            _log_broken()

    def _result(self, error: BaseException | None) -> str | None:
        return None if error is None or isinstance(error, Exception) else "cancelled"


class _Hedge(_Attempt):
    __slots__ = ("_is_over",)

    def __init__(self, attached: _Attached, trace: _Trace, is_over: Callable[[], bool]) -> None:
        super().__init__(attached, trace)
        self._is_over = is_over

    def _result(self, error: BaseException | None) -> str | None:
        if error is None:
            return "lost" if self._is_over() else "won"
        return "failed" if isinstance(error, Exception) else "cancelled"


class _Fallback(_Attempt):
    __slots__ = ()

    attribute = FALLBACK_RESULT

    def _result(self, error: BaseException | None) -> str | None:
        return "applied" if error is None else "failed"

    def end(self, result: str) -> None:
        self._trace.note(FALLBACK_RESULT, result)
        super().end(result)


_told: set[str] = set()


def _log_broken() -> None:
    if _told:
        return
    _told.add("broken")
    import logging

    logging.getLogger("resilient.telemetry").debug("opening or ending a span failed; told once", exc_info=True)  # noqa: LOG014


TRACING.open = open_span
TRACING.current = current
