"""What counting costs: a guarded call against the same call with its meters taken out.

    python benchmarks/bench_metrics.py --fast

Compare the rows of one run: their difference is the price of `resilience.call.*`, which nobody can switch off. What
the policies count of themselves is in both. The other side is a second copy of the package, from the same source
without the lines that count.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from typing import Any

import pyperf
from altered import without
from timing import time_async, time_sync, work, work_async

# All that the guard does for `resilience.call.*`, as it stands in the text of the function.
COUNTING = re.compile(
    r"meter\.started \+= 1|elapsed = \w+\.now\(\) - started|meter\.raised\(error, elapsed\)|bucket = .*bounds.*"
    r"|counts\[bucket\] \+= 1|success\.sum \+= elapsed"
)
KINDS = ("circuit_breaker", "retry + circuit_breaker + timeout")


def guarded(kind: str, body: Callable[[], Any]) -> Any:
    from resilient import Registry, circuit_breaker, pipeline, retry, timeout

    # No interrupts: a process has one signal for them, which the first copy of the package takes.
    registry = Registry()
    policies: list[Any] = [circuit_breaker(registry=registry)]
    if kind == KINDS[1]:
        policies = [retry(registry=registry), *policies, timeout(30.0, interrupt="never", registry=registry)]
    call = pipeline(*policies)(body)
    # Makes all that is made on first use, while the copy is there to be imported from.
    (time_async if body is work_async else time_sync)(10, call)
    return call


def counts(statement: ast.stmt) -> bool:
    return COUNTING.fullmatch(ast.unparse(statement)) is not None


def unmetered(kind: str, body: Callable[[], Any]) -> Any:
    call = without(counts, lambda: guarded(kind, body))
    return call


def main() -> None:
    runner = pyperf.Runner()
    for kind in KINDS:
        runner.bench_time_func(f"sync: {kind}", time_sync, guarded(kind, work))
        runner.bench_time_func(f"sync: {kind}, no meters", time_sync, unmetered(kind, work))
    for kind in KINDS:
        runner.bench_time_func(f"async: {kind}", time_async, guarded(kind, work_async))
        runner.bench_time_func(f"async: {kind}, no meters", time_async, unmetered(kind, work_async))


if __name__ == "__main__":
    main()
