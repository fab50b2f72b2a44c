"""What a broken tracer may do to a call: nothing. What a span may tell of its secrets: nothing. And exemplars."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
from opentelemetry import context, trace
from opentelemetry.context.context import Context
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider, sampling
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import set_span_in_context

from resilient import Registry, circuit_breaker, fallback, hedge, pipeline, retry, timeout
from resilient.core.meters import Exemplar
from tests.telemetry.spans_kit import Seen, own, parent_with, recording

PATIENCE = 20.0


class Broken(Exception):
    pass


class BrokenSampler(sampling.Sampler):
    """Fails from its `good`-th question on."""

    def __init__(self, good: int = 0) -> None:
        self.good = good

    def should_sample(self, *args: Any, **kwargs: Any) -> sampling.SamplingResult:
        self.good -= 1
        if self.good < 0:
            raise Broken
        return sampling.ALWAYS_ON.should_sample(*args, **kwargs)

    def get_description(self) -> str:
        return "broken"


class BrokenProcessor(SpanProcessor):
    def __init__(self, where: str) -> None:
        self._where = where

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        if self._where == "start":
            raise Broken

    def _on_ending(self, span: Any) -> None:
        if self._where == "ending":
            raise Broken

    def on_end(self, span: ReadableSpan) -> None:
        if self._where == "end":
            raise Broken


class BrokenExporter(SpanExporter):
    def export(self, spans: Any) -> SpanExportResult:
        raise Broken


class BrokenProvider(trace.TracerProvider):
    def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
        raise Broken


class BrokenSpan(trace.NonRecordingSpan):
    def is_recording(self) -> bool:
        return True

    def _fail(self, *args: Any, **kwargs: Any) -> Any:
        raise Broken

    set_attribute = set_attributes = set_status = end = _fail

    def get_span_context(self) -> trace.SpanContext:
        raise Broken


class BrokenTracer(trace.NoOpTracer):
    def start_span(self, *args: Any, **kwargs: Any) -> trace.Span:
        return BrokenSpan(trace.INVALID_SPAN_CONTEXT)


class ProviderOfBrokenSpans(trace.TracerProvider):
    def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
        return BrokenTracer()


def provided(*processors: SpanProcessor, sampler: sampling.Sampler = sampling.ALWAYS_ON) -> TracerProvider:
    provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
    for processor in processors:
        provider.add_span_processor(processor)
    return provider


BROKEN: dict[str, Callable[[], trace.TracerProvider]] = {
    "sampler": lambda: provided(sampler=BrokenSampler()),
    "sampler, at the second span": lambda: provided(sampler=BrokenSampler(good=1)),
    "start": lambda: provided(BrokenProcessor("start")),
    "ending": lambda: provided(BrokenProcessor("ending")),
    "end": lambda: provided(BrokenProcessor("end")),
    "provider": BrokenProvider,
    "spans": ProviderOfBrokenSpans,
}


class Scripted:
    """Calls of all outcomes; what came of each."""

    def __init__(self) -> None:
        self.registry = Registry()
        again = retry(attempts=2, backoff=0, on=ConnectionError, registry=self.registry)
        inside = circuit_breaker(consecutive_failures=99, registry=self.registry), timeout(30, registry=self.registry)
        self.pay = pipeline("pay", again, *inside, registry=self.registry)
        self.serve = fallback(self.instead, name="serve", on=ConnectionError, registry=self.registry)
        self.hedged = hedge(delay=30, name="hedged", registry=self.registry)

    @staticmethod
    def instead(*errors: BaseException) -> str:
        return "instead"

    @staticmethod
    def body(*errors: BaseException) -> Callable[[], str]:
        left = list(errors)

        def body() -> str:
            if left:
                raise left.pop(0)
            return "result"

        return body

    def outcomes(self) -> list[object]:
        lost, other, stopped = ConnectionError(), LookupError(), KeyboardInterrupt()
        return [
            self.outcome(lambda: self.pay.call(self.body())),
            self.outcome(lambda: self.pay.call(self.body(lost))),
            self.outcome(lambda: self.pay.call(self.body(lost, lost))) is lost,
            self.outcome(lambda: self.pay.call(self.body(other))) is other,
            self.outcome(lambda: self.pay.call(self.body(lost, stopped))) is stopped,
            self.outcome(lambda: self.serve(self.body(lost))()),
            self.outcome(lambda: self.hedged.call(self.body(lost))),
            self.outcome(lambda: self.loop(self.body(lost))),
            self.outcome(lambda: self.block(self.body(other))) is other,
            self.outcome(lambda: asyncio.run(self.awaited(self.body(lost)))),
        ]

    WANTED: ClassVar[list[object]] = [
        "result",
        "result",
        True,
        True,
        True,
        "instead",
        "result",
        "result",
        True,
        "result",
    ]

    @staticmethod
    def outcome(call: Callable[[], object]) -> object:
        try:
            return call()
        except BaseException as error:
            return error

    def loop(self, body: Callable[[], str]) -> str:
        for attempt in retry(name="loop", backoff=0, registry=self.registry):
            with attempt:
                return body()
        raise AssertionError

    def block(self, body: Callable[[], str]) -> str:
        with circuit_breaker("block", registry=self.registry):
            return body()

    async def awaited(self, body: Callable[[], str]) -> str:
        async def call() -> str:
            return body()

        return await self.pay.call_async(call)


def counts(script: Scripted) -> Any:
    snapshot: Any = script.registry.snapshot()
    return {name: meter["calls"] for name, meter in snapshot["pipeline"].items()}, {
        name: meter["active"] for name, meter in snapshot["pipeline"].items()
    }


@pytest.mark.parametrize("what", BROKEN)
def test_no_outcome_is_changed_no_count_is_lost_and_it_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    sound = Scripted()
    assert sound.outcomes() == Scripted.WANTED
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", BROKEN[what]())
    monkeypatch.setattr("resilient.telemetry.spans._told", set())
    script = Scripted()
    with caplog.at_level(logging.DEBUG, "resilient.telemetry"):
        assert script.outcomes() == Scripted.WANTED
    assert counts(script) == counts(sound)
    assert trace.get_current_span() is trace.INVALID_SPAN
    told = [record for record in caplog.records if record.name == "resilient.telemetry"]
    assert [record.levelno for record in told] == [logging.DEBUG]


def test_an_exporter_that_raises_changes_no_outcome(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The SDK's own processors log what it raises."""
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provided(SimpleSpanProcessor(BrokenExporter())))
    with caplog.at_level(logging.CRITICAL):
        assert Scripted().outcomes() == Scripted.WANTED


