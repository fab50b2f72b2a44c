"""What a guarded call costs above the bare call: each policy and all of them together, sync and async.

    python benchmarks/bench_policies.py            # all
    python benchmarks/bench_policies.py --fast     # rougher, in seconds
    python benchmarks/bench_policies.py -o new.json && python -m pyperf compare_to old.json new.json

Meters are on, as they always are. The figures are of this machine at this moment: compare rows of one run.
"""

from __future__ import annotations

from collections.abc import Callable

import pyperf
from timing import time_async, time_sync, work, work_async

from resilient import (
    Registry,
    adaptive,
    bulkhead,
    circuit_breaker,
    fallback,
    hedge,
    pipeline,
    rate_limiter,
    retry,
    stale,
    standard_pipeline,
    throttle,
    timeout,
)

Guard = Callable[..., object]

PLENTY = 1_000_000_000


def guards() -> dict[str, Guard | None]:
    registry = Registry()
    return {
        "bare": None,
        "retry": retry(registry=registry),
        "circuit_breaker": circuit_breaker(registry=registry),
        "circuit_breaker, rate of 100 calls": circuit_breaker(failure_rate=0.5, registry=registry),
        "circuit_breaker, rate of 10 s": circuit_breaker(failure_rate=0.5, window_duration=10, registry=registry),
        "circuit_breaker, a key": circuit_breaker(key=lambda: "one", registry=registry),
        "timeout": timeout(30.0, registry=registry),
        "bulkhead": bulkhead(registry=registry),
        "bulkhead, adaptive": bulkhead(max_concurrent=adaptive(), registry=registry),
        "bulkhead, a key": bulkhead(key=lambda: "one", registry=registry),
        "rate_limiter": rate_limiter(limit=PLENTY, registry=registry),
        "throttle": throttle(registry=registry),
        "fallback": fallback(default=None, registry=registry),
        "stale, a hit": stale(60.0, 600.0, registry=registry),
        "hedge": hedge(delay=30.0, registry=registry),
        "retry + circuit_breaker + timeout": pipeline(
            retry(registry=registry), circuit_breaker(registry=registry), timeout(30.0, registry=registry)
        ),
        "fallback + retry + circuit_breaker + bulkhead + timeout": pipeline(
            fallback(default=None, registry=registry),
            retry(registry=registry),
            circuit_breaker(registry=registry),
            bulkhead(registry=registry),
            timeout(30.0, registry=registry),
        ),
        "standard_pipeline": standard_pipeline("standard", registry=Registry()),
    }


def main() -> None:
    runner = pyperf.Runner()
    for name, guard in guards().items():
        runner.bench_time_func(f"sync: {name}", time_sync, work if guard is None else guard(work))
    for name, guard in guards().items():
        runner.bench_time_func(f"async: {name}", time_async, work_async if guard is None else guard(work_async))


if __name__ == "__main__":
    main()
