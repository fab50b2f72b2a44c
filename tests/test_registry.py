"""Names lead to policies, and a snapshot tells what they are doing without getting in anybody's way."""

from __future__ import annotations

import gc
import json
import threading
from _thread import LockType, RLock
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

import resilient
from resilient import (
    CircuitBreaker,
    Registry,
    Retry,
    RetryBudget,
    Timeout,
    circuit_breaker,
    pipeline,
    retry,
    standard_pipeline,
    timeout,
)
from resilient.testing import FakeClock


@pytest.fixture
def private() -> Registry:
    return Registry()


def test_find_gives_the_policy_of_a_class_and_name(private: Registry) -> None:
    breaker = circuit_breaker("payments", registry=private)
    assert private.find(CircuitBreaker, "payments") is breaker
    assert private.find(CircuitBreaker, "orders") is None
    assert private.find(Retry, "payments") is None


def test_all_gives_the_policies_of_a_class_in_order(private: Registry) -> None:
    breakers = [circuit_breaker(name, registry=private) for name in ("b", "a", "c")]
    retry(name="b", registry=private)
    assert private.all(CircuitBreaker) == breakers
    assert private.all(Timeout) == []


def test_iterating_gives_every_policy_once(private: Registry) -> None:
    line = standard_pipeline("payments", registry=private)
    assert set(private) == set(line.policies)
    assert len(private) == len(line.policies) == 4


def test_iterating_while_policies_come_and_go_is_safe(private: Registry) -> None:
    for name in ("a", "b", "c"):
        circuit_breaker(name, registry=private)
    seen: list[str | None] = []
    for policy in private:
        seen.append(policy.name)
        private.clear()
        circuit_breaker(f"new {policy.name}", registry=private)
    assert seen == ["a", "b", "c"]


def test_remove_forgets_a_policy_and_tells_whether_it_was_there(private: Registry) -> None:
    first = circuit_breaker("payments", registry=private)
    retry(name="payments", registry=private)
    assert private.remove(CircuitBreaker, "payments")
    assert not private.remove(CircuitBreaker, "payments")
    assert private.find(CircuitBreaker, "payments") is None
    assert private.find(Retry, "payments") is not None
    assert "circuit_breaker" not in private.snapshot()
    second = circuit_breaker("payments", open_duration=5.0, registry=private)
    assert second is not first


def test_a_removed_policy_still_guards(private: Registry) -> None:
    breaker = circuit_breaker("payments", registry=private)
    guarded = breaker(lambda: "done")
    private.remove(CircuitBreaker, "payments")
    breaker.force_open()
    with pytest.raises(resilient.CircuitOpenError):
        guarded()


def test_clear_forgets_everything(private: Registry) -> None:
    standard_pipeline("payments", registry=private).call(len, "four")
    private.clear()
    assert len(private) == 0
    assert list(private) == []
    assert private.snapshot() == {}


def test_the_default_registry_is_used_where_no_other_is_given() -> None:
    name = "tests.test_registry.default"
    breaker = circuit_breaker(name)
    try:
        assert resilient.registry.find(CircuitBreaker, name) is breaker
    finally:
        resilient.registry.remove(CircuitBreaker, name)


def test_registries_know_nothing_of_each_other(private: Registry) -> None:
    other = Registry()
    first = circuit_breaker("payments", failure_rate=0.5, registry=private)
    second = circuit_breaker("payments", failure_rate=0.9, registry=other)
    assert first is not second
    assert private.find(CircuitBreaker, "payments") is first
    assert other.find(CircuitBreaker, "payments") is second


def busy(private: Registry) -> tuple[Any, ...]:
    """Policies in every state, with something in every counter."""
    line = pipeline(
        "payments",
        timeout(9.0, registry=private),
        retry(attempts=2, attempt_timeout=5.0, budget=RetryBudget(), registry=private),
        circuit_breaker(
            failure_rate=0.5, window_duration=60, slow_call_rate=0.5, slow_call_duration=1.0, registry=private
        ),
        registry=private,
    )
    for number in range(12):
        with pytest.raises((ZeroDivisionError, resilient.CircuitOpenError)):
            line.call(lambda: 1 / 0)
        if number % 3 == 0:
            line.policies[2].reset()  # type: ignore[attr-defined]
            line.call(len, "four")
    for name in ("closed", "open", "forced_open", "half_open", "disabled"):
        breaker = circuit_breaker(name, registry=private)
        if name == "open":
            breaker.trip()
        elif name == "forced_open":
            breaker.force_open()
        elif name == "disabled":
            breaker.disable()
        elif name == "half_open":
            breaker.trip(0.0)
            breaker.__enter__()
    return tuple(private)


