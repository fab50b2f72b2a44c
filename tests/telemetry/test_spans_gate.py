"""Where spans are opened and where not: what the application's own tracer would have recorded, and nothing else."""

from __future__ import annotations

import contextvars
import gc
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import context, trace
from opentelemetry.context.context import Context, _RuntimeContext
from opentelemetry.sdk.trace import sampling
from opentelemetry.trace import NonRecordingSpan, propagation, set_span_in_context

from resilient import Registry, pipeline, retry, timeout
from tests.telemetry.spans_kit import Seen, own, parent_with, recording

ROOT = Path(__file__).parents[2]


class OneInTwo(sampling.ParentBased):
    """An application's own, which may do as it likes."""

    def should_sample(self, *args: Any, **kwargs: Any) -> sampling.SamplingResult:
        return sampling.ALWAYS_ON.should_sample(*args, **kwargs)


SAMPLERS: dict[str, sampling.Sampler] = {
    "parent or always on": sampling.ParentBased(sampling.ALWAYS_ON),
    "parent or a share": sampling.ParentBasedTraceIdRatio(1.0),
    "always on": sampling.ALWAYS_ON,
    "always off": sampling.ALWAYS_OFF,
    "a share": sampling.TraceIdRatioBased(1.0),
    "parent, but on below a local unsampled": sampling.ParentBased(
        sampling.ALWAYS_ON, local_parent_not_sampled=sampling.ALWAYS_ON
    ),
    "parent, but on below a remote unsampled": sampling.ParentBased(
        sampling.ALWAYS_ON, remote_parent_not_sampled=sampling.ALWAYS_ON
    ),
    "parent, off at the root": sampling.ParentBased(sampling.ALWAYS_OFF),
    "the application's own": OneInTwo(sampling.ALWAYS_ON),
}
PARENTS: dict[str, Callable[[Seen], trace.Span | None]] = {
    "none": lambda seen: None,
    "local sampled": lambda seen: parent_with(1),
    "remote sampled": lambda seen: parent_with(1, remote=True),
    "remote sampled with another flag": lambda seen: parent_with(3, remote=True),
    "local unsampled": lambda seen: parent_with(0),
    "remote unsampled": lambda seen: parent_with(0, remote=True),
    "unsampled with another flag": lambda seen: parent_with(2),
    "invalid": lambda seen: NonRecordingSpan(trace.INVALID_SPAN_CONTEXT),
    "ended": lambda seen: _ended(seen),
}


def _ended(seen: Seen) -> trace.Span:
    span = seen.tracer.start_span("ended")
    span.end()
    seen.started.clear()
    seen.ended.clear()
    return span


def guard(registry: Registry) -> Any:
    return retry(name="pay", backoff=0, registry=registry)


def failing_once() -> Callable[[], None]:
    errors = [ConnectionError()]

    def body() -> None:
        if errors:
            raise errors.pop()

    return body


