"""By hand, as in `by_hand`: what has a timeout in it, and several policies at once."""

from __future__ import annotations

import asyncio
import signal
from bisect import bisect_left
from collections.abc import Awaitable, Callable
from time import monotonic as now
from types import FrameType
from typing import NoReturn

from benchmarks.peers.by_hand import ATTEMPTS, BOUNDS, DEADLINE, SECONDS, Async, State, Sync
from benchmarks.timing import work, work_async


def expire(signum: int, frame: FrameType | None) -> NoReturn:
    raise TimeoutError


def timeout() -> Sync:
    """On the main thread, by the timer of the process. It can't be nested, and nobody else may use the signal."""
    state = State()
    counts = state.counts
    signal.signal(signal.SIGALRM, expire)
    arm, timer = signal.setitimer, signal.ITIMER_REAL

    def call() -> object:
        state.started += 1
        started = now()
        token = DEADLINE.set(started + SECONDS)
        try:
            arm(timer, SECONDS)
            try:
                result = work()
            finally:
                arm(timer, 0.0)
        finally:
            DEADLINE.reset(token)
        state.completed += 1
        elapsed = now() - started
        bucket = bisect_left(BOUNDS, elapsed)
        counts[bucket] += 1
        state.sum += elapsed
        return result

    return call


def timeout_async() -> Async:
    state = State()
    counts = state.counts
    loop = asyncio.get_running_loop()

    async def call() -> object:
        state.started += 1
        started = now()
        task = asyncio.current_task()
        assert task is not None
        token = DEADLINE.set(started + SECONDS)
        timer = loop.call_later(SECONDS, task.cancel)
        try:
            result = await work_async()
        except asyncio.CancelledError:
            if now() >= started + SECONDS and task.uncancel() == 0:
                raise TimeoutError from None
            raise
        finally:
            timer.cancel()
            DEADLINE.reset(token)
        state.completed += 1
        elapsed = now() - started
        bucket = bisect_left(BOUNDS, elapsed)
        counts[bucket] += 1
        state.sum += elapsed
        return result

    return call


def four() -> Sync:
    """Fallback, retry, breaker and bulkhead."""
    state = State()
    counts, recent = state.counts, state.recent

    def call() -> object:
        state.started += 1
        started = now()
        attempt = 1
        while True:
            try:
                if state.open or state.free <= 0:
                    state.refuse(started)
                state.free -= 1
                state.accepted += 1
                try:
                    result = work()
                except Exception:
                    state.failed()
                    raise
                finally:
                    state.free += 1
                recent.append(True)
                state.success += 1
                break
            except Exception as error:
                if attempt == ATTEMPTS or not isinstance(error, Exception):
                    state.served += 1
                    return None
                attempt += 1
                state.retries += 1
        if attempt == 1:
            state.first_try += 1
        state.not_needed += 1
        elapsed = now() - started
        bucket = bisect_left(BOUNDS, elapsed)
        counts[bucket] += 1
        state.sum += elapsed
        return result

    return call


def five_async(body: Callable[[], Awaitable[object]] = work_async, permits: int = 10) -> Async:
    """Fallback, retry, breaker, bulkhead and timeout."""
    state = State(permits=permits)
    counts, recent = state.counts, state.recent
    loop = asyncio.get_running_loop()

    async def call() -> object:
        state.started += 1
        started = now()
        attempt = 1
        while True:
            try:
                if state.open or state.free <= 0:
                    state.refuse(started)
                state.free -= 1
                state.accepted += 1
                task = asyncio.current_task()
                assert task is not None
                end = now() + SECONDS
                token = DEADLINE.set(end)
                timer = loop.call_at(end, task.cancel)
                try:
                    result = await body()
                except asyncio.CancelledError:
                    if now() >= end and task.uncancel() == 0:
                        state.failed()
                        raise TimeoutError from None
                    raise
                except Exception:
                    state.failed()
                    raise
                finally:
                    timer.cancel()
                    DEADLINE.reset(token)
                    state.free += 1
                state.completed += 1
                recent.append(True)
                state.success += 1
                break
            except Exception as error:
                if attempt == ATTEMPTS or not isinstance(error, Exception):
                    state.served += 1
                    return None
                attempt += 1
                state.retries += 1
        if attempt == 1:
            state.first_try += 1
        state.not_needed += 1
        elapsed = now() - started
        bucket = bisect_left(BOUNDS, elapsed)
        counts[bucket] += 1
        state.sum += elapsed
        return result

    return call


def nested_coroutines(body: Callable[[], Awaitable[object]], permits: int) -> Async:
    """The five as five coroutines around each other, the way they are written first; `asyncio.timeout` inside."""
    state = State(permits=permits)

    async def with_timeout() -> object:
        async with asyncio.timeout(SECONDS):
            return await body()

    async def with_bulkhead() -> object:
        if state.free <= 0:
            state.refuse(now())
        state.free -= 1
        try:
            return await with_timeout()
        finally:
            state.free += 1

    async def with_breaker() -> object:
        if state.open:
            state.refuse(now())
        try:
            result = await with_bulkhead()
        except Exception:
            state.failed()
            raise
        state.recent.append(True)
        return result

    async def with_retry() -> object:
        for _ in range(ATTEMPTS - 1):
            try:
                return await with_breaker()
            except Exception:
                await asyncio.sleep(0.1)
        return await with_breaker()

    async def with_fallback() -> object:
        try:
            return await with_retry()
        except Exception:
            return None

    return with_fallback
