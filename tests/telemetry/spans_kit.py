"""What the tests of spans share: a provider of the application's for one test, and the spans that it saw as a tree."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, Sampler
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

FOLLOWING = ParentBased(ALWAYS_ON)

Tree = list[tuple[str, "Tree"]]


class Seen(SpanProcessor):
    """The spans of one test, and what else the application's SDK had to say about them."""

    def __init__(self, sampler: Sampler) -> None:
        self.provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        self.provider.add_span_processor(self)
        self.tracer = self.provider.get_tracer("user")
        self.started: list[Span] = []
        self.ended: list[ReadableSpan] = []
        self.complaints: list[str] = []

    def on_start(self, span: Span, parent_context: Any = None) -> None:
        self.started.append(span)

    def on_end(self, span: ReadableSpan) -> None:
        self.ended.append(span)

    def user(self, name: str = "user") -> Any:
        """A span of the user's, current in its block."""
        return self.tracer.start_as_current_span(name)

    def named(self, name: str) -> list[dict[str, Any]]:
        """The attributes of the spans of this name, in the order of their beginning, without those that all have."""
        found = sorted((span for span in self.ended if span.name == name), key=lambda span: span.start_time or 0)
        return [{key: value for key, value in own(span).items() if key != "resilience.pipeline.name"} for span in found]

    def one(self, name: str) -> ReadableSpan:
        (span,) = [span for span in self.ended if span.name == name]
        return span

    def tree(self) -> Tree:
        """Names as they stand below each other, beginning with those that have no parent."""
        spans = sorted(self.ended, key=lambda span: span.start_time or 0)
        known = {span.context.span_id for span in spans if span.context}

        def below(parent: int | None) -> Tree:
            return [
                (span.name, below(span.context.span_id if span.context else None))
                for span in spans
                if (span.parent.span_id if span.parent and span.parent.span_id in known else None) == parent
            ]

        return below(None)

    def clear(self) -> None:
        self.check()
        self.started.clear()
        self.ended.clear()

    def check(self) -> None:
        """Every span has ended once, nothing is current any more, and the SDK had nothing to complain of."""
        begun = Counter(span.get_span_context().span_id for span in self.started)
        over = Counter(span.context.span_id for span in self.ended if span.context)
        assert begun == over
        assert max(begun.values(), default=1) == 1
        assert trace.get_current_span() is trace.INVALID_SPAN
        assert self.complaints == []


class _Complaints(logging.Handler):
    def __init__(self, told: list[str]) -> None:
        super().__init__(logging.DEBUG)
        self._told = told

    def emit(self, record: logging.LogRecord) -> None:
        self._told.append(f"{record.name}: {record.getMessage()}")


@contextmanager
def recording(patch: pytest.MonkeyPatch, sampler: Sampler = FOLLOWING) -> Iterator[Seen]:
    """The application has set a provider; at the end everything must be in order."""
    seen = Seen(sampler)
    handler = _Complaints(seen.complaints)
    loggers = [logging.getLogger(name) for name in ("opentelemetry", "resilient.telemetry")]
    for logger in loggers:
        logger.addHandler(handler)
    patch.setattr(trace, "_TRACER_PROVIDER", seen.provider)
    # The line about a broken provider comes once in a process.
    patch.setattr("resilient.telemetry.spans._told", set())
    telemetry = logging.getLogger("resilient.telemetry")
    level = telemetry.level
    telemetry.setLevel(logging.DEBUG)
    try:
        yield seen
        seen.check()
    finally:
        telemetry.setLevel(level)
        for logger in loggers:
            logger.removeHandler(handler)


def own(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def parent_with(flags: int, *, remote: bool = False) -> NonRecordingSpan:
    return NonRecordingSpan(SpanContext(1 << 90 | 1, 7, remote, TraceFlags(flags)))
