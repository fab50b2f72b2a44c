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
    circuit_breaker,
    pipeline,
    retry,
    timeout,
)
from resilient.core import circuit
from resilient.core.clock import CLOCK
from resilient.testing import FakeClock
from tests.behaviour.kit import PATIENCE, RETRY_FACES, SCOPE_FACES, Asyncio, Backend, Body, Threads, Trio

WORKERS: list[Backend] = [Threads(), Threads(), Threads(), Asyncio(), Asyncio(), Trio()]
CALLS = 400


class Neutral(BaseException):
    """Neither success nor failure."""


@pytest.fixture(autouse=True)
def _threads_change_over_as_often_as_they_can() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def on_all_at_once(work: Callable[[Backend, int], Any]) -> None:
    """Run `CALLS` calls of `work(backend, number)` on each of three threads, two asyncio loops and trio, all at once.

    On a loop they are spread over ten tasks.
    """
    begin = threading.Barrier(len(WORKERS))
    errors: list[BaseException] = []

    async def share(backend: Backend, first: int, step: int) -> None:
        for number in range(first, CALLS, step):
            await work(backend, number)

    async def main(backend: Backend) -> None:
        if backend.name == "threads":
            await share(backend, 0, 1)
            return
        async with backend.group() as spawn:
            for task in range(10):
                spawn(share, backend, task, 10)

    def worker(backend: Backend) -> None:
        begin.wait(PATIENCE)
        try:
            backend.run(main, backend)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=worker, args=[backend], daemon=True) for backend in WORKERS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads)
    if errors:
        raise errors[0]


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


def test_no_count_is_lost_where_threads_meet_in_the_shortest_of_calls(private: Registry) -> None:
    policies = (
        retry(registry=private),
        circuit_breaker(registry=private),
        timeout(60.0, registry=private),
    )

    @pipeline("shared", *policies, registry=private)
    def guarded() -> None: ...

    def work() -> None:
        for _ in range(4000):
            guarded()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    meter = private.snapshot()["pipeline"]["shared"]
    assert (meter["active"], meter["calls"]["success"]) == (0, 32_000)  # type: ignore[index]
    counted: list[Any] = [policy.snapshot() for policy in policies]
    assert counted[0]["calls"]["first_try"] == 32_000
    assert counted[1]["totals"]["success"] == 32_000
    assert counted[2]["calls"]["completed"] == 32_000


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
    breaker = circuit_breaker(
        "shared", open_duration=20, half_open_calls=3, success_threshold=10**6, registry=private
    )
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


# No lock is held while user code runs


def _shared_policies(registry: Registry) -> list[Any]:
    retrying = retry(attempts=2, registry=registry, attempt_timeout=60.0)
    breaker = circuit_breaker(slow_call_rate=1.0, slow_call_duration=60, registry=registry)
    probing = circuit_breaker("probing", half_open_calls=5, registry=registry)
    probing.trip(0)
    limit = timeout(60.0, registry=registry)
    both = pipeline("both", timeout(60.0, registry=registry), circuit_breaker(registry=registry), registry=registry)
    return [
        *((retrying, face) for face in RETRY_FACES),
        *((policy, face) for policy in (breaker, probing, limit, both) for face in SCOPE_FACES),
    ]


def test_five_bodies_are_inside_every_policy_at_once(backend: Backend, private: Registry) -> None:
    async def main() -> None:
        for policy, face in _shared_policies(private):

            async def enter(body: Body, policy: Any = policy, face: str = face) -> None:
                await backend.use(face, policy, body)

            await backend.all_at_once(5, enter)

    backend.run(main)


def five_threads(call: Callable[[], object]) -> None:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except ConnectionError:
            pass
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, daemon=True) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not errors, errors


def fail() -> None:
    raise ConnectionError


def succeed() -> str:
    return "result"


def test_five_threads_are_inside_every_callable_of_the_users_at_once(private: Registry) -> None:
    def meeting(answer: object) -> Any:
        """A function that returns only where five threads are in it at once."""
        barrier = threading.Barrier(5)

        def function(*_: object) -> object:
            barrier.wait(PATIENCE)
            return answer

        return function

    for policy, function in (
        (retry(on=meeting(False), registry=private), fail),
        (retry(on_result=meeting(False), registry=private), succeed),
        (retry(retry_after=meeting(0.0), attempts=2, registry=private), fail),
        (retry(backoff=meeting(0.0), attempts=2, registry=private), fail),
        (circuit_breaker(on=meeting(True), registry=private), fail),
        (circuit_breaker(ignore=meeting(True), registry=private), fail),
        (circuit_breaker(on_result=meeting(False), registry=private), succeed),
        (circuit_breaker(consecutive_failures=1, open_duration=meeting(9.0), registry=private), fail),
    ):
        five_threads(lambda policy=policy, function=function: policy.call(function))  # type: ignore[misc]


def test_five_threads_are_inside_a_listener_at_once(private: Registry) -> None:
    barrier = threading.Barrier(5)
    policy = retry(attempts=2, backoff=0.0, registry=private)
    policy.subscribe(lambda event: barrier.wait(PATIENCE), kinds="retry_scheduled")
    five_threads(lambda: policy.call(fail))
    assert not barrier.broken


def test_a_listener_that_hangs_holds_no_call_up(private: Registry) -> None:
    breaker = circuit_breaker(consecutive_failures=1, open_duration=0.0001, registry=private)
    hanging, done = threading.Event(), threading.Event()

    def listener(event: Event) -> None:
        hanging.set()
        done.wait(PATIENCE)

    breaker.subscribe(listener)
    teller = threading.Thread(target=breaker.trip, daemon=True)
    teller.start()
    assert hanging.wait(PATIENCE)
    breaker.reset()
    assert breaker.call(succeed) == "result"
    with pytest.raises(ConnectionError):
        breaker.call(fail)
    done.set()
    teller.join(PATIENCE)
    assert not teller.is_alive()


def test_a_listener_may_call_back_into_the_policy(private: Registry) -> None:
    breaker = circuit_breaker(consecutive_failures=1, registry=private)
    seen: list[object] = []

    def listener(event: Event) -> None:
        seen.append((event.data["to"], breaker.snapshot()["state"]))
        breaker.reset()

    breaker.subscribe(listener, kinds="circuit_state_changed")
    with pytest.raises(ConnectionError):
        breaker.call(fail)
    assert breaker.state is CircuitState.CLOSED
    assert seen == [("open", "open"), ("closed", "closed")]


def test_five_threads_wait_for_their_next_attempt_at_once(private: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    barrier = threading.Barrier(5)
    policy = retry(attempts=2, backoff=1.0, registry=private)
    monkeypatch.setattr(CLOCK, "sleep", lambda seconds: barrier.wait(PATIENCE))
    five_threads(lambda: policy.call(fail))
    assert not barrier.broken
