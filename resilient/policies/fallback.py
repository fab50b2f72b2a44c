"""Fallback: where a call fails, serve something else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from types import CoroutineType
from typing import Any, ClassVar, Final, Generic, NoReturn, ParamSpec, TypeVar, overload

from resilient.core.checks import Checker, Matcher, contradiction, matches, refuse
from resilient.core.meters_fallback import FallbackMeter
from resilient.core.tracing import trace_fallback
from resilient.decorate import kind_of, name_of
from resilient.fused import Fragment
from resilient.operation import Args, AsyncCall, Call, Kwargs, Misuse, Operation, Served, SyncCall, result_in
from resilient.policies import straight
from resilient.policies.base import Policy
from resilient.registry import Registry, registry

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
D = TypeVar("D")

_NO_BLOCK: Final = (
    "fallback can't be used as `with fallback(...):`, because a block has no result to replace. Decorate a function "
    "with it, write `fallback(...).call(function)`, or catch the error: try: ... except ConnectionError: ..."
)


class _NotGiven:
    def __repr__(self) -> str:
        return "not given"


_NOT_GIVEN: Final = _NotGiven()


@dataclass(frozen=True, slots=True)
class FallbackSettings:
    """What the factory was given, checked."""

    handler: Callable[..., Any] | None
    default: object
    on: Matcher
    on_result: Callable[[Any], object] | None
    pass_error: bool


class Fallback(Policy, Generic[D]):
    """A fallback to results of type `D`; made by `fallback(...)`."""

    __slots__ = ("_meter",)

    kind: ClassVar[str] = "fallback"

    def __init__(self, name: str | None, settings: FallbackSettings, registry: Registry) -> None:
        super().__init__(name, settings, registry)
        self._meter = FallbackMeter()

    # What is guarded returns more than it did, which the faces of other policies don't.
    @overload  # type: ignore[override]
    def __call__(
        self, function: staticmethod[P, Coroutine[Any, Any, R]], /
    ) -> staticmethod[P, Coroutine[Any, Any, R | D]]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: staticmethod[P, R], /
    ) -> staticmethod[P, R | D]: ...
    @overload
    def __call__(
        self, function: classmethod[T, P, Coroutine[Any, Any, R]], /
    ) -> classmethod[T, P, Coroutine[Any, Any, R | D]]: ...
    @overload
    def __call__(self, function: classmethod[T, P, R], /) -> classmethod[T, P, R | D]: ...
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Callable[P, Coroutine[Any, Any, R | D]]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Callable[P, R | D]: ...
    def __call__(self, function: Any, /) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Guard a function; it keeps its name, signature and kind, and may return what the fallback serves.

        Raises:
            TypeError: what is decorated is no function, or of a kind that a fallback can't guard.
        """
        return self._pipeline().guard(function)

    def call(  # type: ignore[override]
        self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R | D:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Call a function, and where it fails the fallback.

        Raises:
            TypeError: the function is async: use `call_async`.
        """
        result: R | D = self._pipeline().run(function, args, kwargs)
        return result

    def call_async(  # type: ignore[override]
        self, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, R | D]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Call an async function, and where it fails the fallback.

        Raises:
            TypeError: the function is not async: use `call`.
        """
        result: Coroutine[Any, Any, R | D] = self._pipeline().run_async(function, args, kwargs)
        return result

    def __enter__(self) -> NoReturn:
        raise TypeError(_NO_BLOCK)

    def __aenter__(self) -> NoReturn:
        raise TypeError(_NO_BLOCK)

    def snapshot(self) -> dict[str, object]:
        """Calls by result, as totals."""
        return {"calls": self._meter.calls()}

    def count_on(self, older: Fallback[Any], /) -> None:
        self._meter = older._meter

    def refusal(self, use: str) -> str | None:
        if use.startswith("block"):
            return _NO_BLOCK
        if use in ("generator", "async generator"):
            return (
                f"{self._shown()} can't guard {use} functions: items already given out can't be taken back. Guard a "
                f"function that returns all items as a list, or catch the error inside the generator"
            )
        handler = self._settings.handler
        if use == "function" and handler is not None and kind_of(handler) == "async function":
            return self._needs_async(handler)
        return None

    def _needs_async(self, handler: Callable[..., Any]) -> str:
        return (
            f"{self._shown()}: the handler {name_of(handler)} is async, but the guarded function is not, so nobody "
            f"would await it: give a plain function as the handler, or guard an `async def`"
        )

    def wrap_sync(self, call: SyncCall, operation: Operation) -> SyncCall:
        operation.expect_fallback()
        meter, asks_result = self._meter, self._settings.on_result is not None

        def guarded(args: Args, kwargs: Kwargs) -> Any:
            try:
                result = call(args, kwargs)
            except Exception as error:
                if not self._selects(error):
                    raise
                return self._serve(error, args, kwargs, operation)
            if asks_result and self._unwanted(result):
                return self._serve(None, args, kwargs, operation)
            meter.not_needed += 1
            return result

        return guarded

    def wrap_async(self, call: AsyncCall, operation: Operation) -> AsyncCall:
        operation.expect_fallback()
        meter, asks_result = self._meter, self._settings.on_result is not None

        async def guarded(args: Args, kwargs: Kwargs) -> Any:
            try:
                result = await call(args, kwargs)
            except Exception as error:
                if not self._selects(error):
                    raise
                return await self._serve_async(error, args, kwargs, operation)
            if asks_result and self._unwanted(result):
                return await self._serve_async(None, args, kwargs, operation)
            meter.not_needed += 1
            return result

        return guarded

    def straight(self, operation: Operation, own: Call, inner: Call, asynchronous: bool) -> Fragment | None:
        return straight.of_fallback(self, asynchronous)

    def _serve(self, error: Exception | None, args: Args, kwargs: Kwargs, operation: Operation) -> Served:
        handler = self._settings.handler
        if handler is None:
            with trace_fallback():
                return self._applied(self._settings.default, error, operation)
        try:
            with trace_fallback():
                value = handler(*self._handed(error, args, operation), **kwargs)
        except Exception as failure:
            self._meter.failed += 1
            show_both(failure, error)
            raise
        if type(value) is CoroutineType:
            value.close()
            raise Misuse(TypeError(self._needs_async(handler)))
        return self._applied(value, error, operation)

    async def _serve_async(self, error: Exception | None, args: Args, kwargs: Kwargs, operation: Operation) -> Served:
        handler = self._settings.handler
        if handler is None:
            with trace_fallback():
                return self._applied(self._settings.default, error, operation)
        try:
            with trace_fallback():
                value = handler(*self._handed(error, args, operation), **kwargs)
                if hasattr(type(value), "__await__"):
                    value = await value
        except Exception as failure:
            self._meter.failed += 1
            show_both(failure, error)
            raise
        return self._applied(value, error, operation)

    def _selects(self, error: Exception) -> bool:
        try:
            selected = matches(self._settings.on, error)
        except Exception:
            self._meter.failed += 1
            raise
        if not selected:
            self._meter.not_needed += 1
        return selected

    def _unwanted(self, result: Any) -> bool:
        try:
            return bool(self._settings.on_result(result_in(result)))
        except Exception:
            self._meter.failed += 1
            raise

    def _handed(self, error: Exception | None, args: Args, operation: Operation) -> Args:
        own = args[operation.user_args :]
        return (error, *own) if self._settings.pass_error else own

    def _applied(self, value: object, error: Exception | None, operation: Operation) -> Served:
        self._meter.applied += 1
        self._tell("fallback_applied", operation.name, {"error": None if error is None else type(error).__name__})
        return Served(value)


def show_both(failure: Exception, error: Exception | None) -> None:
    """Make `error` the cause of `failure`, unless it is raised because of it, or is the very same."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        if link is failure:
            return
        seen.add(id(link))
        link = link.__cause__ or link.__context__
    if error is not None:
        failure.__cause__ = error


@overload
def fallback(
    handler: Callable[..., Awaitable[D]],
    *,
    on: Matcher = Exception,
    on_result: Callable[[Any], object] | None = None,
    pass_error: bool = False,
    name: str | None = None,
    registry: Registry = ...,
) -> Fallback[D]: ...
@overload
def fallback(
    handler: Callable[..., D],
    *,
    on: Matcher = Exception,
    on_result: Callable[[Any], object] | None = None,
    pass_error: bool = False,
    name: str | None = None,
    registry: Registry = ...,
) -> Fallback[D]: ...
@overload
def fallback(
    handler: None = None,
    *,
    default: D,
    on: Matcher = Exception,
    on_result: Callable[[Any], object] | None = None,
    name: str | None = None,
    registry: Registry = ...,
) -> Fallback[D]: ...
def fallback(
    handler: Any = None,
    *,
    default: Any = _NOT_GIVEN,
    on: Matcher = Exception,
    on_result: Callable[[Any], object] | None = None,
    pass_error: bool = False,
    name: str | None = None,
    registry: Registry = registry,
) -> Fallback[Any]:
    """Where a call fails, serve something else: a default, or what a handler returns.

    Usually the outermost policy of a pipeline: it then sees open circuits, full bulkheads, rate limits and timeouts of
    the policies inside as it sees errors of the function.

    Args:
        handler: called with the same arguments as the function, where that failed. May be async for async functions.
            Give either this or `default`.
        default: served where the function failed; the same object each time.
        on: exceptions to serve something else for. Cancellation, `KeyboardInterrupt` and their like always pass.
        on_result: tells whether a result is to be replaced, too.
        pass_error: call the handler with the exception first, before the arguments; with None for a result.
        name: shared by all who give it; the settings must then be equal. Default: name of the first guarded function.
        registry: where the name is registered.

    Raises:
        ConfigurationError: a setting is wrong, both or neither of `handler` and `default` are given, or the name has
            other settings already.

    Where the handler fails, its error is raised with the original one as its `__cause__`.

    Example:
        >>> from resilient import fallback
        >>> @fallback(default=(), on=ConnectionError)
        ... def recommendations(user: str) -> tuple[str, ...]:
        ...     raise ConnectionError("recommender is down")
        >>> recommendations("eve")
        ()
        >>> @fallback(lambda error, user: f"{user}: {error}", pass_error=True)
        ... def greeting(user: str) -> str:
        ...     raise ConnectionError("no greetings today")
        >>> greeting("eve")
        'eve: no greetings today'
    """
    check = Checker("fallback", name)
    if isinstance(handler, type) and issubclass(handler, BaseException):
        refuse(check.policy, "handler", handler, f"a function. To choose exceptions write on={handler.__name__}")
    if handler is not None and not callable(handler):
        refuse(check.policy, "handler", handler, "a function; a value is given by name, as in fallback(default=[])")
    if (handler is None) == (default is _NOT_GIVEN):
        contradiction(
            check.policy, "handler and default", (handler, default), "give one of the two; default=None is a default"
        )
    if not isinstance(pass_error, bool):
        refuse(check.policy, "pass_error", pass_error, "True or False")
    if pass_error and handler is None:
        contradiction(check.policy, "pass_error and default", (pass_error, default), "pass_error needs a handler")
    settings = FallbackSettings(
        handler=handler,
        default=default,
        on=check.matcher("on", on),
        on_result=check.optional_function("on_result", on_result, "a function (result) -> bool"),
        pass_error=pass_error,
    )
    check.instance("registry", registry, Registry)
    if name is None:
        return Fallback(None, settings, registry)
    return registry.obtain(Fallback.kind, name, lambda: Fallback(name, settings, registry))
