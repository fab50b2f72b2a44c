"""Retries that have nothing to do, and all policies around one call.

At most 3 attempts on any `Exception`, with the waits that each library has by default.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.peers import by_hand, by_hand_timeouts
from benchmarks.peers.breakers import interlock_breaker
from benchmarks.peers.case import BY_HAND, OURS, TASKS, Call, Case, Goal, work_async_suspended
from benchmarks.timing import work, work_async
from resilient import Registry, bulkhead, circuit_breaker, fallback, pipeline, retry, timeout

Body = Callable[[], Any]
NESTED = "five coroutines by hand"


def ours(body: Body) -> Call:
    return retry(attempts=3, registry=Registry())(body)


def of_tenacity(body: Body) -> Call:
    import tenacity

    # Without `wait` it would retry at once; ours and most others wait longer and longer, with jitter.
    waits = tenacity.wait_exponential_jitter(initial=0.1, max=30)
    guarded: Call = tenacity.retry(stop=tenacity.stop_after_attempt(3), wait=waits, reraise=True)(body)
    return guarded


def of_stamina(body: Body) -> Call:
    import stamina

    return stamina.retry(on=Exception, attempts=3)(body)


def of_backoff(body: Body) -> Call:
    import backoff

    guarded: Call = backoff.on_exception(backoff.expo, Exception, max_tries=3)(body)
    return guarded


def of_pyfailsafe(body: Body) -> Call:
    from datetime import timedelta

    from failsafe import Backoff, Failsafe, RetryPolicy

    waits = Backoff(delay=timedelta(seconds=0.1), max_delay=timedelta(seconds=30), jitter=True)
    run = Failsafe(retry_policy=RetryPolicy(allowed_retries=2, backoff=waits)).run
    return lambda: run(body)


def of_hyx(body: Body) -> Call:
    from hyx.retry import retry as hyx_retry

    guarded: Call = hyx_retry(on=Exception, attempts=3)(body)
    return guarded


def of_interlock(body: Body) -> Call:
    from interlock import Pipeline

    guarded: Call = Pipeline.builder().retry(attempts=3).build()(body)
    return guarded


def of_pyresilience(body: Body) -> Call:
    from pyresilience import RetryConfig, resilient

    return resilient(retry=RetryConfig(max_attempts=3))(body)


def our_four(body: Body) -> Call:
    registry = Registry()
    return pipeline(
        fallback(default=None, registry=registry),
        retry(registry=registry),
        circuit_breaker(registry=registry),
        bulkhead(registry=registry),
    )(body)


def our_five(body: Body, permits: int = 10) -> Call:
    registry = Registry()
    return pipeline(
        fallback(default=None, registry=registry),
        retry(registry=registry),
        circuit_breaker(registry=registry),
        bulkhead(max_concurrent=permits, registry=registry),
        timeout(30.0, registry=registry),
    )(body)


def pyresilience_all(body: Body, permits: int = 10, **more: Any) -> Call:
    from pyresilience import BulkheadConfig, CircuitBreakerConfig, FallbackConfig, RetryConfig, resilient

    return resilient(
        fallback=FallbackConfig(handler=lambda error: None),
        retry=RetryConfig(max_attempts=3),
        circuit_breaker=CircuitBreakerConfig(recovery_timeout=30.0),
        bulkhead=BulkheadConfig(max_concurrent=permits),
        **more,
    )(body)


def pyresilience_five(body: Body, permits: int = 10) -> Call:
    from pyresilience import TimeoutConfig

    return pyresilience_all(body, permits, timeout=TimeoutConfig(seconds=30.0))


def hyx_five(body: Body, permits: int = 10) -> Call:
    from hyx.bulkhead import bulkhead as hyx_bulkhead
    from hyx.circuitbreaker import consecutive_breaker
    from hyx.fallback import fallback as hyx_fallback
    from hyx.timeout import timeout as hyx_timeout

    async def instead(result: object, *args: object, **kwargs: object) -> None: ...

    guarded: Any = hyx_timeout(30.0)(body)
    guarded = hyx_bulkhead(max_concurrency=permits, max_capacity=permits)(guarded)
    guarded = consecutive_breaker(failure_threshold=5, recovery_time_secs=30, recovery_threshold=1)(guarded)
    wrapped: Call = hyx_fallback(instead)(of_hyx(guarded))
    return wrapped


def interlock_all(body: Body, permits: int = 10, *, timed: bool = False) -> Call:
    from interlock import Pipeline

    builder = Pipeline.builder().fallback(lambda error: None).retry(attempts=3)
    builder = builder.circuit_breaker(interlock_breaker()).bulkhead(permits)
    guarded: Call = (builder.timeout(30.0) if timed else builder).build()(body)
    return guarded


CASES = (
    Case(
        "retry, sync",
        "Retry, first try, sync",
        "sync",
        {
            OURS: lambda: ours(work),
            "pyresilience": lambda: of_pyresilience(work),
            "tenacity": lambda: of_tenacity(work),
            "stamina": lambda: of_stamina(work),
            "backoff": lambda: of_backoff(work),
            "interlock": lambda: of_interlock(work),
            BY_HAND: by_hand.retry,
        },
        (Goal(("pyresilience",), 0.25),),
        shown=True,
    ),
    Case(
        "retry, async",
        "Retry, first try, async",
        "async",
        {
            OURS: lambda: ours(work_async),
            "pyfailsafe": lambda: of_pyfailsafe(work_async),
            "pyresilience": lambda: of_pyresilience(work_async),
            "tenacity": lambda: of_tenacity(work_async),
            "stamina": lambda: of_stamina(work_async),
            "backoff": lambda: of_backoff(work_async),
            "hyx": lambda: of_hyx(work_async),
            "interlock": lambda: of_interlock(work_async),
            BY_HAND: by_hand.retry_async,
        },
        (Goal(("pyfailsafe",), 1.0),),
        shown=True,
    ),
    Case(
        "four policies, sync",
        "Fallback, retry, breaker and bulkhead, sync",
        "sync",
        {
            OURS: lambda: our_four(work),
            "pyresilience": lambda: pyresilience_all(work),
            "interlock": lambda: interlock_all(work),
            BY_HAND: by_hand_timeouts.four,
        },
        (Goal(("pyresilience",), 0.30),),
        shown=True,
    ),
    Case(
        "five policies, async",
        "The four and a timeout, async",
        "async",
        {
            OURS: lambda: our_five(work_async),
            "hyx": lambda: hyx_five(work_async),
            "pyresilience": lambda: pyresilience_five(work_async),
            "interlock": lambda: interlock_all(work_async, timed=True),
            BY_HAND: by_hand_timeouts.five_async,
        },
        (Goal(("hyx", "pyresilience"), {"3.11": 0.10, "3.12": 0.18, "3.13": 0.18}),),
        shown=True,
    ),
    Case(
        "five policies, 1,000 tasks",
        "The same in 1,000 tasks that suspend once",
        "tasks",
        {
            OURS: lambda: our_five(work_async_suspended, TASKS),
            NESTED: lambda: by_hand_timeouts.nested_coroutines(work_async_suspended, TASKS),
            "hyx": lambda: hyx_five(work_async_suspended, TASKS),
            "pyresilience": lambda: pyresilience_five(work_async_suspended, TASKS),
            "interlock": lambda: interlock_all(work_async_suspended, TASKS, timed=True),
            BY_HAND: lambda: by_hand_timeouts.five_async(work_async_suspended, TASKS),
        },
        (Goal((NESTED,), 0.30),),
        shown=True,
        rounds=31,
    ),
)
