"""Guards functions of every kind: the guarded function is a plain function of the same kind as the original."""

from __future__ import annotations

import functools
import sys
from bisect import bisect_left
from collections.abc import AsyncGenerator, Callable, Generator
from types import CodeType, CoroutineType, FunctionType
from typing import Any, Literal, cast

from resilient.core.clock import CLOCK
from resilient.core.meters import CallMeter
from resilient.core.tracing import TRACING
from resilient.drivers.safe_points import INTERRUPTIBLE
from resilient.operation import Args, Kwargs, Misuse, Operation, Served
from resilient.traced import await_traced, call_traced
from resilient.uses import Use, iterate, iterate_async

FunctionKind = Literal["function", "async function", "generator", "async generator"]

_CO_GENERATOR, _CO_COROUTINE, _CO_ASYNC_GENERATOR = 0x20, 0x80, 0x200


def kind_of(function: Callable[..., Any]) -> FunctionKind:
    """What calling this function gives: looked at through partials, methods and callable objects."""
    while isinstance(function, functools.partial):
        function = function.func
    if type(function) is FunctionType:
        flags = function.__code__.co_flags
        if flags & _CO_COROUTINE:
            return "async function"
        if flags & _CO_GENERATOR:
            return "generator"
        if flags & _CO_ASYNC_GENERATOR:
            return "async generator"
    import inspect

    candidates: list[Any] = [function]
    if not isinstance(function, FunctionType) and not inspect.ismethod(function):
        candidates.append(getattr(type(function), "__call__", None))  # noqa: B004 - its kind is asked, not whether
    for candidate in candidates:
        if inspect.iscoroutinefunction(candidate):
            return "async function"
        if inspect.isgeneratorfunction(candidate):
            return "generator"
        if inspect.isasyncgenfunction(candidate):
            return "async generator"
    return "function"


def name_of(function: Callable[..., Any]) -> str:
    """`module.qualname`, of what a partial or a callable object stands for."""
    while isinstance(function, functools.partial):
        function = function.func
    named: Any = function if hasattr(function, "__qualname__") else type(function)
    module = getattr(named, "__module__", None)
    return f"{module}.{named.__qualname__}" if module else str(named.__qualname__)


def bare_sync(function: Callable[..., Any]) -> Callable[[Args, Kwargs], Any]:
    """The innermost call. A `def` that hands back a coroutine would run it outside the policies: refused."""

    def call(args: Args, kwargs: Kwargs) -> Any:
        result = function(*args, **kwargs)
        if type(result) is CoroutineType:
            result.close()
            raise Misuse(
                TypeError(
                    f"{name_of(function)} is a plain function but returned a coroutine, which would run unguarded: "
                    f"decorate the async function itself, or make this one `async def`"
                )
            )
        return result

    # All functions made here share their code. The user's may be written in C, and have no frame of its own.
    INTERRUPTIBLE.add(call.__code__)
    return call


def bare_async(function: Callable[..., Any]) -> Callable[[Args, Kwargs], Any]:
    return lambda args, kwargs: function(*args, **kwargs)


def guard_sync(function: Callable[..., Any], operation: Operation) -> FunctionType:
    if operation.falls_back:
        return guard_sync_falling_back(function, operation)
    meter, modules = operation.meter, sys.modules
    success = meter.success
    counts, bounds = success.counts, success.bounds
    clock = CLOCK

    @_wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        if "opentelemetry.trace" in modules and (trace := TRACING.open(operation)) is not None:
            return call_traced(operation, trace, args, kwargs)
        meter.started += 1
        started = clock.now()
        try:
            result = operation.call(args, kwargs)
        except BaseException as error:
            elapsed = clock.now() - started
            meter.raised(error, elapsed)
            if type(error) is Misuse:
                raise error.error from None
            raise
        elapsed = clock.now() - started
        bucket = bisect_left(bounds, elapsed)
        counts[bucket] += 1
        success.sum += elapsed
        return result

    return guarded


def guard_async(function: Callable[..., Any], operation: Operation) -> FunctionType:
    if operation.falls_back:
        return guard_async_falling_back(function, operation)
    meter, modules = operation.meter, sys.modules
    success = meter.success
    counts, bounds = success.counts, success.bounds
    clock = CLOCK

    @_wraps(function)
    async def guarded(*args: Any, **kwargs: Any) -> Any:
        if "opentelemetry.trace" in modules and (trace := TRACING.open(operation)) is not None:
            return await await_traced(operation, trace, args, kwargs)
        meter.started += 1
        started = clock.now()
        try:
            result = await operation.call(args, kwargs)
        except BaseException as error:
            elapsed = clock.now() - started
            meter.raised(error, elapsed)
            if type(error) is Misuse:
                raise error.error from None
            raise
        elapsed = clock.now() - started
        bucket = bisect_left(bounds, elapsed)
        counts[bucket] += 1
        success.sum += elapsed
        return result

    return guarded