def test_a_snapshot_is_json(private: Registry, fake_clock: FakeClock) -> None:
    busy(private)
    snapshot = private.snapshot()
    text = json.dumps(snapshot, allow_nan=False)
    assert json.loads(text) == snapshot
    breakers = snapshot["circuit_breaker"]
    assert {name: breakers[name]["state"] for name in ("open", "forced_open", "half_open", "disabled", "closed")} == {
        "open": "open",
        "forced_open": "forced_open",
        "half_open": "half_open",
        "disabled": "disabled",
        "closed": "closed",
    }
    wanted = {
        "state",
        "since_seconds",
        "retry_after",
        "failure_rate",
        "slow_call_rate",
        "calls",
        "failures",
        "slow_calls",
        "rejected",
        "last_error",
    }
    assert wanted <= set(breakers["payments"])


def test_rates_are_null_below_the_minimum(private: Registry) -> None:
    circuit_breaker("payments", registry=private).call(len, "four")
    (breaker,) = private.snapshot()["circuit_breaker"].values()
    assert breaker["failure_rate"] is None
    assert breaker["slow_call_rate"] is None
    assert breaker["calls"] == 1


def test_a_snapshot_changes_nothing(private: Registry, fake_clock: FakeClock) -> None:
    busy(private)
    fake_clock.advance(31.0)
    before = private.snapshot()
    for _ in range(5):
        assert private.snapshot() == before
    assert before["circuit_breaker"]["open"]["state"] == "open", "only a call makes it half-open"


def locks_of(things: Any) -> Iterator[Any]:
    """Every lock that can be reached from these objects through objects of the package."""
    seen: set[int] = set()
    todo = list(things)
    while todo:
        thing = todo.pop()
        if id(thing) in seen or isinstance(thing, type):
            continue
        seen.add(id(thing))
        if isinstance(thing, (LockType, RLock)):
            yield thing
        elif str(type(thing).__module__).startswith("resilient") or isinstance(thing, (dict, list, tuple, set)):
            todo.extend(gc.get_referents(thing))
        elif callable(thing) and getattr(thing, "__module__", "") is not None:
            todo.extend(cell.cell_contents for cell in getattr(thing, "__closure__", None) or () if cell is not None)
            todo.append(getattr(thing, "__self__", None))


def is_free(lock: Any) -> bool:
    free: bool = lock.acquire(blocking=False)
    if free:
        lock.release()
    return free


def test_a_snapshot_takes_no_lock_that_a_call_waits_on(private: Registry, fake_clock: FakeClock) -> None:
    """All locks of all policies are held by another thread for as long as the snapshot takes."""
    policies = busy(private)
    expected = private.snapshot()
    locks = [lock for lock in locks_of(policies) if is_free(lock)]
    assert len(locks) >= len(policies), "each policy has one at the least"
    assert any(policy._circuit.lock in locks for policy in private.all(CircuitBreaker))

    held, done = threading.Event(), threading.Event()
    taken: list[dict[str, object]] = []

    def hold() -> None:
        with ExitStack() as stack:
            for lock in locks:
                stack.enter_context(lock)
            held.set()
            done.wait(10.0)

    def look() -> None:
        taken.append(private.snapshot())

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(10.0)
    assert not any(is_free(lock) for lock in locks)
    looker = threading.Thread(target=look, daemon=True)
    looker.start()
    looker.join(10.0)
    finished = not looker.is_alive()
    done.set()
    holder.join()
    assert finished, "the snapshot waits for a lock"
    assert taken == [expected]


def test_names_can_be_used_from_many_threads_at_once(private: Registry) -> None:
    barrier = threading.Barrier(8, timeout=10.0)
    made: list[CircuitBreaker] = []

    def make() -> None:
        barrier.wait()
        made.extend(circuit_breaker(f"name {number}", registry=private) for number in range(50))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10.0)
    assert len(made) == 400
    assert len(set(made)) == len(private) == 50


def test_a_registry_says_how_much_it_holds(private: Registry) -> None:
    circuit_breaker("payments", registry=private)
    assert repr(private) == "<Registry of 1 policies>"