@pytest.mark.parametrize("parent", PARENTS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_span_is_lost_that_the_sampler_would_record_and_none_opened_that_it_would_not(
    monkeypatch: pytest.MonkeyPatch, sampler: str, parent: str
) -> None:
    with recording(monkeypatch, SAMPLERS[sampler]) as seen:
        span = PARENTS[parent](seen)
        token = context.attach(Context() if span is None else set_span_in_context(span))
        try:
            with seen.user("execute pay"), seen.user("attempt pay"), seen.user():
                pass
            wanted = [span.name for span in seen.started]
            seen.started.clear()
            seen.ended.clear()
            failing = failing_once()

            def body() -> None:
                failing()
                with seen.user():
                    pass

            guard(Registry()).call(body)
            opened = [span.name for span in seen.started]
        finally:
            context.detach(token)
        assert opened == wanted


@pytest.mark.parametrize("calls", [1, 3])
def test_below_an_unsampled_parent_the_sampler_is_not_even_asked(monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    asked: list[None] = []
    usual = sampling.ParentBased.should_sample

    def counted(self: Any, *args: Any, **kwargs: Any) -> sampling.SamplingResult:
        asked.append(None)
        return usual(self, *args, **kwargs)

    with recording(monkeypatch):
        monkeypatch.setattr(sampling.ParentBased, "should_sample", counted)
        for parent, expected in ((parent_with(0), 0), (parent_with(1), 2 * calls), (parent_with(0), 0)):
            token = context.attach(set_span_in_context(parent))
            for _ in range(calls):
                guard(Registry()).call(failing_once())
            context.detach(token)
            assert len(asked) == expected
            asked.clear()


def test_a_parent_that_may_be_large_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    class Large(NonRecordingSpan):
        pass

    with recording(monkeypatch):
        span = Large(parent_with(0).get_span_context())
        gone = weakref.ref(span)
        token = context.attach(set_span_in_context(span))
        guard(Registry()).call(int)
        context.detach(token)
        del span, token
        gc.collect()
        assert gone() is None


def test_a_root_that_is_dropped_takes_what_is_below_it_along(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sampler is asked once: were our span not current, the user's would be a root with a chance of its own."""
    asked: list[str] = []

    class Counting(sampling.Sampler):
        def should_sample(self, *args: Any, **kwargs: Any) -> sampling.SamplingResult:
            asked.append(kwargs.get("name") or args[2])
            return sampling.ALWAYS_OFF.should_sample(*args, **kwargs)

        def get_description(self) -> str:
            return "counting"

    with recording(monkeypatch, sampling.ParentBased(Counting())) as seen:
        failing = failing_once()

        def body() -> None:
            with seen.user():
                failing()

        guard(Registry()).call(body)
        assert asked == ["execute pay"]
        assert seen.started == []


def test_the_sampler_is_shown_the_name_the_attributes_and_the_link(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[str, dict[str, Any]]] = []

    class Curious(sampling.Sampler):
        def should_sample(
            self,
            parent_context: Any,
            trace_id: int,
            name: str,
            kind: Any = None,
            attributes: Any = None,
            links: Sequence[Any] | None = None,
            trace_state: Any = None,
        ) -> sampling.SamplingResult:
            shown.append((name, dict(attributes)))
            return sampling.SamplingResult(sampling.Decision.RECORD_AND_SAMPLE, attributes)

        def get_description(self) -> str:
            return "curious"

    with recording(monkeypatch, Curious()):
        guard(Registry()).call(failing_once())
    assert shown == [
        ("execute pay", {"resilience.pipeline.name": "pay", "resilience.policy.types": ("retry",)}),
        (
            "attempt pay",
            {
                "resilience.pipeline.name": "pay",
                "resilience.attempt.number": 2,
                "resilience.retry.backoff": 0.0,
            },
        ),
    ]


class OwnContext(_RuntimeContext):
    """What an application may put in the place of the API's own, by OTEL_PYTHON_CONTEXT."""

    def __init__(self) -> None:
        # A name that means something else in the API's own.
        self._current_context: contextvars.ContextVar[str] = contextvars.ContextVar("elsewhere", default="nothing")
        self._stack: contextvars.ContextVar[tuple[Context, ...]] = contextvars.ContextVar("stack", default=(Context(),))

    def attach(self, context: Context) -> Any:
        return self._stack.set((*self._stack.get(), context))

    def get_current(self) -> Context:
        return self._stack.get()[-1]

    def detach(self, token: Any) -> None:
        self._stack.reset(token)


@pytest.mark.parametrize("flags, names", [(1, ["user", "execute pay", "attempt pay"]), (0, [])])
def test_a_context_of_another_kind(monkeypatch: pytest.MonkeyPatch, flags: int, names: list[str]) -> None:
    monkeypatch.setattr(context, "_RUNTIME_CONTEXT", OwnContext())
    with recording(monkeypatch) as seen:
        token = context.attach(set_span_in_context(parent_with(flags)))
        failing = failing_once()

        def body() -> None:
            failing()
            with seen.user():
                pass

        guard(Registry()).call(body)
        context.detach(token)
        assert sorted(span.name for span in seen.ended) == sorted(names)
        if names:
            assert seen.tree() == [("execute pay", [("attempt pay", [("user", [])])])]


class Wrapped(trace.TracerProvider):
    """Of somebody else than the SDK, who has no sampler to be looked at."""

    def __init__(self, inner: trace.TracerProvider) -> None:
        self._inner = inner

    def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
        return self._inner.get_tracer(*args, **kwargs)


@pytest.mark.parametrize("hidden", ["sampler", "key"])
@pytest.mark.parametrize("flags", [1, 0])
def test_an_api_that_hides_what_is_looked_at_costs_speed_and_no_span(
    monkeypatch: pytest.MonkeyPatch, hidden: str, flags: int
) -> None:
    with recording(monkeypatch) as seen:
        if hidden == "sampler":
            monkeypatch.setattr(trace, "_TRACER_PROVIDER", Wrapped(seen.provider))
        else:
            monkeypatch.setattr(propagation, "_SPAN_KEY", ("no", "string"))
        token = context.attach(set_span_in_context(parent_with(flags)))
        failing = failing_once()

        def body() -> None:
            failing()
            with seen.user():
                pass

        guard(Registry()).call(body)
        context.detach(token)
        assert seen.tree() == ([("execute pay", [("attempt pay", [("user", [])])])] if flags else [])


class TestSuppressed:
    def test_nothing_is_opened(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with recording(monkeypatch) as seen:
            token = context.attach(context.set_value(context._SUPPRESS_INSTRUMENTATION_KEY, True))
            try:
                guard(Registry()).call(failing_once())
            finally:
                context.detach(token)
            assert seen.started == []

    @pytest.mark.parametrize("how", ["suppressed", "below an unsampled parent"])
    def test_what_is_not_traced_in_a_traced_call_is_no_part_of_it(
        self, monkeypatch: pytest.MonkeyPatch, how: str
    ) -> None:
        """As where an exporter, in the middle of a traced call, sends what it has through a guarded client."""

        def body() -> None:
            other = (
                context.set_value(context._SUPPRESS_INSTRUMENTATION_KEY, True)
                if how == "suppressed"
                else set_span_in_context(parent_with(0))
            )
            token = context.attach(other)
            try:
                retry(name="inner", backoff=0, registry=Registry()).call(failing_once())
            finally:
                context.detach(token)

        with recording(monkeypatch) as seen:
            registry = Registry()
            pipeline("pay", timeout(5, registry=registry), registry=registry).call(body)
            assert seen.tree() == [("execute pay", [])]
            assert set(own(seen.ended[0])) == {
                "resilience.pipeline.name",
                "resilience.policy.types",
                "resilience.outcome",
            }
