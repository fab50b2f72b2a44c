"""A guarded call that somebody traces. The guards come here once they know: others don't pay for it."""

from __future__ import annotations

from typing import Any

from resilient.core.clock import CLOCK
from resilient.core.meters import outcome_of
from resilient.core.tracing import CallTrace
from resilient.operation import Args, Kwargs, Misuse, Operation, Served


def call_traced(operation: Operation, trace: CallTrace, args: Args, kwargs: Kwargs) -> Any:
    operation.meter.started += 1
    started = CLOCK.now()
    try:
        trace.attach()
        try:
            result = operation.call(args, kwargs)
        finally:
            trace.detach()
    except BaseException as error:
        count(operation, trace, error, started)
        if type(error) is Misuse:
            raise error.error from None
        raise
    return _returned(operation, trace, result, started)


async def await_traced(operation: Operation, trace: CallTrace, args: Args, kwargs: Kwargs) -> Any:
    operation.meter.started += 1
    started = CLOCK.now()
    try:
        trace.attach()
        try:
            result = await operation.call(args, kwargs)
        finally:
            trace.detach()
    except BaseException as error:
        count(operation, trace, error, started)
        if type(error) is Misuse:
            raise error.error from None
        raise
    return _returned(operation, trace, result, started)


def count(operation: Operation, trace: CallTrace | None, error: BaseException | None, started: float) -> None:
    """Count what is no function call, and end its trace where it has one."""
    if trace is not None:
        trace.detach()
    elapsed = CLOCK.now() - started
    if error is not None:
        histogram = operation.meter.raised(error, elapsed)
    else:
        histogram = operation.meter.success
        histogram.observe(elapsed)
    if trace is not None:
        trace.end("success" if error is None else outcome_of(error), error, histogram, elapsed)


def _returned(operation: Operation, trace: CallTrace, result: Any, started: float) -> Any:
    """Count a call that returned, and end its trace; the result as the caller is to see it."""
    elapsed = CLOCK.now() - started
    histogram, outcome = operation.meter.success, "success"
    if type(result) is Served:
        histogram, outcome = operation.meter.expect_fallback(), "fallback"
        result = result.value
    histogram.observe(elapsed)
    trace.end(outcome, None, histogram, elapsed)
    return result
