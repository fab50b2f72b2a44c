"""The same work written by hand: one function a case, for this one call, without forwarding arguments.

Each counts what the guarded call counts (calls begun, outcomes, a histogram of durations) in plain slots, with one pair
of instants a call, and each has the branches that a failure or a rejection would take. None can be reused, named,
looked at, traced or told to stop; that is what the rest of the time buys.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from threading import Lock
from time import monotonic as now
from typing import NoReturn

from benchmarks.timing import work, work_async

Sync = Callable[[], object]
Async = Callable[[], Awaitable[object]]

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
DEADLINE: ContextVar[float | None] = ContextVar("deadline", default=None)
ATTEMPTS = 3
SECONDS = 30.0
PERIOD = 1e-9
BURST = 1e9


class OpenError(Exception):
    """The circuit is open."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class State:
    """What one call by hand keeps: counters, a circuit, permits."""

    __slots__ = (
        "accepted",
        "allowed",
        "arrival",
        "completed",
        "counts",
        "failures",
        "first_try",
        "free",
        "lock",
        "not_needed",
        "open",
        "opened_at",
        "recent",
        "rejected",
        "retries",
        "served",
        "started",
        "success",
        "sum",
    )

    def __init__(self, window: int = 5, permits: int = 10) -> None:
        self.started = self.success = self.failures = self.rejected = self.first_try = self.retries = 0
        self.accepted = self.completed = self.not_needed = self.served = self.allowed = 0
        self.sum = 0.0
        self.counts = [0] * (len(BOUNDS) + 1)
        self.open = False
        self.opened_at = 0.0
        self.recent: deque[bool] = deque(maxlen=window)
        self.free = permits
        self.arrival = 0.0
        self.lock = Lock()

    def failed(self) -> None:
        with self.lock:
            self.failures += 1
            self.recent.append(False)
            if len(self.recent) == self.recent.maxlen and not any(self.recent):
                self.open, self.opened_at = True, now()

    def refuse(self, started: float) -> NoReturn:
        elapsed = now() - started
        self.rejected += 1
        bucket = bisect_left(BOUNDS, elapsed)
        self.counts[bucket] += 1
        retry_after = self.opened_at + SECONDS - started
        raise OpenError(f"the circuit is open; try again in {retry_after:.3g} s", retry_after)


def breaker(window: int = 5) -> Sync:
    state = State(window)
    counts, recent = state.counts, state.recent

    def call() -> object:
        state.started += 1
        started = now()
        if state.open:
            state.refuse(started)
        try:
            result = work()
        except Exception:
            state.failed()
            raise
        recent.append(True)
        state.success += 1
        elapsed = now() - started
        bucket = bisect_left(BOUNDS, elapsed)
        counts[bucket] += 1
        state.sum += elapsed
        return result

    return call


def breaker_async(window: int = 5) -> Async:
    state = State(window)
    counts, recent = state.counts, state.recent

    async def call() -> object:
        state.started += 1
        started = now()
        if state.open:
            state.refuse(started)
        try:
            result = await work_async()
        except Exception:
            state.failed()
            raise
        recent.append(True)
        state.success += 1
        elapsed = now() - started
        bucket = bisect_left(BOUNDS, elapsed)
        counts[bucket] += 1
        state.sum += elapsed
        return result

    return call


def open_breaker() -> Sync:
    state = State()
    state.open, state.opened_at = True, now() + 1e6

    def call() -> object:
        state.started += 1
        started = now()
        if state.open:
            state.refuse(started)
        return work()

    def caught() -> object:
        try:
            return call()
        except OpenError as error:
            return error

    return caught


def open_breaker_async() -> Async:
    state = State()
    state.open, state.opened_at = True, now() + 1e6

    async def call() -> object:
        state.started += 1
        started = now()
        if state.open:
            state.refuse(started)
        return await work_async()

    async def caught() -> object:
        try:
            return await call()
        except OpenError as error:
            return error

    return caught


def open_breaker_with_fallback() -> Sync:
    state = State()
    state.open, state.opened_at = True, now() + 1e6
    counts = state.counts

    def call() -> object:
        state.started += 1
        started = now()
        if state.open:
            state.rejected += 1
            state.served += 1
            elapsed = now() - started
            bucket = bisect_left(BOUNDS, elapsed)
            counts[bucket] += 1
            state.sum += elapsed
            return None
        return work()

    return call


def retry() -> Sync:
    state = State()
    counts = state.counts

    def call() -> object:
        state.started += 1
        started = now()
        attempt = 1
        while True:
            try:
                result = work()
                break
            except Exception as error:
                if attempt == ATTEMPTS or not isinstance(error, Exception):
                    raise
                attempt += 1
                state.retries += 1
        if attempt == 1:
            state.first_try += 1
        elapsed = now() - started
        bucket = bisect_left(BOUNDS, elapsed)
        counts[bucket] += 1
        state.sum += elapsed
        return result

    return call


def retry_async() -> Async:
    state = State()
    counts = state.counts

    async def call() -> object:
        state.started += 1
        started = now()
        attempt = 1
        while True:
            try:
                result = await work_async()
                break
            except Exception as error:
                if attempt == ATTEMPTS or not isinstance(error, Exception):
                    raise
                attempt += 1
                state.retries += 1
        if attempt == 1:
            state.first_try += 1
        elapsed = now() - started
        bucket = bisect_left(BOUNDS, elapsed)
        counts[bucket] += 1
        state.sum += elapsed
        return result

    return call


def bulkhead() -> Sync:
    state = State()
    counts = state.counts

    def call() -> object:
        state.started += 1
        started = now()
        if state.free <= 0:
            state.refuse(started)
        state.free -= 1
        state.accepted += 1
        try:
            result = work()
        finally:
            state.free += 1
        elapsed = now() - started
        bucket = bisect_left(BOUNDS, elapsed)
        counts[bucket] += 1
        state.sum += elapsed
        return result

    return call


def bulkhead_async() -> Async:
    state = State()
    counts = state.counts

    async def call() -> object:
        state.started += 1
        started = now()
        if state.free <= 0:
            state.refuse(started)
        state.free -= 1
        state.accepted += 1
        try:
            result = await work_async()
        finally:
            state.free += 1
        elapsed = now() - started
        bucket = bisect_left(BOUNDS, elapsed)
        counts[bucket] += 1
        state.sum += elapsed
        return result

    return call


def rate_limiter() -> Sync:
    state = State()
    counts, lock = state.counts, state.lock
    tolerance = PERIOD * (BURST - 1)

    def call() -> object:
        state.started += 1
        started = now()
        with lock:
            arrival = state.arrival if state.arrival > started else started
            allowed = arrival - tolerance <= started
            if allowed:
                state.arrival = arrival + PERIOD
        if not allowed:
            state.refuse(started)
        state.allowed += 1
        result = work()
        elapsed = now() - started
        bucket = bisect_left(BOUNDS, elapsed)
        counts[bucket] += 1
        state.sum += elapsed
        return result

    return call


def rate_limiter_async() -> Async:
    state = State()
    counts, lock = state.counts, state.lock
    tolerance = PERIOD * (BURST - 1)

    async def call() -> object:
        state.started += 1
        started = now()
        with lock:
            arrival = state.arrival if state.arrival > started else started
            allowed = arrival - tolerance <= started
            if allowed:
                state.arrival = arrival + PERIOD
        if not allowed:
            state.refuse(started)
        state.allowed += 1
        result = await work_async()
        elapsed = now() - started
        bucket = bisect_left(BOUNDS, elapsed)
        counts[bucket] += 1
        state.sum += elapsed
        return result

    return call
