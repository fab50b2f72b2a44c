"""Whatever ends a traced call, every span ends once, the context is as it was, and nothing is left behind."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextvars import copy_context
from typing import Any

import pytest
from opentelemetry import trace

from resilient import Registry, circuit_breaker, fallback, hedge, pipeline, retry, stale, timeout
from resilient.testing import FakeClock, fake_clock
from tests.behaviour.kit import Asyncio, Backend, Trio
from tests.behaviour.subjects import Subject, every_subject
from tests.behaviour.test_cancellation import Scene, let_those_go_who_hold_a_permit
from tests.telemetry.spans_kit import Seen, own, recording


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    with recording(monkeypatch) as seen:
        yield seen


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture(params=[Asyncio(), Trio()], ids=lambda loop: loop.name)
def loop(request: pytest.FixtureRequest) -> Any:
    return request.param


@every_subject
def test_a_cancellation_at_any_await_point_ends_every_span_once_and_leaves_the_context_as_it_was(
    monkeypatch: pytest.MonkeyPatch, loop: Backend, subject: Subject, face: str, fake_clock: FakeClock
) -> None:
    async def main() -> None:
        with recording(monkeypatch) as seen:
            whole = await Scene(loop, subject, face, fake_clock).run(None)
            let_those_go_who_hold_a_permit(fake_clock)
            for point in range(whole.steps + 1):
                seen.clear()
                with seen.user("around"):
                    around = trace.get_current_span()
                    scene = Scene(loop, subject, face, fake_clock)
                    run = await scene.run(point)
                    let_those_go_who_hold_a_permit(fake_clock)
                    assert trace.get_current_span() is around
                ours = [span for span in seen.ended if span.name.startswith("execute ")]
                assert run.cancelled == (Counter(own(span)["resilience.outcome"] for span in ours)["cancelled"] == 1)
                if run.cancelled:
                    cancelled = [
                        span for span in seen.ended if own(span).get("resilience.attempt.result") == "cancelled"
                    ]
                    assert all(span.status.status_code is trace.StatusCode.UNSET for span in cancelled)

    loop.run(main)


@pytest.mark.parametrize("failures", [0, 1])
def test_a_coroutine_that_somebody_else_closes_ends_its_spans(seen: Seen, registry: Registry, failures: int) -> None:
    """As the garbage collector does, in whatever context it runs."""
    errors = [ConnectionError()] * failures

    async def body() -> None:
        if errors:
            raise errors.pop()
        await Suspended()

    with fake_clock():
        call = retry(name="pay", backoff=0, registry=registry).call_async(body)
        steps = copy_context()
        while steps.run(call.send, None) != "in the body":
            pass
    with seen.user("closing"):
        call.close()
        assert trace.get_current_span() is seen.started[-1]
    assert [own(span).get("resilience.attempt.result") for span in seen.ended[:-2]] == ["cancelled"] * failures
    assert seen.named("execute pay")[0]["resilience.outcome"] == "cancelled"


class Suspended:
    def __await__(self) -> Generator[str, None, None]:
        yield "in the body"


def everything(registry: Registry) -> Any:
    return pipeline(
        "pay",
        fallback(default=0, registry=registry),
        stale(0, 9, registry=registry),
        retry(backoff=0, registry=registry),
        circuit_breaker(failure_rate=1.0, registry=registry),
        timeout(30, registry=registry),
        registry=registry,
    )


def with_failures(registry: Registry) -> Callable[[], int]:
    """Every fifth attempt fails, and of every thirtieth call all."""
    attempts = 0

    def pay() -> int:
        nonlocal attempts
        attempts += 1
        if attempts % 5 == 0 or attempts % 30 > 27:
            raise ConnectionError
        return 1

    guarded: Callable[[], int] = everything(registry)(pay)
    return guarded


class Forgetful(list[Any]):
    def append(self, item: Any) -> None: ...


def test_ten_thousand_traced_calls_leave_nothing_and_need_no_collector(seen: Seen, registry: Registry) -> None:
    seen.started = seen.ended = Forgetful()
    pay = with_failures(registry)
    for _ in range(100):
        pay()
    gc.collect()
    gc.disable()
    try:
        before = Counter(type(thing).__qualname__ for thing in gc.get_objects())
        for _ in range(10_000):
            pay()
        after = Counter(type(thing).__qualname__ for thing in gc.get_objects())
    finally:
        gc.enable()
    left = {kind: count for kind, count in (after - before).items() if count > 50}
    assert left == {}
    assert trace.get_current_span() is trace.INVALID_SPAN


def test_ten_thousand_traced_tasks_leave_nothing(seen: Seen, registry: Registry, loop: Backend) -> None:
    seen.started = seen.ended = Forgetful()
    call = hedge(delay=60, name="hedged", registry=registry)
    again = retry(name="pay", backoff=0, registry=registry)

    async def body() -> None:
        await loop.checkpoint()

    async def main() -> Counter[str]:
        for _ in range(50):
            await call.call_async(again.call_async, body)
        gc.collect()
        before = Counter(type(thing).__qualname__ for thing in gc.get_objects())
        for _ in range(1_000):
            await call.call_async(again.call_async, body)
        for _ in range(9_000):
            await again.call_async(body)
        gc.collect()
        return Counter(type(thing).__qualname__ for thing in gc.get_objects()) - before

    left = {kind: count for kind, count in loop.run(main).items() if count > 50}
    assert left == {}
