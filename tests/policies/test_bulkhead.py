"""The bulkhead in all its faces, on threads, asyncio and trio: who gets in, who waits, who is refused."""

from __future__ import annotations

import asyncio
import gc
import json
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import trio

from resilient import (
    Bulkhead,
    BulkheadFullError,
    ConfigurationError,
    Event,
    Registry,
    TimeoutExceededError,
    adaptive,
    bulkhead,
    pipeline,
    timeout,
)
from resilient.testing import fake_clock
from tests.policies.bulkhead_kit import (
    Hold,
    Through,
    at_rest,
    faces,
    fresh,
    until,
)

# What it does


@faces
def test_a_call_gets_its_result_and_holds_a_permit_meanwhile(through: Through) -> None:
    policy = fresh(max_concurrent=2)
    assert through(policy, lambda: policy.in_flight) == 1
    assert at_rest(policy)


@faces
def test_a_full_bulkhead_refuses_and_the_body_is_not_run(through: Through) -> None:
    policy = fresh(name="reports", max_concurrent=1)
    ran: list[None] = []
    with Hold(policy):
        with pytest.raises(BulkheadFullError, match="bulkhead 'reports' is full: its only permit is taken") as caught:
            through(policy, lambda: ran.append(None))
    assert not ran
    assert (caught.value.policy, caught.value.retry_after) == ("reports", None)
    assert at_rest(policy)


@faces
def test_whoever_waits_gets_the_permit_that_comes_back(through: Through) -> None:
    policy = fresh(max_concurrent=1, max_queue=1)
    hold = Hold(policy)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(through, policy, lambda: policy.in_flight)
        until(lambda: policy.queued == 1)
        hold.leave()
        assert waiting.result(10.0) == 1
    assert at_rest(policy)
    assert policy.snapshot()["totals"] == {"accepted": 1, "queued": 1, "rejected": 0, "queue_timeout": 0}


@faces
def test_a_wait_ends_after_the_queue_timeout(through: Through) -> None:
    policy = fresh(max_concurrent=1, max_queue=1, queue_timeout=1.5)
    with fake_clock() as clock, Hold(policy), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(through, policy, lambda: "in")
        until(lambda: policy.queued == 1 and bool(clock._timers))
        clock.advance(1.5)
        with pytest.raises(BulkheadFullError, match=r"within 1.5 s \(queue_timeout\), after a wait of 1.5 s"):
            waiting.result(10.0)
    assert at_rest(policy)
    assert policy.snapshot()["totals"] == {"accepted": 1, "queued": 0, "rejected": 0, "queue_timeout": 1}


def test_a_wait_ends_at_the_enclosing_deadline() -> None:
    policy = fresh(max_concurrent=1, max_queue=1, queue_timeout=60)
    guarded = pipeline(timeout(2.0, interrupt="never"), policy)
    with fake_clock() as clock, Hold(policy), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(guarded.call, lambda: "in")
        until(lambda: policy.queued == 1 and bool(clock._timers))
        clock.advance(2.0)
        with pytest.raises(BulkheadFullError, match="before the deadline, after a wait of 2 s"):
            waiting.result(10.0)
    assert at_rest(policy)


@pytest.mark.parametrize("run", [asyncio.run, lambda main: trio.run(lambda: main)])
def test_a_timeout_ends_the_wait_of_a_task(run: Callable[[Any], Any]) -> None:
    policy = fresh(max_concurrent=1, max_queue=1)

    async def body() -> None:
        raise AssertionError

    async def main() -> None:
        with pytest.raises((TimeoutExceededError, BulkheadFullError)):
            await pipeline(timeout(0.01), policy).call_async(body)

    with Hold(policy):
        run(main())
        assert policy.queued == 0
    assert at_rest(policy)


def test_a_deadline_that_has_passed_lets_nobody_wait() -> None:
    policy = fresh(max_concurrent=1, max_queue=1)

    def late() -> None:
        clock.advance(3.0)
        policy.call(lambda: "in")

    with fake_clock() as clock, Hold(policy):
        with pytest.raises(BulkheadFullError, match="before the deadline, after a wait of 0 s"):
            timeout(2.0, interrupt="never").call(late)


def test_a_permit_that_comes_at_the_end_of_the_queue_timeout_is_used() -> None:
    policy = fresh(max_concurrent=1, max_queue=1, queue_timeout=1.0)
    assert policy._permits.try_acquire()
    with fake_clock() as clock, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(policy.call, lambda: "in")
        until(lambda: policy.queued == 1 and bool(clock._timers))
        # The timer fires while the permit is being handed over: the waiter finds both.
        clock.call_at(clock.now() + 1.0, policy._permits.release)
        clock._timers.sort(key=lambda timer: (timer[0], -timer[1]))
        clock.advance(1.0)
        assert waiting.result(10.0) == "in"
    assert at_rest(policy)


def test_a_permit_that_comes_at_the_deadline_goes_to_the_next() -> None:
    policy = fresh(max_concurrent=1, max_queue=2, queue_timeout=60.0)
    assert policy._permits.try_acquire()
    late = pipeline(timeout(1.0, interrupt="never"), policy)
    with fake_clock() as clock, ThreadPoolExecutor(2) as pool:
        first = pool.submit(late.call, lambda: "first")
        until(lambda: policy.queued == 1 and bool(clock._timers))
        second = pool.submit(policy.call, lambda: "second")
        until(lambda: policy.queued == 2)
        clock.call_at(clock.now() + 1.0, policy._permits.release)
        clock._timers.sort(key=lambda timer: (timer[0], -timer[1]))
        clock.advance(1.0)
        with pytest.raises(BulkheadFullError):
            first.result(10.0)
        # Were the permit lost, the second would wait in vain.
        clock.advance(60.0)
        assert second.result(10.0) == "second"
    assert at_rest(policy)


