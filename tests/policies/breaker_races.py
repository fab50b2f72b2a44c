"""Many threads in one breaker, switched at every chance; what they saw is compared with what it counted."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

from resilient import CircuitBreaker, CircuitOpenError, Event
from resilient.core.circuit import Circuit, HalfOpen, Probe
from tests.policies.breaker_kit import totals


class Ignored(Exception):
    pass


class Hesitant(Probe):
    """A probe whose making lets every other thread in."""

    __slots__ = ()

    def __init__(self, period: HalfOpen, started: float) -> None:
        time.sleep(0.0001)
        super().__init__(period, started)


class HesitantHalfOpen(HalfOpen):
    """A half-open state whose making lets every other thread in."""

    __slots__ = ()

    def __init__(self, circuit: Circuit, since: float) -> None:
        time.sleep(0.0001)
        super().__init__(circuit, since)


def run_threads(work: Callable[[int], None], threads: int) -> None:
    failures: list[BaseException] = []

    def watched(lane: int) -> None:
        try:
            work(lane)
        except BaseException as error:
            failures.append(error)

    running = [threading.Thread(target=watched, args=(lane,)) for lane in range(threads)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    if failures:
        raise failures[0]


def count_calls(policy: CircuitBreaker, *, threads: int, calls: int) -> None:
    """Each thread makes its calls; every one of them must be counted once, and as what its caller saw.

    The breaker ignores `Ignored` and opens for next to no time.
    """
    seen: list[Counter[str]] = []
    events: list[Event] = []
    stop = policy.subscribe(events.append, kinds="circuit_state_changed")

    def body(outcome: str) -> None:
        if outcome == "failure":
            raise ConnectionError
        if outcome == "ignored":
            raise Ignored

    guarded = policy(body)

    def work(lane: int) -> None:
        random_outcome = random.Random(lane)
        own = Counter[str]()
        for _ in range(calls):
            outcome = random_outcome.choices(("success", "failure", "ignored"), (60, 30, 10))[0]
            try:
                guarded(outcome)
            except ConnectionError:
                own["failure"] += 1
            except Ignored:
                own["ignored"] += 1
            except CircuitOpenError:
                own["rejected"] += 1
            else:
                own["success"] += 1
        seen.append(own)

    run_threads(work, threads)
    stop()
    expected = sum(seen, Counter[str]())
    counted = totals(policy)
    assert counted == dict(expected)
    assert sum(counted.values()) == threads * calls
    assert set(counted) == {"success", "failure", "ignored", "rejected"}
    # Every state begins where the one before it ended: no change is told twice, left out or out of order.
    path = [(event.data["from"], event.data["to"]) for event in events]
    assert path
    assert path[0][0] == "closed"
    for (_, reached), (left, _) in pairwise(path):
        assert reached == left
    assert policy.state.value == path[-1][1]
    told = Counter(f"{before}->{after}" for before, after in path)
    assert policy.snapshot()["transitions"] == dict(told)


def probe(policy: CircuitBreaker, *, limit: int, threads: int, rounds: int) -> None:
    """In every round all threads rush at a half-open breaker; never are more than `limit` of them inside at once."""
    inside = 0
    most = 0
    admitted = 0
    lock = threading.Lock()
    gate = threading.Barrier(threads)

    def body(lane: int) -> None:
        nonlocal inside, most, admitted
        with lock:
            inside += 1
            admitted += 1
            most = max(most, inside)
        time.sleep(0.0005)
        with lock:
            inside -= 1
        if lane % 3 == 0:
            raise Ignored

    guarded = policy(body)

    def work(lane: int) -> None:
        for _ in range(rounds):
            if gate.wait() == 0:
                policy.reset()
                policy.trip(0)
            gate.wait()
            try:
                guarded(lane)
            except (Ignored, CircuitOpenError):
                pass
            gate.wait()
            assert policy.state.value in ("closed", "half_open")
            out = getattr(policy._circuit.period, "out", {})
            assert not out, "a permit was not given back"
            gate.wait()

    run_threads(work, threads)
    assert most <= limit
    assert admitted >= rounds
