"""What an application's tracer provider is like: where spans come from, and below which parents nobody sees one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from opentelemetry.trace import Span, TracerProvider

    from resilient.telemetry.spans import Trace

SCOPE: Final = "resilient"
TRACE_KEY: Final = "resilient-call-trace"
_modules: Final = sys.modules


class Gate:
    """What is known of a provider of the application's. Never changed: another provider gets another gate."""

    __slots__ = (
        "api",
        "attach",
        "context_type",
        "current",
        "detach",
        "follows_parent",
        "provider",
        "span_key",
        "start_span",
        "suppress_key",
    )

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry import context, trace
        from opentelemetry.trace import propagation

        from resilient import __version__

        self.provider = provider
        self.api = trace
        self.context_type = context.Context
        self.start_span = provider.get_tracer(SCOPE, __version__).start_span
        self.suppress_key = getattr(context, "_SUPPRESS_INSTRUMENTATION_KEY", "suppress_instrumentation")
        span_key = getattr(propagation, "_SPAN_KEY", None)
        self.span_key = span_key if isinstance(span_key, str) else ""
        self.follows_parent = bool(self.span_key) and _follows_parent(provider)
        # The context variable itself: through the API's functions the look at the parent costs three times as much.
        # An application may have put a context of another kind in its place.
        runtime: Any = getattr(context, "_RUNTIME_CONTEXT", None)
        known = _modules.get("opentelemetry.context.contextvars_context")
        variable = None
        if known is not None and type(runtime) is known.ContextVarsRuntimeContext:
            variable = getattr(runtime, "_current_context", None)
        self.current: Callable[[], Any] = context.get_current
        self.attach: Callable[[Any], Token[Any]] = context.attach
        self.detach: Callable[[Token[Any]], object] = context.detach
        if isinstance(variable, ContextVar):
            self.current, self.attach, self.detach = variable.get, variable.set, variable.reset

    def is_shut(self, context: Any) -> bool:
        """Would nobody see a span that is opened now?"""
        if context.get(self.suppress_key):
            return True
        parent = context.get(self.span_key) if self.follows_parent else None
        return parent is not None and is_unsampled(parent)

    def with_span(self, context: Any, span: Span, trace: Trace) -> Any:
        if self.span_key:
            return self.context_type({**context, self.span_key: span, TRACE_KEY: trace})
        inside = self.api.set_span_in_context(span, context)
        return self.context_type({**inside, TRACE_KEY: trace})


def is_unsampled(parent: Any) -> bool:
    span = parent.get_span_context()
    # A bit of the flags: others may be set beside it.
    return not span.trace_flags & 1 and bool(span.is_valid)


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
