"""What the child of a fork begins anew. Each test forks in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forking import unmeasured

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")

PREPARE = """
import os, threading, time
import resilient
from resilient import *
from tests.forking import unmeasured

def in_child(check):
    child = os.fork()
    if child == 0:
        try:
            check()
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

def elsewhere(work):
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread
"""


def run(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PREPARE + program],
        capture_output=True,
        check=False,
        env=unmeasured(),
        text=True,
        timeout=60,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_counts_begin_at_zero_in_the_child_and_go_on_in_the_parent() -> None:
    run("""
line = pipeline("line", fallback(default=None), retry(attempts=2, backoff=0), circuit_breaker(consecutive_failures=2),
                bulkhead(), rate_limiter(limit=100), throttle(), hedge(delay=9), timeout(5))

@line
def ask(works):
    if not works:
        raise ConnectionError

ask(True)
ask(False)

def totals(value):
    if isinstance(value, dict):
        return sum(totals(each) for key, each in value.items() if key not in SETTINGS)
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else 0

SETTINGS = {"limit", "period", "burst", "available", "seconds", "delay", "since_seconds", "retry_after", "failure_rate",
            "calls_in_window", "failures", "slow_call_rate", "slow_calls", "rejection_probability", "requests",
            "accepts", "time_in_state", "max_queue"}

def counted():
    shown = registry.snapshot()
    shown["circuit_breaker"]["line"].pop("calls")  # of the window
    return totals(shown)

before = counted()
assert before > 10

def check():
    assert counted() == 0, registry.snapshot()
    spent = registry.snapshot()["circuit_breaker"]["line"]["time_in_state"]
    assert sum(spent.values()) < 1.0, spent
    ask(True)
    assert registry.snapshot()["pipeline"]["line"]["calls"] == {
        "success": 0, "failure": 0, "timeout": 0, "rejected": 0, "fallback": 1, "cancelled": 0}

time.sleep(0.01)
in_child(check)
assert counted() == before
""")


def test_a_guarded_function_goes_on_counting_in_the_child() -> None:
    run("""
@circuit_breaker("plain")
def ask():
    return 1

def counted():
    return registry.snapshot()["pipeline"][f"{__name__}.ask"]["calls"]["success"]

ask()
ask()

def check():
    assert counted() == 0
    ask()
    assert counted() == 1

in_child(check)
assert counted() == 2
""")


def test_the_time_in_a_state_before_the_fork_is_the_parents() -> None:
    run("""
from resilient.testing import fake_clock

clock = fake_clock().__enter__()
breaker = circuit_breaker("line")
keyed = circuit_breaker("keys", key=lambda key: key)
clock.advance(1000.0)

def check():
    for policy in (breaker, keyed):
        assert sum(policy.snapshot()["time_in_state"].values()) < 900.0
    assert breaker.snapshot()["since_seconds"] >= 1000.0

in_child(check)
""")


def test_a_lock_that_another_thread_holds_is_free_in_the_child() -> None:
    run("""
breaker = circuit_breaker("line", consecutive_failures=1)
room = bulkhead("room", max_queue=1)
cache = stale(0, 10, name="cache")
limiter = rate_limiter("limiter", limit=1)
budget = RetryBudget()
locks = [breaker._circuit.lock, room._permits._lock, cache._cache._lock, limiter._gcra._lock, budget._lock,
         registry._lock]
held = threading.Event()

def hold():
    for lock in locks:
        lock.acquire()
    held.set()
    time.sleep(30)

elsewhere(hold)
held.wait()

def check():
    try:
        breaker.call(int, "no number")
    except ValueError:
        pass
    assert breaker.state == "open"
    room.resize(3)
    cache.call(int)
    limiter.call(int)
    assert budget.withdraw(0.0)
    circuit_breaker("another")

in_child(check)
""")


def test_permits_of_other_threads_are_free_in_the_child() -> None:
    run("""
room = bulkhead("room", max_concurrent=2, max_queue=1)
inside = threading.Event()

def stay():
    with room:
        inside.set()
        time.sleep(30)

elsewhere(stay)
inside.wait()

def check():
    assert (room.in_flight, room.queued) == (0, 0)
    with room, room:
        assert room.in_flight == 2
    for _ in range(3):
        room.call(int)
    assert (room.in_flight, room.limit) == (0, 2)

with room:
    in_child(check)
assert room.in_flight == 1
""")


def test_a_permit_of_the_thread_that_forks_comes_back_and_makes_no_more_of_them() -> None:
    run("""
room = bulkhead("room", max_concurrent=1)

with room:
    child = os.fork()
if child == 0:
    try:
        with room:
            try:
                room.call(int)
            except BulkheadFullError:
                os._exit(0)
    finally:
        os._exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
""")


def test_a_load_of_another_thread_is_not_waited_for_in_the_child() -> None:
    run("""
loading = threading.Event()

@stale(60, 600, name="cache")
def load():
    if not loading.is_set():
        loading.set()
        time.sleep(30)
    return "loaded"

elsewhere(load)
loading.wait()

def check():
    assert load() == "loaded"

in_child(check)
""")


def test_a_change_is_told_in_the_child_though_a_thread_was_telling() -> None:
    run("""
breaker = circuit_breaker("line")
telling = threading.Event()
told = []

def listen(event):
    if threading.current_thread() is not threading.main_thread():
        telling.set()
        time.sleep(30)
    told.append(event.data["to"])

breaker.subscribe(listen)
elsewhere(breaker.trip)
telling.wait()

def check():
    breaker.reset()
    assert told == ["closed"], told

in_child(check)
""")


def test_workers_do_not_wait_in_step() -> None:
    run("""
from resilient.core.retry_plan import _SOURCE

def drawn():
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.write(writer, repr(_SOURCE.random()).encode())
        os._exit(0)
    os.wait()
    return os.read(reader, 100)

assert len({drawn() for _ in range(3)}) == 3
""")