def guard_sync_falling_back(function: Callable[..., Any], operation: Operation) -> FunctionType:
    """For pipelines that hold a fallback: others don't pay for the look at the result."""
    meter, modules = operation.meter, sys.modules

    @_wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        if "opentelemetry.trace" in modules and (trace := TRACING.open(operation)) is not None:
            return call_traced(operation, trace, args, kwargs)
        meter.started += 1
        started = CLOCK.now()
        try:
            result = operation.call(args, kwargs)
        except BaseException as error:
            meter.raised(error, CLOCK.now() - started)
            if type(error) is Misuse:
                raise error.error from None
            raise
        return _count_result(meter, result, CLOCK.now() - started)

    return guarded


def guard_async_falling_back(function: Callable[..., Any], operation: Operation) -> FunctionType:
    meter, modules = operation.meter, sys.modules

    @_wraps(function)
    async def guarded(*args: Any, **kwargs: Any) -> Any:
        if "opentelemetry.trace" in modules and (trace := TRACING.open(operation)) is not None:
            return await await_traced(operation, trace, args, kwargs)
        meter.started += 1
        started = CLOCK.now()
        try:
            result = await operation.call(args, kwargs)
        except BaseException as error:
            meter.raised(error, CLOCK.now() - started)
            if type(error) is Misuse:
                raise error.error from None
            raise
        return _count_result(meter, result, CLOCK.now() - started)

    return guarded


def _count_result(meter: CallMeter, result: Any, elapsed: float) -> Any:
    if type(result) is Served:
        meter.expect_fallback().observe(elapsed)
        return result.value
    meter.success.observe(elapsed)
    return result


def guard_generator(function: Callable[..., Any], new_use: Callable[[], Use]) -> FunctionType:
    @_wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        return (yield from iterate(function(*args, **kwargs), new_use()))

    return guarded


def guard_async_generator(function: Callable[..., Any], new_use: Callable[[], Use]) -> FunctionType:
    @_wraps(function)
    async def guarded(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        steps = iterate_async(function(*args, **kwargs), new_use())
        step = anext(steps)
        try:
            while True:
                item = await step
                try:
                    sent = yield item
                except GeneratorExit:
                    raise
                except BaseException as thrown:  # noqa: BLE001 - handed to the body, as a bare generator would
                    step = steps.athrow(thrown)
                else:
                    step = steps.asend(sent)
        except StopAsyncIteration:
            return
        finally:
            await steps.aclose()

    return guarded


def _wraps(function: Callable[..., Any]) -> Callable[[Callable[..., Any]], FunctionType]:
    def apply(wrapper: Callable[..., Any]) -> FunctionType:
        guarded = cast("FunctionType", functools.update_wrapper(wrapper, function))
        if not hasattr(function, "__name__"):
            named: Any = function
            while isinstance(named, functools.partial):
                named = named.func
            named = named if hasattr(named, "__name__") else type(named)
            guarded.__name__, guarded.__qualname__ = named.__name__, named.__qualname__
            guarded.__module__ = getattr(named, "__module__", guarded.__module__)
        return guarded

    return apply


def carry_over(older: Any, newer: Any) -> None:
    """Keep what others have set on a guarded function, where it is guarded anew as part of a stack."""
    pipeline = newer.__resilient__
    functools.update_wrapper(newer, older)
    newer.__wrapped__, newer.__resilient__ = older.__wrapped__, pipeline


def _codes() -> frozenset[CodeType]:
    makers = (
        guard_sync,
        guard_async,
        guard_sync_falling_back,
        guard_async_falling_back,
        guard_generator,
        guard_async_generator,
    )
    return frozenset(
        constant
        for maker in makers
        for constant in maker.__code__.co_consts
        if isinstance(constant, CodeType) and constant.co_name == "guarded"
    )


_GUARDED = _codes()


def is_guarded(function: object) -> bool:
    """Is this very function one of ours? Its attributes don't tell: `functools.wraps` of others copies them."""
    return type(function) is FunctionType and function.__code__ in _GUARDED
