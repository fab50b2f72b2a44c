"""Guards functions of every kind: the guarded function is a plain function of the same kind as the original."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Callable, Generator
from types import CoroutineType, FunctionType
from typing import Any, Literal, NoReturn, cast

from resilient.drivers.safe_points import INTERRUPTIBLE
from resilient.operation import Args, Kwargs, Misuse
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
            refuse_coroutine(function, result)
        return result

    # All functions made here share their code. The user's may be written in C, and have no frame of its own.
    INTERRUPTIBLE.add(call.__code__)
    return call


def refuse_coroutine(function: Callable[..., Any], coroutine: CoroutineType[Any, Any, Any]) -> NoReturn:
    coroutine.close()
    raise Misuse(
        TypeError(
            f"{name_of(function)} is a plain function but returned a coroutine, which would run unguarded: "
            f"decorate the async function itself, or make this one `async def`"
        )
    )


def bare_async(function: Callable[..., Any]) -> Callable[[Args, Kwargs], Any]:
    return lambda args, kwargs: function(*args, **kwargs)


def guard_generator(function: Callable[..., Any], new_use: Callable[[], Use]) -> FunctionType:
    def guarded(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        return (yield from iterate(function(*args, **kwargs), new_use()))

    return dressed_as(function, guarded)


def guard_async_generator(function: Callable[..., Any], new_use: Callable[[], Use]) -> FunctionType:
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

    return dressed_as(function, guarded)


def dressed_as(function: Callable[..., Any], wrapper: Callable[..., Any]) -> FunctionType:
    """What `functools.wraps` does, for callables of every kind."""
    guarded = cast("FunctionType", functools.update_wrapper(wrapper, function))
    if not hasattr(function, "__name__"):
        named: Any = function
        while isinstance(named, functools.partial):
            named = named.func
        named = named if hasattr(named, "__name__") else type(named)
        guarded.__name__, guarded.__qualname__ = named.__name__, named.__qualname__
        guarded.__module__ = getattr(named, "__module__", guarded.__module__)
    return guarded


def carry_over(older: Any, newer: Any) -> None:
    """Keep what others have set on a guarded function, where it is guarded anew as part of a stack."""
    pipeline = newer.__resilient__
    functools.update_wrapper(newer, older)
    newer.__wrapped__, newer.__resilient__ = older.__wrapped__, pipeline
