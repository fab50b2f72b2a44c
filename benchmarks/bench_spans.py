"""What spans cost a guarded call: retry, circuit breaker and timeout around a function that does nothing.

    python benchmarks/bench_spans.py            # all
    python benchmarks/bench_spans.py --fast     # rougher, in seconds
    python benchmarks/bench_spans.py --ratios   # in a second: all in turn, the best of each, and what comes of it

"guarded, not asking" is the same guard made from the same source without the line that asks for spans. "by hand" is a
span of the SDK's with the same five attributes. Without `with` that is the least that can be had: most of the cost is
the SDK's own, in cleaning attributes. The figures are of this machine at this moment: compare rows of one run.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from functools import cache
from timeit import timeit
from typing import Any

import pyperf
from altered import mentions, without
from opentelemetry import context, trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.trace import NonRecordingSpan, SpanContext, set_span_in_context
from timing import work

Call = Callable[[], object]

AT_THE_START = {"resilience.pipeline.name": "pay", "resilience.policy.types": ("retry", "circuit_breaker", "timeout")}
AT_THE_END = {
    "resilience.outcome": "success",
    "resilience.circuit_breaker.state": "closed",
    "resilience.retry.result": "first_try",
}
PROVIDER = TracerProvider(shutdown_on_exit=False)
PROVIDER.add_span_processor(SpanProcessor())
TRACER = PROVIDER.get_tracer("by hand")
UNSAMPLED = set_span_in_context(NonRecordingSpan(SpanContext(1, 1, is_remote=False)))
API = sys.modules["opentelemetry.trace"]


def guarded() -> Call:
    from resilient import Registry, circuit_breaker, pipeline, retry, timeout

    # No interrupts: a process has one signal for them, which the first copy of the package takes.
    registry = Registry()
    policies = (
        retry(registry=registry),
        circuit_breaker(registry=registry),
        timeout(30.0, interrupt="never", registry=registry),
    )
    call: Any = pipeline("pay", *policies, registry=registry)(work)
    call()
    return call  # type: ignore[no-any-return]


def asks_for_trace(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and mentions(statement.test, "opentelemetry.trace")


@cache
def guarded_without_asking() -> Call:
    call: Any = without(asks_for_trace, guarded)
    if "opentelemetry.trace" in call.__code__.co_consts:
        raise SystemExit("the guard has changed; the lines that ask for spans are not found any more")
    return call  # type: ignore[no-any-return]


def bare() -> object:
    with TRACER.start_as_current_span("execute pay"):
        return work()


def by_hand() -> object:
    with TRACER.start_as_current_span("execute pay", attributes=AT_THE_START) as span:
        result = work()
        span.set_attributes(AT_THE_END)
        return result


def by_hand_without_with() -> object:
    span = TRACER.start_span("execute pay", attributes=AT_THE_START)
    result = work()
    span.set_attributes(AT_THE_END)
    span.end()
    return result


def not_imported() -> None:
    trace._TRACER_PROVIDER = None
    sys.modules.pop("opentelemetry.trace", None)


def no_provider() -> None:
    sys.modules["opentelemetry.trace"] = API
    trace._TRACER_PROVIDER = None


def provider() -> None:
    sys.modules["opentelemetry.trace"] = API
    trace._TRACER_PROVIDER = PROVIDER


def unsampled() -> None:
    provider()
    context.attach(UNSAMPLED)


def rows() -> dict[str, tuple[Call, Callable[[], None]]]:
    call = guarded()
    return {
        "guarded, not asking": (guarded_without_asking(), not_imported),
        "guarded, OpenTelemetry not imported": (call, not_imported),
        "guarded, no provider": (call, no_provider),
        "guarded, unsampled parent": (call, unsampled),
        "guarded, recorded": (call, provider),
        "start_as_current_span": (bare, provider),
        "start_as_current_span, unsampled parent": (bare, unsampled),
        "by hand": (by_hand, provider),
        "by hand, without `with`": (by_hand_without_with, provider),
    }


def run(loops: int, call: Call, prepare: Callable[[], None]) -> float:
    token = context.attach(context.get_current())
    try:
        prepare()
        return timeit(call, number=loops, timer=pyperf.perf_counter)
    finally:
        no_provider()
        context.detach(token)


def ratios() -> None:
    best: dict[str, float] = {}
    for _ in range(40):
        for name, (call, prepare) in rows().items():
            best[name] = min(best.get(name, 1.0), run(3_000, call, prepare) / 3_000)
    for name, seconds in best.items():
        print(f"{name:42}{seconds * 1e9:8.0f} ns")
    plain = best["guarded, not asking"]
    for name in ("OpenTelemetry not imported", "no provider", "unsampled parent"):
        print(f"{name + ' adds':42}{(best[f'guarded, {name}'] - plain) * 1e9:8.0f} ns")
    added = best["guarded, recorded"] - plain
    for name in ("start_as_current_span", "by hand", "by hand, without `with`"):
        print(f"{'recorded, against ' + name:42}{added / best[name]:8.2f}")


def main() -> None:
    if "--ratios" in sys.argv:
        ratios()
        return
    runner = pyperf.Runner()
    for name, (call, prepare) in rows().items():
        runner.bench_time_func(name, run, call, prepare)


if __name__ == "__main__":
    main()
