"""Who offers what. A cell names what there is and where it was found: each is looked up before the page is written.

An empty cell means that we found nothing in the documentation or the package, which is weaker than having found
something.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from importlib.metadata import requires

from benchmarks.peer_bugs.tables import LIBRARIES, aligned

Found = tuple[str, str]
"""What the cell says; and `module:attribute`, `module:callable(parameter)` or `module` where that is."""

RETRY: dict[str, dict[str, Found]] = {
    "Retry": {
        "resilient": ("sync, async, trio", "resilient:retry"),
        "tenacity": ("sync, async, trio", "tenacity:AsyncRetrying"),
        "stamina": ("sync, async, trio", "stamina:retry"),
        "backoff": ("sync, async", "backoff:on_exception"),
        "hyx": ("async", "hyx.retry:retry"),
        "pyfailsafe": ("async", "failsafe:RetryPolicy"),
        "interlock-cb": ("by tenacity", "interlock:PipelineBuilder.retry"),
        "pyresilience": ("sync, async", "pyresilience:RetryConfig"),
    },
    "of results": {
        "resilient": ("yes", "resilient:retry(on_result)"),
        "tenacity": ("yes", "tenacity:retry_if_result"),
        "backoff": ("yes", "backoff:on_predicate"),
        "interlock-cb": ("by tenacity", "interlock:PipelineBuilder.retry(retry)"),
        "pyresilience": ("yes", "pyresilience:RetryConfig(retry_on_result)"),
    },
    "of a block, in a loop": {
        "resilient": ("yes", "resilient:Attempt"),
        "tenacity": ("yes", "tenacity:AttemptManager"),
        "stamina": ("yes", "stamina:retry_context"),
    },
    "stop and wait, combined freely": {
        "tenacity": ("`stop_any`, `wait_chain`, `wait_combine`, ...", "tenacity:wait_combine"),
        "interlock-cb": ("by tenacity", "interlock:PipelineBuilder.retry(wait)"),
    },
    "`Retry-After`": {
        "resilient": ("by default", "resilient:retry(retry_after)"),
        "tenacity": ("by hand", "tenacity:wait_exception"),
        "stamina": ("by hand", "stamina:retry(on)"),
        "backoff": ("by hand", "backoff:runtime"),
        "pyresilience": ("by hand", "pyresilience:RetryConfig(delay_func)"),
    },
    "Retry budget": {
        "resilient": ("shared, a share of the calls", "resilient:RetryBudget"),
        "pyresilience": ("so many a second", "pyresilience:RetryBudgetConfig"),
    },
    "Fallback": {
        "resilient": ("yes", "resilient:fallback"),
        "tenacity": ("when exhausted", "tenacity:Retrying(retry_error_callback)"),
        "circuitbreaker": ("when open", "circuitbreaker:CircuitBreaker(fallback_function)"),
        "hyx": ("async", "hyx.fallback:fallback"),
        "pyfailsafe": ("other providers", "failsafe:FallbackFailsafe"),
        "interlock-cb": ("yes", "interlock:FallbackStrategy"),
        "pyresilience": ("yes", "pyresilience:FallbackConfig"),
    },
    "Hedge": {"resilient": ("sync, async, trio", "resilient:hedge")},
    "Cache of results": {
        "resilient": ("stale if it fails", "resilient:stale"),
        "pyresilience": ("yes", "pyresilience:CacheConfig"),
    },
}
BREAKER: dict[str, dict[str, Found]] = {
    "Circuit breaker": {
        "resilient": ("sync, async, trio", "resilient:circuit_breaker"),
        "pybreaker": ("sync, Tornado", "pybreaker:CircuitBreaker.call_async"),
        "circuitbreaker": ("sync, async", "circuitbreaker:CircuitBreaker.call_async"),
        "aiobreaker": ("sync, async", "aiobreaker:CircuitBreaker.call_async"),
        "purgatory": ("sync, async, apart", "purgatory:AsyncCircuitBreakerFactory"),
        "hyx": ("async", "hyx.circuitbreaker:consecutive_breaker"),
        "pyfailsafe": ("async", "failsafe:CircuitBreaker"),
        "interlock-cb": ("sync, async", "interlock:CircuitBreaker"),
        "pyresilience": ("sync, async", "pyresilience:CircuitBreakerConfig"),
    },
    "failure rate": {
        "resilient": ("of calls, of time", "resilient:circuit_breaker(failure_rate)"),
        "interlock-cb": ("of calls, of time", "interlock:Config(window_type)"),
        "pyresilience": ("of calls", "pyresilience:CircuitBreakerConfig(failure_rate_threshold)"),
    },
    "slow calls": {
        "resilient": ("yes", "resilient:circuit_breaker(slow_call_rate)"),
        "interlock-cb": ("yes", "interlock:Config(slow_call_rate_threshold)"),
        "pyresilience": ("yes", "pyresilience:CircuitBreakerConfig(slow_call_rate_threshold)"),
    },
    "at most so many probes": {
        "resilient": ("yes", "resilient:circuit_breaker(half_open_calls)"),
        "pyfailsafe": ("a share of the calls", "failsafe:CircuitBreaker(half_open_ratio)"),
        "interlock-cb": ("yes", "interlock:Config(max_concurrent_probes)"),
    },
    "watching only": {
        "resilient": ("`disable()` counts on", "resilient:CircuitBreaker.disable"),
        "interlock-cb": ("`metrics_only()`", "interlock:CircuitBreaker.metrics_only"),
    },
    "state shared by processes": {
        "pybreaker": ("Redis", "pybreaker:CircuitRedisStorage"),
        "aiobreaker": ("Redis", "aiobreaker.storage.redis"),
        "purgatory": ("Redis", "purgatory:AsyncRedisUnitOfWork"),
        "interlock-cb": ("Redis", "interlock.integrations.redis"),
    },
    "a circuit a key": {"resilient": ("yes", "resilient:circuit_breaker(key)")},
    "Timeout": {
        "resilient": ("sync, async, trio", "resilient:timeout"),
        "hyx": ("async", "hyx.timeout:timeout"),
        "interlock-cb": ("async; sync by a thread", "interlock:sync_timeout"),
        "pyresilience": ("async; sync by a pool of threads", "pyresilience:TimeoutConfig"),
    },
    "interrupts plain code": {
        "resilient": ("on the main thread; elsewhere if asked", "resilient:timeout(interrupt)"),
    },
    "deadline for what is called": {"resilient": ("yes, and in headers", "resilient.deadline:to_headers")},
}
LIMITS: dict[str, dict[str, Found]] = {
    "Bulkhead": {
        "resilient": ("sync, async, trio, together", "resilient:bulkhead"),
        "hyx": ("async", "hyx.bulkhead:bulkhead"),
        "interlock-cb": ("sync, async, apart", "interlock:BulkheadStrategy"),
        "pyresilience": ("sync, async, apart", "pyresilience:BulkheadConfig"),
    },
    "limit that adapts": {"resilient": ("gradient, Vegas, AIMD", "resilient:adaptive")},
    "Client-side throttle": {"resilient": ("yes", "resilient:throttle")},
    "Rate limiter": {
        "resilient": ("sync, async, trio, together", "resilient:rate_limiter"),
        "hyx": ("async", "hyx.ratelimit:tokenbucket"),
        "pyresilience": ("sync, async, apart", "pyresilience:RateLimiterConfig"),
        "aiolimiter": ("async", "aiolimiter:AsyncLimiter"),
        "limits": ("sync, async", "limits.aio.strategies:MovingWindowRateLimiter"),
        "pyrate-limiter": ("sync, async", "pyrate_limiter:Limiter.try_acquire_async"),
    },
    "algorithms to choose from": {
        "limits": ("fixed, moving, counter", "limits.strategies:SlidingWindowCounterRateLimiter"),
        "pyrate-limiter": ("log, fixed, bucket, GCRA", "pyrate_limiter:GCRA"),
    },
    "several rates at once": {
        "limits": ("`parse_many`", "limits:parse_many"),
        "pyrate-limiter": ("yes", "pyrate_limiter:validate_rate_list"),
    },
    "calls of several weights": {
        "aiolimiter": ("yes", "aiolimiter:AsyncLimiter.acquire(amount)"),
        "limits": ("yes", "limits.strategies:MovingWindowRateLimiter.hit(cost)"),
        "pyrate-limiter": ("yes", "pyrate_limiter:Limiter.try_acquire(weight)"),
    },
    "a limit a key": {
        "resilient": ("yes", "resilient:rate_limiter(key)"),
        "limits": ("yes", "limits.strategies:MovingWindowRateLimiter.hit(identifiers)"),
        "pyrate-limiter": ("yes", "pyrate_limiter:BucketFactory"),
    },
    "state shared by processes": {
        "limits": ("Redis, Memcached, MongoDB", "limits.storage.mongodb"),
        "pyrate-limiter": ("Redis, Postgres, SQLite, shared memory", "pyrate_limiter:PostgresBucket"),
    },
}
AROUND: dict[str, dict[str, Found]] = {
    "Metrics": {
        "resilient": ("Prometheus, OTLP", "resilient.telemetry.otlp"),
        "stamina": ("Prometheus", "stamina.instrumentation._prometheus"),
        "interlock-cb": ("OpenTelemetry", "interlock.integrations.otel"),
        "pyresilience": ("Prometheus, OpenTelemetry", "pyresilience.contrib.prometheus"),
    },
    "Clients and frameworks": {
        "resilient": ("any ASGI and WSGI; proxies of clients", "resilient.middleware.asgi"),
        "tenacity": ("Tornado", "tenacity.tornadoweb"),
        "pybreaker": ("Tornado", "pybreaker:CircuitBreaker.call_async"),
        "interlock-cb": ("httpx, aiohttp, requests, FastAPI, Litestar", "interlock.integrations.litestar"),
        "pyresilience": ("Django, FastAPI, Flask", "pyresilience.contrib.django"),
        "pyrate-limiter": ("httpx, aiohttp, requests", "pyrate_limiter.extras.aiohttp_limiter"),
    },
    "Ready-made sets": {
        "resilient": ("`standard_pipeline`", "resilient:standard_pipeline"),
        "pyresilience": ("HTTP, databases, queues, LLMs", "pyresilience.presets:llm_policy"),
    },
    "Tests without waiting": {
        "resilient": ("virtual time", "resilient.testing:fake_clock"),
        "tenacity": ("a sleep of your own", "tenacity:Retrying(sleep)"),
        "stamina": ("`set_testing`", "stamina:set_testing"),
        "interlock-cb": ("a clock of your own", "interlock:CircuitBreaker(clock)"),
    },
}
GROUPS = {
    "Retry, fallback, hedge": RETRY,
    "Circuit breaker, timeout": BREAKER,
    "Bulkhead, rate limiter": LIMITS,
    "Around": AROUND,
}


def look_up(where: str) -> None:
    """Raises where it is not there. A module is not loaded, for it may need what is not installed."""
    module, _, path = where.partition(":")
    if not path:
        if importlib.util.find_spec(module) is None:
            raise LookupError(where)
        return
    found: object = importlib.import_module(module)
    path, _, parameter = path.rstrip(")").partition("(")
    for name in path.split("."):
        found = getattr(found, name)
    if parameter and callable(found) and parameter not in inspect.signature(found).parameters:
        raise LookupError(where)


def dependencies(library: str) -> str:
    wanted = requires("resilient-py" if library == "resilient" else library) or []
    return str(sum("extra" not in each for each in wanted))


def tables() -> list[tuple[str, list[list[str]]]]:
    """A table for each group, with the libraries that have anything of it."""
    made = []
    for group, features in GROUPS.items():
        there = [library for library in LIBRARIES if any(library in cells for cells in features.values())]
        if group == "Around":
            there = list(LIBRARIES)
        table = [["", *there]]
        for feature, cells in features.items():
            for _, where in cells.values():
                look_up(where)
            table.append([feature, *(cells.get(library, ("", ""))[0] for library in there)])
        if group == "Around":
            table.append(["Packages it needs", *map(dependencies, there)])
            table = [list(line) for line in zip(*table, strict=True)]
        made.append((group, table))
    return made


if __name__ == "__main__":
    for group, table in tables():
        print(f"\n{group}\n")
        print(*aligned(table), sep="\n")
