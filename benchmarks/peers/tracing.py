"""What asking whether somebody traces costs a call that nobody traces.

The other side is a second copy of the package, from the same source without the lines that ask.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from benchmarks.altered import mentions, without
from benchmarks.peers.case import Case, Goal
from benchmarks.peers.measuring import Timer
from benchmarks.timing import time_async, time_sync, work, work_async

API = "opentelemetry.trace"
REMOVED = "tracing code removed"
NOT_IMPORTED = "OpenTelemetry not imported"
NO_PROVIDER = "no provider"
UNSAMPLED = "unsampled parent"


def asks_for_trace(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and mentions(statement.test, API)


def guarded(asynchronous: bool) -> Callable[[], Any]:
    from resilient import Registry, circuit_breaker

    call: Any = circuit_breaker(registry=Registry())(work_async if asynchronous else work)
    # Makes all that is made on first use.
    timed = time_async if asynchronous else time_sync
    timed(100, call)
    return call  # type: ignore[no-any-return]


def without_tracing(asynchronous: bool) -> Callable[[], Any]:
    call = without(asks_for_trace, lambda: guarded(asynchronous))
    if asks(call) or not asks(guarded(asynchronous)):
        raise SystemExit("the guard has changed: the lines that ask whether a call is traced are not found any more")
    return call


def asks(call: Any) -> bool:
    return API in call.__code__.co_consts


@dataclass(frozen=True)
class Sdk:
    """What is used of OpenTelemetry. Imported once: a second import would make a second API beside that of the SDK."""

    context: Any
    trace: Any
    provider: Any
    parent: Any


@cache
def sdk() -> Sdk:
    from opentelemetry import context, trace
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SpanProcessor())
    unsampled = trace.NonRecordingSpan(trace.SpanContext(1, 1, is_remote=False))
    return Sdk(context, trace, provider, trace.set_span_in_context(unsampled))


def not_imported() -> None:
    sys.modules.pop(API, None)


def no_provider() -> None:
    sys.modules[API] = sdk().trace
    sdk().trace._TRACER_PROVIDER = None


def unsampled() -> None:
    sys.modules[API] = sdk().trace
    sdk().trace._TRACER_PROVIDER = sdk().provider
    sdk().context.attach(sdk().parent)


def timer(call: Callable[[], Any], asynchronous: bool, prepare: Callable[[], Any]) -> Timer:
    """Puts the process into a state, for the slice only."""
    context = sdk().context

    def time(loops: int) -> float:
        token = context.attach(context.get_current())
        try:
            prepare()
            return (time_async if asynchronous else time_sync)(loops, call)
        finally:
            no_provider()
            context.detach(token)
            not_imported()

    return time


def case(asynchronous: bool) -> Case:
    kind = "async" if asynchronous else "sync"
    return Case(
        f"tracing, {kind}",
        f"Closed breaker, {kind}, and nobody traces",
        "timers",
        {
            REMOVED: lambda: timer(without_tracing(asynchronous), asynchronous, not_imported),
            NOT_IMPORTED: lambda: timer(guarded(asynchronous), asynchronous, not_imported),
            NO_PROVIDER: lambda: timer(guarded(asynchronous), asynchronous, no_provider),
            UNSAMPLED: lambda: timer(guarded(asynchronous), asynchronous, unsampled),
        },
        (
            Goal((REMOVED,), 40e-9, NOT_IMPORTED, "difference"),
            Goal((REMOVED,), 40e-9, NO_PROVIDER, "difference"),
            Goal((REMOVED,), 120e-9, UNSAMPLED, "difference"),
        ),
        # A few nanoseconds are looked for.
        rounds=151,
        last=True,
    )


CASES = (case(False), case(True))