def test_a_parent_that_is_broken_changes_no_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provided(sampler=sampling.ParentBased(sampling.ALWAYS_ON)))
    monkeypatch.setattr("resilient.telemetry.spans._told", set())
    token = context.attach(set_span_in_context(BrokenSpan(trace.INVALID_SPAN_CONTEXT)))
    try:
        assert Scripted().outcomes() == Scripted.WANTED
    finally:
        context.detach(token)


SECRET = "hunter2"


def test_no_secret_is_in_any_span(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failure(Exception):
        pass

    def login(password: str, *, token: str) -> str:
        raise Failure(f"wrong password {password}, {token}")

    with recording(monkeypatch) as seen:
        registry = Registry()
        for guard in (
            retry(name="pay", attempts=2, backoff=0, registry=registry),
            fallback(lambda password, token: password, name="serve", registry=registry),
            fallback(login, name="fails", registry=registry),
            hedge(delay=30, name="hedged", registry=registry),
        ):
            try:
                assert guard.call(login, SECRET, token=SECRET) == SECRET
            except Failure:
                pass
        retry(name="unwanted", attempts=2, backoff=0, on_result=bool, registry=registry).call(lambda: SECRET)
        everything = [
            (span.name, own(span), span.events, span.links, span.status.description, span.to_json())
            for span in seen.ended
        ]
        assert len(everything) == 10
        assert SECRET not in repr(everything)
        assert {name for span in seen.ended for name in own(span)} == {
            "resilience.pipeline.name",
            "resilience.policy.types",
            "resilience.outcome",
            "resilience.attempt.count",
            "resilience.attempt.number",
            "resilience.attempt.hedge",
            "resilience.attempt.result",
            "resilience.retry.backoff",
            "resilience.retry.result",
            "resilience.fallback.result",
            "error.type",
        }


class TestExemplars:
    @pytest.fixture
    def seen(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
        with recording(monkeypatch) as seen:
            yield seen

    @staticmethod
    def exemplars(registry: Registry) -> dict[str, list[Exemplar]]:
        durations = registry.call_meter("pay").durations()
        return {
            outcome: [exemplar for exemplar in histogram.exemplars if exemplar is not None]
            for (outcome, _), histogram in durations.items()
            if histogram.exemplars
        }

    @pytest.mark.parametrize("outcome", ["success", "failure", "cancelled"])
    def test_they_lead_to_the_span_of_the_call(self, seen: Seen, outcome: str) -> None:
        registry = Registry()
        errors = {"success": (), "failure": (LookupError(),), "cancelled": (KeyboardInterrupt(),)}[outcome]
        Scripted.outcome(lambda: circuit_breaker("pay", registry=registry).call(Scripted.body(*errors)))
        ((found, (exemplar,)),) = self.exemplars(registry).items()
        span = seen.one("execute pay")
        assert span.context
        assert span.end_time
        assert (found, exemplar.trace_id, exemplar.span_id) == (outcome, span.context.trace_id, span.context.span_id)
        assert 0.0 <= exemplar.value < 1.0
        assert abs(exemplar.at - span.end_time) < 10**9

    def test_those_of_calls_that_a_fallback_served(self, seen: Seen) -> None:
        registry = Registry()
        fallback(default=0, name="pay", registry=registry).call(Scripted.body(LookupError()))
        assert set(self.exemplars(registry)) == {"fallback"}

    def test_blocks_and_loops_have_them_too(self, seen: Seen) -> None:
        registry = Registry()
        with circuit_breaker("pay", registry=registry):
            pass
        assert [len(found) for found in self.exemplars(registry).values()] == [1]

    @pytest.mark.parametrize("flags", [0, 2])
    def test_there_are_none_below_an_unsampled_parent(self, seen: Seen, flags: int) -> None:
        registry = Registry()
        token = context.attach(set_span_in_context(parent_with(flags), Context()))
        circuit_breaker("pay", registry=registry).call(int)
        context.detach(token)
        assert self.exemplars(registry) == {}

    @pytest.mark.parametrize("decision", [sampling.Decision.DROP, sampling.Decision.RECORD_ONLY])
    def test_there_are_none_where_ours_is_not_sampled(
        self, monkeypatch: pytest.MonkeyPatch, decision: sampling.Decision
    ) -> None:
        registry = Registry()
        with recording(monkeypatch, sampling.StaticSampler(decision)) as seen:
            token = context.attach(set_span_in_context(parent_with(1), Context()))
            circuit_breaker("pay", registry=registry).call(int)
            context.detach(token)
            assert len(seen.ended) == (decision is sampling.Decision.RECORD_ONLY)
        assert self.exemplars(registry) == {}

    def test_there_are_none_without_a_provider(self, monkeypatch: pytest.MonkeyPatch) -> None:
        registry = Registry()
        monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
        circuit_breaker("pay", registry=registry).call(int)
        assert self.exemplars(registry) == {}
