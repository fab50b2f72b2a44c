"""A run of one policy of each kind, in which calls end in every way that is told of."""

from __future__ import annotations

from contextlib import suppress

from resilient import (
    CircuitBreaker,
    Degradation,
    Registry,
    bulkhead,
    circuit_breaker,
    failover,
    fallback,
    hedge,
    pipeline,
    rate_limiter,
    retry,
    stale,
    throttle,
    timeout,
)
from resilient.backoff import constant
from resilient.errors import BulkheadFullError, TimeoutExceededError
from resilient.testing import fake_clock


def answer() -> int:
    return 1


def fail(error: BaseException) -> None:
    raise error


def run(registry: Registry) -> None:
    """Each time that it is run, all counts rise; the circuit breaker stays open."""
    with fake_clock():
        again = retry(on=ConnectionError, attempts=2, backoff=constant(0.01), name="upstream", registry=registry)
        again.call(answer)
        guarded = circuit_breaker("upstream", failure_rate=0.5, minimum_calls=1, registry=registry)
        with suppress(Exception):
            guarded.reset()
            guarded.call(fail, ConnectionError())
        for error in (ConnectionError(), ValueError()):
            with suppress(type(error)):
                again.call(fail, error)
        for policy in (
            bulkhead("upstream", max_queue=1, registry=registry),
            hedge(delay=1.0, name="upstream", registry=registry),
            rate_limiter("upstream", limit=100, registry=registry),
            stale(1.0, 2.0, name="upstream", registry=registry),
            throttle("upstream", registry=registry),
        ):
            policy.call(answer)
        Degradation(name="upstream", registry=registry)
        failover(("one", answer), ("two", answer), name="upstream", registry=registry)()
        second_best = fallback(default=None, on=LookupError, registry=registry)
        calls = pipeline("calls", second_best, timeout(1.0, registry=registry), registry=registry)
        calls.call(answer)
        calls.call(fail, KeyError())
        for problem in (ValueError(), TimeoutExceededError(), BulkheadFullError(), KeyboardInterrupt()):
            with suppress(type(problem)):
                calls.call(fail, problem)


def breaker(registry: Registry) -> CircuitBreaker:
    found = registry.find(CircuitBreaker, "upstream")
    assert found is not None
    return found
