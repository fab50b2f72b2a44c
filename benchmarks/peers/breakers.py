"""Circuit breakers: closed, open, open with a fallback, and used by four threads at once.

All open after 5 failures in a row and stay open for 30 s, unless a library only knows a share of failures.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from benchmarks.peers import by_hand
from benchmarks.peers.case import BY_HAND, OURS, Call, Case, Goal
from benchmarks.timing import work, work_async
from resilient import Registry, circuit_breaker, fallback, pipeline

Body = Callable[[], Any]


def ours(body: Body, **settings: Any) -> Call:
    return circuit_breaker(registry=Registry(), **settings)(body)


def of_circuitbreaker(body: Body, **settings: Any) -> Call:
    from circuitbreaker import CircuitBreaker

    guarded: Call = CircuitBreaker(failure_threshold=5, recovery_timeout=30, **settings)(body)
    return guarded


def of_pybreaker(body: Body) -> Call:
    from pybreaker import CircuitBreaker

    return CircuitBreaker(fail_max=5, reset_timeout=30)(body)


def of_aiobreaker(body: Body) -> Call:
    from aiobreaker import CircuitBreaker

    guarded: Call = CircuitBreaker(fail_max=5, timeout_duration=timedelta(seconds=30))(body)
    return guarded


def of_purgatory(body: Body) -> Call:
    from purgatory import AsyncCircuitBreakerFactory, SyncCircuitBreakerFactory

    factory = AsyncCircuitBreakerFactory if asyncio.iscoroutinefunction(body) else SyncCircuitBreakerFactory
    guarded: Call = factory(default_threshold=5, default_ttl=30)("upstream")(body)
    return guarded


def of_hyx(body: Body) -> Call:
    from hyx.circuitbreaker import consecutive_breaker

    return consecutive_breaker(failure_threshold=5, recovery_time_secs=30, recovery_threshold=1)(body)


def of_pyfailsafe(body: Body) -> Call:
    from failsafe import CircuitBreaker, Failsafe

    # It has no decorator: this is the form that its documentation shows.
    run = Failsafe(circuit_breaker=CircuitBreaker(maximum_failures=5, reset_timeout_seconds=30)).run
    return lambda: run(body)


def interlock_breaker() -> Any:
    from interlock import CircuitBreaker, Config

    # It knows shares of the last calls only, never failures in a row.
    return CircuitBreaker(name="upstream", config=Config(window_size=100, wait_duration_in_open=30.0))


def of_interlock(body: Body) -> Call:
    guarded: Call = interlock_breaker()(body)
    return guarded


def of_pyresilience(body: Body, **settings: Any) -> Call:
    from pyresilience import CircuitBreakerConfig, resilient

    return resilient(circuit_breaker=CircuitBreakerConfig(recovery_timeout=30.0, **settings))(body)


def of_pyresilience_window(body: Body) -> Call:
    return of_pyresilience(body, sliding_window_size=100, failure_rate_threshold=0.5, minimum_calls=10)


# Failing until it opens, and then each call rejected and caught, as callers do.


def fail() -> None:
    raise ConnectionError("no answer")


async def fail_async() -> None:
    raise ConnectionError("no answer")


def rejected(guarded: Call) -> Call:
    for _ in range(150):
        try:
            guarded()
        except Exception:  # each library has an error of its own
            pass

    def call() -> object:
        try:
            return guarded()
        except Exception as error:
            return error

    if isinstance(call(), ConnectionError):
        raise AssertionError("the circuit is not open")
    return call


async def rejected_async(guarded: Callable[[], Awaitable[object]]) -> Call:
    async def call() -> object:
        try:
            return await guarded()
        except Exception as error:
            return error

    for _ in range(150):
        await call()
    if isinstance(await call(), ConnectionError):
        raise AssertionError("the circuit is not open")
    return call


def bare_caught() -> Call:
    def call() -> object:
        try:
            return work()
        except Exception as error:
            return error

    return call


def bare_caught_async() -> Call:
    async def call() -> object:
        try:
            return await work_async()
        except Exception as error:
            return error

    return call


# Open, with None in the place of a result.


def served(guarded: Call) -> Call:
    for _ in range(150):
        guarded()
    if guarded() is not None:
        raise AssertionError("no fallback")
    return guarded


def ours_falling_back() -> Call:
    registry = Registry()
    return pipeline(fallback(default=None, registry=registry), circuit_breaker(registry=registry))(fail)


def circuitbreaker_falling_back() -> Call:
    guarded = of_circuitbreaker(fail, fallback_function=lambda: None)

    def until_open() -> object:
        try:
            return guarded()
        except ConnectionError:  # it falls back where the circuit is open, not where a call fails
            return None

    served(until_open)
    return guarded


def pyresilience_falling_back() -> Call:
    from pyresilience import CircuitBreakerConfig, FallbackConfig, resilient

    # A handler of None switches its fallback off.
    instead = FallbackConfig(handler=lambda error: None)
    return resilient(fallback=instead, circuit_breaker=CircuitBreakerConfig(recovery_timeout=30.0))(fail)


def interlock_falling_back() -> Call:
    from interlock import Pipeline

    builder = Pipeline.builder().fallback(lambda error: None).circuit_breaker(interlock_breaker())
    guarded: Call = builder.build()(fail)
    return guarded


CASES = (
    Case(
        "breaker, sync",
        "Closed breaker, sync",
        "sync",
        {
            OURS: lambda: ours(work),
            "circuitbreaker": lambda: of_circuitbreaker(work),
            "pybreaker": lambda: of_pybreaker(work),
            "aiobreaker": lambda: of_aiobreaker(work),
            "purgatory": lambda: of_purgatory(work),
            "interlock": lambda: of_interlock(work),
            "pyresilience": lambda: of_pyresilience(work),
            BY_HAND: by_hand.breaker,
        },
        (Goal(("circuitbreaker",), 0.75),),
        shown=True,
    ),
    Case(
        "breaker with a window, sync",
        "Closed breaker with a window of 100 calls, sync",
        "sync",
        {
            OURS: lambda: ours(work, failure_rate=0.5, window_calls=100),
            "pyresilience": lambda: of_pyresilience_window(work),
            "interlock": lambda: of_interlock(work),
            BY_HAND: lambda: by_hand.breaker(window=100),
        },
        (Goal(("pyresilience",), 0.15),),
        shown=True,
    ),
    Case(
        "breaker, async",
        "Closed breaker, async",
        "async",
        {
            OURS: lambda: ours(work_async),
            "circuitbreaker": lambda: of_circuitbreaker(work_async),
            "pyfailsafe": lambda: of_pyfailsafe(work_async),
            "aiobreaker": lambda: of_aiobreaker(work_async),
            "purgatory": lambda: of_purgatory(work_async),
            "hyx": lambda: of_hyx(work_async),
            "interlock": lambda: of_interlock(work_async),
            "pyresilience": lambda: of_pyresilience(work_async),
            # pybreaker's async form is for tornado's coroutines only.
            BY_HAND: by_hand.breaker_async,
        },
        (Goal(("circuitbreaker",), 0.75), Goal(("pyfailsafe",), 0.9)),
        shown=True,
    ),
    Case(
        "breaker with a window, async",
        "Closed breaker with a window of 100 calls, async",
        "async",
        {
            OURS: lambda: ours(work_async, failure_rate=0.5, window_calls=100),
            "pyresilience": lambda: of_pyresilience_window(work_async),
            "interlock": lambda: of_interlock(work_async),
            BY_HAND: lambda: by_hand.breaker_async(window=100),
        },
    ),
    Case(
        "rejection, sync",
        "Open breaker, rejection, sync",
        "sync",
        {
            OURS: lambda: rejected(ours(fail)),
            "circuitbreaker": lambda: rejected(of_circuitbreaker(fail)),
            "pybreaker": lambda: rejected(of_pybreaker(fail)),
            "aiobreaker": lambda: rejected(of_aiobreaker(fail)),
            "purgatory": lambda: rejected(of_purgatory(fail)),
            "interlock": lambda: rejected(of_interlock(fail)),
            "pyresilience": lambda: rejected(of_pyresilience(fail)),
            BY_HAND: by_hand.open_breaker,
        },
        (Goal(("circuitbreaker",), 0.60),),
        bare=bare_caught,
        shown=True,
    ),
    Case(
        "rejection, async",
        "Open breaker, rejection, async",
        "async",
        {
            OURS: lambda: rejected_async(ours(fail_async)),
            "circuitbreaker": lambda: rejected_async(of_circuitbreaker(fail_async)),
            "pyfailsafe": lambda: rejected_async(of_pyfailsafe(fail_async)),
            "aiobreaker": lambda: rejected_async(of_aiobreaker(fail_async)),
            "purgatory": lambda: rejected_async(of_purgatory(fail_async)),
            "hyx": lambda: rejected_async(of_hyx(fail_async)),
            "interlock": lambda: rejected_async(of_interlock(fail_async)),
            "pyresilience": lambda: rejected_async(of_pyresilience(fail_async)),
            BY_HAND: by_hand.open_breaker_async,
        },
        bare=bare_caught_async,
    ),
    Case(
        "open breaker with a fallback, sync",
        "Open breaker with a fallback value, sync",
        "sync",
        {
            OURS: lambda: served(ours_falling_back()),
            "circuitbreaker": circuitbreaker_falling_back,
            "interlock": lambda: served(interlock_falling_back()),
            "pyresilience": lambda: served(pyresilience_falling_back()),
            BY_HAND: by_hand.open_breaker_with_fallback,
        },
        (Goal(("circuitbreaker",), 0.6),),
        shown=True,
    ),
    Case(
        "breaker, 4 threads",
        "Four threads on one breaker, all calls",
        "threads",
        {
            OURS: lambda: ours(work),
            "circuitbreaker": lambda: of_circuitbreaker(work),
            "pybreaker": lambda: of_pybreaker(work),
            "interlock": lambda: of_interlock(work),
            "pyresilience": lambda: of_pyresilience(work),
            BY_HAND: by_hand.breaker,
        },
        (Goal(("circuitbreaker",), 1.2),),
        # Several turns of the interpreter's switch interval of 5 ms for each thread.
        slice_seconds=0.06,
        rounds=15,
    ),
)
