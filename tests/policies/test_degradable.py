"""Features that go off, and work that is refused, by the level of a degradation."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from itertools import pairwise
from typing import Any

import pytest

from resilient import Event, Registry, RejectedError, pipeline, retry
from resilient.backoff import constant
from resilient.degradation import Degradation
from resilient.policies.degradable import Degradable
from resilient.policies.sheddable import PRIORITIES, Sheddable, refused_at
from resilient.testing import FakeClock, disabled, record_events
from tests.behaviour.kit import SCOPE_FACES, Asyncio, Backend, Threads, Trio

BACKENDS: list[Backend] = [Threads(), Asyncio(), Trio()]

everywhere = pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def degradation(registry: Registry) -> Degradation:
    made = Degradation(name="shop", registry=registry)
    made.feature("recommendations", off_at="reduced")
    made.feature("search", off_at="minimal")
    return made


# degradable


@everywhere
@pytest.mark.parametrize("face", ["decorated", "called"])
@pytest.mark.parametrize("fallback", [(), lambda user: ()], ids=["value", "function"])
def test_a_feature_that_is_off_is_not_called(
    degradation: Degradation, registry: Registry, backend: Backend, face: str, fallback: Any
) -> None:
    calls: list[str] = []

    async def body(user: str) -> tuple[str, ...]:
        await backend.checkpoint()
        calls.append(user)
        return ("a book",)

    policy: Degradable[Any] = degradation.degradable(
        "recommendations", off_at="reduced", fallback=fallback, name="books"
    )

    async def main() -> None:
        assert await backend.use(face, policy, body, "anna") == ("a book",)
        degradation.force_level("reduced")
        assert await backend.use(face, policy, body, "anna") == ()

    backend.run(main)
    assert calls == ["anna"]
    assert policy.snapshot() == {
        "feature": "recommendations",
        "calls": {"not_needed": 1, "applied": 1, "failed": 0},
    }


def test_an_async_fallback_is_awaited_and_refused_for_plain_functions(degradation: Degradation) -> None:
    async def less(user: str) -> str:
        return f"less for {user}"

    policy = degradation.degradable("search", off_at="minimal", fallback=less)
    degradation.force("search", False)

    async def search(user: str) -> str:
        return user

    assert asyncio.run(policy.call_async(search, "anna")) == "less for anna"
    with pytest.raises(TypeError, match=r"the fallback .*less is async"):
        policy(lambda user: user)


@pytest.mark.parametrize("kind", ["generator", "async generator"])
def test_generators_and_blocks_are_refused(degradation: Degradation, kind: str) -> None:
    policy = degradation.degradable("search", off_at="minimal", fallback=None)

    def items() -> Iterator[int]:
        yield 1

    async def async_items() -> Any:
        yield 1

    with pytest.raises(TypeError, match=f"can't guard {kind} functions"):
        policy(items if kind == "generator" else async_items)
    with pytest.raises(TypeError, match="block"), policy:
        pass


@everywhere
@pytest.mark.parametrize("face", ["decorated", "called"])
def test_what_the_function_raises_passes_as_the_same_object(
    degradation: Degradation, backend: Backend, face: str
) -> None:
    error = ConnectionError("theirs")

    async def failing() -> None:
        raise error

    async def main() -> None:
        with pytest.raises(ConnectionError) as caught:
            await backend.use(face, degradation.degradable("search", off_at="minimal", fallback=None), failing)
        assert caught.value is error

    backend.run(main)


def test_in_a_pipeline_the_outcome_is_a_fallback_and_no_retry_is_made(
    degradation: Degradation, registry: Registry
) -> None:
    tried: list[None] = []
    policy = pipeline(
        "search",
        retry(attempts=3, backoff=constant(0), registry=registry),
        degradation.degradable("search", off_at="minimal", fallback="nothing"),
        registry=registry,
    )
    degradation.force_level("minimal")
    assert policy.call(tried.append, None) == "nothing"
    assert tried == []
    calls: Any = registry.snapshot()["pipeline"]["search"]["calls"]
    assert calls["fallback"] == 1


def test_a_failing_fallback_raises_its_own_error(degradation: Degradation) -> None:
    def less() -> None:
        raise LookupError("nothing")

    policy = degradation.degradable("search", off_at="minimal", fallback=less)
    degradation.force("search", False)
    with pytest.raises(LookupError, match="nothing"):
        policy.call(int)
    calls: Any = policy.snapshot()["calls"]
    assert calls["failed"] == 1


def test_with_policies_disabled_the_function_is_called(degradation: Degradation) -> None:
    policy = degradation.degradable("search", off_at="minimal", fallback="less")
    degradation.force("search", False)
    with disabled():
        assert policy.call(len, "four") == 4


# sheddable


def test_the_least_important_is_refused_first_and_critical_work_never() -> None:
    assert [sorted(refused_at(level, 2)) for level in range(3)] == [
        [],
        ["best_effort", "bulk"],
        ["best_effort", "bulk", "standard"],
    ]
    assert [sorted(refused_at(level, 1)) for level in range(2)] == [[], ["best_effort", "bulk", "standard"]]
    for highest in range(1, 8):
        refused = [refused_at(level, highest) for level in range(highest + 1)]
        assert (refused[0], refused[highest]) == (frozenset(), frozenset(PRIORITIES[1:]))
        assert all(lower <= upper for lower, upper in pairwise(refused))


@everywhere
@pytest.mark.parametrize("face", SCOPE_FACES)
def test_work_of_low_priority_is_refused_under_pressure(degradation: Degradation, backend: Backend, face: str) -> None:
    calls: list[None] = []

    async def body() -> str:
        await backend.checkpoint()
        calls.append(None)
        return "done"

    bulk: Sheddable = degradation.sheddable(priority="bulk", name="exports")
    critical = degradation.sheddable(priority="critical")

    async def main() -> None:
        assert await backend.use(face, bulk, body) == "done"
        degradation.force_level("reduced")
        with pytest.raises(RejectedError, match="at level 'reduced' there is no room for bulk work") as caught:
            await backend.use(face, bulk, body)
        assert caught.value.policy == "exports"
        assert await backend.use(face, critical, body) == "done"

    with record_events() as events:
        backend.run(main)
    assert len(calls) == 2
    assert bulk.snapshot() == {"priority": "bulk", "rejected": 1, "totals": {"passed": 1, "rejected": 1}}
    assert [dict(event.data) for event in events if event.kind == "call_rejected"] == [
        {"priority": "bulk", "level": "reduced"}
    ]


# what holds for all policies

VARIABLE: ContextVar[str] = ContextVar("variable", default="unset")


@everywhere
@pytest.mark.parametrize("passing", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_is_no_exception_passes_and_context_variables_come_out(
    degradation: Degradation, backend: Backend, passing: type[BaseException]
) -> None:
    both = pipeline(
        "both",
        degradation.degradable("search", off_at="minimal", fallback=None),
        degradation.sheddable(priority="standard"),
        registry=Registry(),
    )

    async def throwing() -> None:
        VARIABLE.set("from the body")
        raise passing

    async def main() -> None:
        token = VARIABLE.set("from the caller")
        with pytest.raises(passing):
            await backend.called(both, throwing)
        assert VARIABLE.get() == "from the body"
        VARIABLE.reset(token)

    backend.run(main)


@everywhere
def test_ten_thousand_calls_leave_nothing_behind(
    degradation: Degradation, fake_clock: FakeClock, backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    # The test runner keeps what is logged.
    caplog.set_level(logging.CRITICAL, "resilient")
    seen: set[object] = set()
    degradation.subscribe(lambda event: seen.add(event.data.get("to")))
    both = pipeline(
        "both",
        degradation.degradable("search", off_at="minimal", fallback=None),
        degradation.sheddable(priority="bulk"),
        registry=Registry(),
    )
    degradation.signal("load", lambda: fake_clock.now() % 60 / 60)

    async def some(count: int) -> int:
        for _ in range(count):
            fake_clock.advance(0.25)
            try:
                await backend.called(both, backend.checkpoint)
            except RejectedError:
                pass
        gc.collect()
        return len(gc.get_objects())

    async def main() -> None:
        await some(200)
        before, threads = await some(200), threading.active_count()
        # Other threads of the test process go on meanwhile; what each call left would be ten times as much.
        assert await some(10_000) - before < 1000
        assert threading.active_count() <= threads

    backend.run(main)
    assert seen == {"normal", "reduced", "minimal"}


@pytest.mark.realtime
def test_eight_threads_and_a_changing_level_lose_no_count_and_no_event(registry: Registry) -> None:
    made = Degradation(registry=registry)
    policy = made.degradable("feature", off_at="reduced", fallback="less", name="counted")
    events: list[Event] = []
    made.subscribe(events.append)
    begin = threading.Barrier(9)

    def call() -> None:
        begin.wait(10)
        for _ in range(2_000):
            assert policy.call(str, "full") in ("full", "less")

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    begin.wait(10)
    while any(thread.is_alive() for thread in threads):
        made.force_level("reduced")
        made.force_level(None)
        time.sleep(0)
    calls: Any = policy.snapshot()["calls"]
    assert calls["not_needed"] + calls["applied"] == 16_000
    assert calls["failed"] == 0
    assert [event.data["to"] for event in events] == ["reduced", "normal"] * (len(events) // 2)