def test_a_generator_holds_its_permit_from_the_first_item_to_the_end() -> None:
    policy = fresh(max_concurrent=1)

    @policy
    def items() -> Iterator[int]:
        yield 1
        yield 2

    steps = items()
    assert policy.in_flight == 0
    assert next(steps) == 1
    assert policy.in_flight == 1
    with pytest.raises(BulkheadFullError):
        next(items())
    steps.close()  # type: ignore[attr-defined]
    assert at_rest(policy)
    assert list(items()) == [1, 2]
    assert at_rest(policy)


def test_a_generator_that_is_dropped_gives_its_permit_back() -> None:
    policy = fresh(max_concurrent=1)

    @policy
    def items() -> Iterator[int]:
        yield 1
        yield 2

    steps = items()
    next(steps)
    del steps
    gc.collect()
    assert at_rest(policy)


# Resizing


def test_a_larger_limit_lets_those_in_who_wait() -> None:
    policy = fresh(max_concurrent=1, max_queue=1)
    with Hold(policy), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(policy.call, lambda: policy.in_flight)
        until(lambda: policy.queued == 1)
        policy.resize(2)
        assert waiting.result(10.0) == 2
    assert policy.limit == 2
    assert at_rest(policy)


def test_a_smaller_limit_holds_once_those_inside_have_left() -> None:
    policy = fresh(max_concurrent=2)
    with Hold(policy):
        with Hold(policy):
            policy.resize(1)
            assert (policy.limit, policy.in_flight) == (1, 2)
        with pytest.raises(BulkheadFullError):
            policy.call(lambda: None)
    assert at_rest(policy)


def test_a_change_of_the_limit_is_told_in_order() -> None:
    policy = fresh(max_concurrent=2)
    told: list[Event] = []
    policy.subscribe(told.append, kinds="limit_changed")
    policy.resize(5)
    policy.resize(5)
    policy.resize(3)
    assert [(e.data["from"], e.data["to"], e.data["reason"]) for e in told] == [(2, 5, "resized"), (5, 3, "resized")]


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "3", None])
def test_a_wrong_limit_is_refused_and_changes_nothing(limit: Any) -> None:
    policy = fresh(max_concurrent=2)
    with pytest.raises(ConfigurationError):
        policy.resize(limit)
    assert policy.limit == 2


# Settings, names, snapshot


@pytest.mark.parametrize(
    "settings, setting",
    [
        ({"max_concurrent": 0}, "max_concurrent"),
        ({"max_concurrent": 1.0}, "max_concurrent"),
        ({"max_concurrent": True}, "max_concurrent"),
        ({"max_concurrent": "adaptive"}, "max_concurrent"),
        ({"max_queue": -1}, "max_queue"),
        ({"max_queue": None}, "max_queue"),
        ({"max_queue": 1, "queue_timeout": 0}, "queue_timeout"),
        ({"max_queue": 1, "queue_timeout": float("inf")}, "queue_timeout"),
        ({"queue_timeout": 1.0}, "queue_timeout and max_queue"),
        ({"name": ""}, "name"),
    ],
)
def test_wrong_settings_are_refused_when_the_policy_is_made(settings: dict[str, Any], setting: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        fresh(**settings)
    assert caught.value.setting == setting


def test_a_name_belongs_to_one_bulkhead_with_one_set_of_settings() -> None:
    registry = Registry()
    first = bulkhead("reports", max_concurrent=adaptive(maximum=50), registry=registry)
    assert bulkhead("reports", max_concurrent=adaptive(maximum=50), registry=registry) is first
    with pytest.raises(ConfigurationError, match="already registered with other settings: max_concurrent="):
        bulkhead("reports", max_concurrent=adaptive(maximum=51), registry=registry)
    assert registry.find(Bulkhead, "reports") is first


def test_without_parentheses_it_is_a_decorator_too() -> None:
    @bulkhead
    def work() -> int:
        return 3

    assert work() == 3
    assert isinstance(work.__resilient__.policies[0], Bulkhead)  # type: ignore[attr-defined]


def test_a_snapshot_tells_all_in_plain_values() -> None:
    registry = Registry()
    policy = bulkhead("reports", max_concurrent=2, max_queue=3, queue_timeout=0.001, registry=registry)
    with Hold(policy), Hold(policy):
        with pytest.raises(BulkheadFullError):
            policy.call(lambda: None)
        snapshot = registry.snapshot()["bulkhead"]["reports"]
    assert snapshot.pop("queue_seconds") >= 0.001  # type: ignore[operator]
    assert json.loads(json.dumps(snapshot)) == {
        "limit": 2,
        "in_flight": 2,
        "max_queue": 3,
        "queued": 0,
        "rejected": 1,
        "totals": {"accepted": 2, "queued": 0, "rejected": 0, "queue_timeout": 1},
        "algorithm": None,
    }


def test_the_error_survives_pickling() -> None:
    policy = fresh(name="reports", max_concurrent=2)
    with Hold(policy), Hold(policy):
        with pytest.raises(BulkheadFullError) as caught:
            policy.call(lambda: None)
    copied = pickle.loads(pickle.dumps(caught.value))
    assert str(copied) == (
        "bulkhead 'reports' is full: all 2 permits are taken. Try again later, or allow more with max_concurrent or "
        "let calls wait (max_queue)"
    )
    assert copied.policy == "reports"
