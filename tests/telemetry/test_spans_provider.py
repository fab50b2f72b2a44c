"""Where spans come from: the application's own provider, whenever it comes, and nothing as long as there is none."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import context, trace
from opentelemetry.trace import NoOpTracerProvider, set_span_in_context

from resilient import Registry, retry
from resilient.core.tracing import TRACING
from tests.telemetry.spans_kit import FOLLOWING, parent_with, recording

ROOT = Path(__file__).parents[2]


def guard(registry: Registry) -> Any:
    return retry(name="pay", backoff=0, registry=registry)


def failing_once() -> Callable[[], None]:
    errors = [ConnectionError()]

    def body() -> None:
        if errors:
            raise errors.pop()

    return body


class TestNoProvider:
    def test_nothing_is_opened(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
        inside: list[object] = []
        guard(Registry()).call(lambda: inside.append(trace.get_current_span()))
        assert inside == [trace.INVALID_SPAN]
        assert TRACING.open(None) is None

    def test_one_that_does_nothing_leaves_the_users_span_current(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(trace, "_TRACER_PROVIDER", NoOpTracerProvider())
        span = parent_with(1)
        token = context.attach(set_span_in_context(span))
        try:
            inside: list[Any] = []
            guard(Registry()).call(lambda: inside.append(trace.get_current_span().get_span_context()))
            assert inside == [span.get_span_context()]
        finally:
            context.detach(token)

    def test_a_module_that_is_half_imported_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "opentelemetry.trace", type(sys)("opentelemetry.trace"))
        assert guard(Registry()).call(int) == 0

    def test_a_second_provider_takes_over_from_the_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        call = guard(Registry())(failing_once())
        for _ in range(2):
            with monkeypatch.context() as patch, recording(patch) as seen:
                call()
                assert seen.ended


def test_a_tracer_that_is_switched_off_leaves_the_users_span_current(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    with recording(monkeypatch, FOLLOWING) as seen:
        span = parent_with(1)
        token = context.attach(set_span_in_context(span))
        try:
            inside: list[Any] = []
            guard(Registry()).call(lambda: inside.append(trace.get_current_span().get_span_context()))
        finally:
            context.detach(token)
        assert inside == [span.get_span_context()]
        assert seen.started == []


def run(program: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.split("\n")[:-1]


def test_nothing_is_imported_for_it() -> None:
    program = """
        import sys
        from resilient import retry
        errors = [OSError()]
        print(retry(name="pay", backoff=0).call(lambda: errors.pop() and None if not errors else 1))
        print([name for name in sys.modules if name.startswith("opentelemetry")])
    """
    assert run(program) == ["1", "[]"]


def test_spans_appear_by_themselves_once_the_application_has_set_its_provider() -> None:
    program = """
        from resilient import retry
        @retry(name="pay", backoff=0)
        def pay(answers):
            answer = answers.pop()
            if answer is None:
                raise ConnectionError
            return answer

        pay([1])
        from opentelemetry import trace
        pay([1])
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        memory = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(memory))
        trace.set_tracer_provider(provider)
        pay([1, None])
        for span in memory.get_finished_spans():
            print(span.name)
    """
    assert run(program) == ["attempt __main__.pay", "execute __main__.pay"]
