"""A stand-in for an object some of whose methods go through a pipeline."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from functools import cache
from types import BuiltinMethodType, MethodType
from typing import TYPE_CHECKING, Any, Final, NoReturn

from resilient.core.checks import describe, refuse

if TYPE_CHECKING:
    from resilient.pipeline import Pipeline

# Special methods are looked up on the class, and having them tells what an object is.
_PASSED_ON: Final = ("__call__", "__await__", "__next__", "__aiter__", "__anext__", "__aexit__")


def make_proxy(pipeline: Pipeline, target: Any, methods: Collection[str]) -> Any:
    """What `.proxy(target, methods=...)` does."""
    where = describe("pipeline", pipeline.name)
    if isinstance(target, type):
        refuse(where, "target", target, "an object; to guard a class for everybody use patch()")
    if isinstance(methods, str) or not isinstance(methods, Collection) or not methods:
        refuse(where, "methods", methods, 'a collection of method names, as in methods={"get", "post"}')
    for method in methods:
        if not isinstance(method, str) or (method.startswith("__") and method.endswith("__")):
            refuse(where, "methods", method, "names of ordinary methods (Python looks special ones up on the class)")
        if not callable(getattr(target, method, None)):
            refuse(where, "methods", method, f"names of methods of {type(target).__qualname__}")
    # Not by `hasattr`: a class has what its metaclass has, `__call__` among others.
    had = {name for cls in type(target).__mro__ for name in vars(cls)}
    special = had.intersection((*_PASSED_ON, "__enter__", "__aenter__"))
    return _proxy_class(frozenset(special))(target, pipeline, tuple(sorted(methods)))


@cache
def _proxy_class(special: frozenset[str]) -> type[Any]:
    import wrapt

    class GuardedProxy(wrapt.ObjectProxy):  # type: ignore[type-arg]  # generic for type checkers only
        """Passes everything on to the object; what is asked for as a guarded method comes guarded."""

        def __init__(self, target: Any, pipeline: Pipeline, methods: tuple[str, ...]) -> None:
            super().__init__(target)
            self._self_pipeline = pipeline
            # What can't be guarded is refused here and not at the first call.
            self._self_guarded = {method: _Guarded(getattr(target, method), pipeline) for method in methods}

        def __getattr__(self, name: str) -> Any:
            value = getattr(self.__wrapped__, name)
            guarded = self._self_guarded.get(name)
            if guarded is None:
                return value
            if not guarded.stands_for(value):
                guarded = self._self_guarded[name] = _Guarded(value, self._self_pipeline)
            return guarded.function

        def __copy__(self) -> Any:
            return type(self)(copy.copy(self.__wrapped__), self._self_pipeline, tuple(self._self_guarded))

        def __deepcopy__(self, memo: dict[int, Any]) -> Any:
            return type(self)(copy.deepcopy(self.__wrapped__, memo), self._self_pipeline, tuple(self._self_guarded))

        def __reduce__(self) -> NoReturn:
            raise TypeError("a guarded proxy can't be pickled, because its pipeline can't: pickle proxy.__wrapped__")

        def __reduce_ex__(self, protocol: Any) -> NoReturn:
            self.__reduce__()

    class_body: dict[str, Any] = {name: _passing_on(name) for name in special if name in _PASSED_ON}
    if "__enter__" in special:
        class_body["__enter__"] = _enter
    if "__aenter__" in special:
        class_body["__aenter__"] = _enter_async
    return type("GuardedProxy", (GuardedProxy,), class_body)


class _Guarded:
    """A method as it was found, and the same guarded."""

    __slots__ = ("_original", "function")

    def __init__(self, original: Any, pipeline: Pipeline) -> None:
        self._original = original
        self.function = pipeline.guard(original)

    def stands_for(self, value: Any) -> bool:
        """Is this the method that was guarded? Bound methods are made anew each time, and are equal."""
        original = self._original
        return value is original or (
            type(value) is type(original) and type(value) in (MethodType, BuiltinMethodType) and bool(value == original)
        )


def _passing_on(name: str) -> Callable[..., Any]:
    def special(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.__wrapped__, name)(*args, **kwargs)

    special.__name__ = special.__qualname__ = name
    return special


def _enter(self: Any) -> Any:
    """What the block is given must be guarded, too, where it is the object itself."""
    entered = self.__wrapped__.__enter__()
    return self if entered is self.__wrapped__ else entered


async def _enter_async(self: Any) -> Any:
    entered = await self.__wrapped__.__aenter__()
    return self if entered is self.__wrapped__ else entered
