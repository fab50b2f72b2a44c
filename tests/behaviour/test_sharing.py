"""One policy object, shared by threads, two asyncio loops and trio at once."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest

from resilient import (
    CircuitOpenError,
    CircuitState,
    Event,
    Registry,
    bulkhead,
    circuit_breaker,
    fallback,
    pipeline,
    rate_limiter,
    retry,
    stale,
    throttle,
    timeout,
)
from resilient.core import circuit
from resilient.testing import FakeClock
from tests.behaviour.kit import PATIENCE, RETRY_FACES, SCOPE_FACES, Backend
from tests.behaviour.sharing import CALLS, WORKERS, Neutral, on_all_at_once


@pytest.fixture(autouse=True)
def _threads_change_over_as_often_as_they_can() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("face", ["decorated", "called"])
def test_every_count_is_exact(face: str, private: Registry) -> None:
    retrying = retry(attempts=3, backoff=0.0, registry=private)
    breaker = circuit_breaker(consecutive_failures=10**6, window_calls=10**6, registry=private)
    limit = timeout(60.0, registry=private)
    shared = pipeline("shared", retrying, breaker, limit, registry=private)
    guarded = {backend: backend.guard(shared, lambda body: body()) for backend in WORKERS}

    async def work(backend: Backend, number: int) -> None:
        attempts = 0

        async def body() -> None:
            nonlocal attempts
            attempts += 1
            await backend.checkpoint()
            if number % 4 == 3:
                raise Neutral
            if attempts <= (0, 1, 3)[number % 4]:
                raise ConnectionError

        try:
            if face == "decorated":
                await guarded[backend](body)
            else:
                await backend.called(shared, body)
        except (ConnectionError, Neutral):
            assert number % 4 in (2, 3)

    on_all_at_once(work)
    quarter = CALLS // 4 * len(WORKERS)
    counted = retrying.snapshot()
    assert counted["calls"] == {
        "first_try": quarter,
        "recovered": quarter,
        "not_retryable": 0,
        "exhausted": quarter,
        "budget": 0,
        "deadline": 0,
    }
    assert counted["attempts"] == {"success": 2 * quarter, "retryable_failure": 4 * quarter, "failure": 0}
    state = breaker.snapshot()
    assert state["totals"] == {
        "success": 2 * quarter,
        "failure": 4 * quarter,
        "slow": 0,
        "ignored": quarter,
        "rejected": 0,
    }
    assert (state["calls"], state["failures"]) == (6 * quarter, 4 * quarter)
    assert limit.snapshot()["calls"] == {"completed": 7 * quarter, "timed_out": 0}
    meter = private.snapshot()["pipeline"]["shared"]
    assert meter["active"] == 0
    assert meter["calls"] == {
        "success": 2 * quarter,
        "failure": quarter,
        "timeout": 0,
        "rejected": 0,
        "fallback": 0,
        "cancelled": quarter,
    }


@pytest.mark.parametrize(
    "kind",
    ["retry", "circuit_breaker", "timeout", "bulkhead", "rate_limiter", "throttle", "fallback", "stale"],
)
def test_no_count_is_lost_where_threads_meet_in_the_shortest_of_calls(kind: str, private: Registry) -> None:
    make: dict[str, Callable[[], Any]] = {
        "retry": lambda: retry(registry=private),
        "circuit_breaker": lambda: circuit_breaker(registry=private),
        "timeout": lambda: timeout(60.0, registry=private),
        "bulkhead": lambda: bulkhead(registry=private),
        "rate_limiter": lambda: rate_limiter(limit=10**6, registry=private),
        "throttle": lambda: throttle(registry=private),
        "fallback": lambda: fallback(default=0, registry=private),
        "stale": lambda: stale(3600, 3600, registry=private),
    }

    @pipeline("shared", make[kind](), registry=private)
    def guarded() -> None: ...

    begin = threading.Barrier(8)

    def work() -> None:
        begin.wait(PATIENCE)
        for _ in range(15_000):
            guarded()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    meter = private.call_meter("shared")
    assert (meter.started, meter.success.count) == (120_000, 120_000)
    counted: Any = private.snapshot()[kind]["shared"]
    counts = counted["totals"] if "totals" in counted else counted["calls"]
    assert sum(counts.values()) == 120_000
    if kind == "throttle":
        assert counted["requests"] == counted["accepts"] == 120_000


@pytest.mark.parametrize("face", SCOPE_FACES)
def test_calls_are_successes_failures_ignored_and_rejected_also_while_states_change(
    face: str, private: Registry
) -> None:
    breaker = circuit_breaker("shared", consecutive_failures=7, open_duration=0.0001, registry=private)
    transitions: list[Event] = []
    breaker.subscribe(transitions.append, kinds="circuit_state_changed")
    seen: dict[str, list[None]] = {"success": [], "failure": [], "ignored": [], "rejected": []}

    async def work(backend: Backend, number: int) -> None:
        outcome = random.choice(("success", "failure", "failure", "ignored"))

        async def body() -> None:
            await backend.checkpoint()
            seen[outcome].append(None)
            if outcome != "success":
                raise ConnectionError if outcome == "failure" else Neutral

        if number % 50 == 0:
            random.choice((breaker.trip, breaker.reset))()
        try:
            await backend.use(face, breaker, body)
        except CircuitOpenError:
            seen["rejected"].append(None)
        except (ConnectionError, Neutral):
            pass

    on_all_at_once(work)
    assert breaker.snapshot()["totals"] == {**{kind: len(calls) for kind, calls in seen.items()}, "slow": 0}
    assert sum(map(len, seen.values())) == CALLS * len(WORKERS)
    assert all(earlier.data["to"] == later.data["from"] for earlier, later in pairwise(transitions))
    assert len(transitions) == sum(breaker.snapshot()["transitions"].values())  # type: ignore[attr-defined]


@pytest.mark.parametrize("face", SCOPE_FACES)
def test_half_open_holds_its_limit_across_all_of_them(face: str, fake_clock: FakeClock, private: Registry) -> None:
    breaker = circuit_breaker("shared", open_duration=20, half_open_calls=3, success_threshold=10**6, registry=private)
    breaker.trip()
    fake_clock.advance(20.0)
    lock = threading.Lock()
    inside = peak = passed = rejected = 0

    async def work(backend: Backend, number: int) -> None:
        nonlocal rejected

        async def body() -> None:
            nonlocal inside, peak, passed
            with lock:
                inside += 1
                passed += 1
                peak = max(peak, inside)
            await backend.checkpoint()
            with lock:
                inside -= 1
            if number % 3 == 0:
                raise Neutral

        try:
            await backend.use(face, breaker, body)
        except CircuitOpenError:
            with lock:
                rejected += 1
        except Neutral:
            pass

    on_all_at_once(work)
    assert 1 <= peak <= 3
    assert passed + rejected == CALLS * len(WORKERS)
    assert breaker.state is CircuitState.HALF_OPEN
    assert not breaker._circuit.period.out  # type: ignore[union-attr]


def test_half_open_holds_its_limit_however_long_admitting_takes(
    fake_clock: FakeClock, private: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    class SlowlyMade(circuit.Probe):
        def __init__(self, *args: Any) -> None:
            time.sleep(0.001)
            super().__init__(*args)

    monkeypatch.setattr(circuit, "Probe", SlowlyMade)
    breaker = circuit_breaker(half_open_calls=2, open_duration=20, success_threshold=99, registry=private)
    breaker.trip()
    fake_clock.advance(20.0)
    inside: list[None] = []
    rejected: list[None] = []
    all_have_tried = threading.Event()

    def call() -> None:
        try:
            breaker.call(body)
        except CircuitOpenError:
            rejected.append(None)
            if len(rejected) == 6:
                all_have_tried.set()

    def body() -> None:
        inside.append(None)
        all_have_tried.wait(PATIENCE / 10)

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert (len(inside), len(rejected)) == (2, 6)


# One retry object, and every call on its own


@pytest.mark.parametrize("face", RETRY_FACES)
def test_a_thousand_tasks_in_one_retry_have_each_their_own_attempts_and_error(
    backend: Backend, face: str, fake_clock: FakeClock, private: Registry
) -> None:
    policy = retry(attempts=3, backoff=[0.5, 0.25], name="shared", registry=private)
    count = 1000 if backend.name != "threads" else 100
    finished: list[int] = []

    async def one(number: int) -> None:
        raised: list[ConnectionError] = []
        pauses = random.Random(number)

        async def body() -> int:
            for _ in range(pauses.randrange(4)):
                await backend.checkpoint()
            if len(raised) < number % 4:
                raised.append(ConnectionError(number))
                raise raised[-1]
            return number

        if number % 4 < 3:
            assert await backend.use(face, policy, body) == number
        else:
            with pytest.raises(ConnectionError) as caught:
                await backend.use(face, policy, body)
            assert caught.value is raised[2]
            (note,) = caught.value.__notes__
            assert "gave up after 3 attempts" in note
        assert len(raised) == number % 4
        finished.append(number)

    async def main() -> None:
        async with backend.group() as spawn:
            for number in range(count):
                spawn(one, number)

    backend.run(main)
    assert sorted(finished) == list(range(count))
    quarter = count // 4
    calls: Any = policy.snapshot()["calls"]
    assert (calls["first_try"], calls["recovered"], calls["exhausted"]) == (quarter, 2 * quarter, quarter)
