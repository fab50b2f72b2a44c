"""Policies in order, around functions and blocks: naming, stacking, and the four faces that every policy has."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Collection, Coroutine
from types import CoroutineType, FrameType, FunctionType, TracebackType
from typing import TYPE_CHECKING, Any, Final, ParamSpec, Self, TypeVar

from resilient.blocks import OpenBlocks, holder_of
from resilient.core.checks import Checker, refuse
from resilient.decorate import (
    bare_async,
    bare_sync,
    carry_over,
    dressed_as,
    guard_async_generator,
    guard_generator,
    kind_of,
    name_of,
)
from resilient.drivers.safe_points import INTERRUPTIBLE
from resilient.fused import fuse, is_guarded
from resilient.operation import BYPASS, Call, Misuse, Operation
from resilient.registry import Registry, registry
from resilient.uses import Use

if TYPE_CHECKING:
    from resilient.policies.base import Policy

    Guardable = Callable[..., Any] | classmethod[Any, ..., Any] | staticmethod[..., Any]

# Code flags: coroutines and async generators; with generators: all that other code may run between two steps of.
COROUTINE: Final = 0x80 | 0x200
SUSPENDABLE: Final = 0x20 | 0x100 | COROUTINE
GENERATOR: Final = 0x20 | 0x200

F = TypeVar("F", bound="Guardable")
P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class Faces:
    """Decorator, call and block: the same for a policy and for a pipeline of them."""

    __slots__ = ()

    def _pipeline(self) -> Pipeline:
        raise NotImplementedError  # each of the two subclasses has its own

    def __call__(self, function: F, /) -> F:
        """Guard a function of any kind; it keeps its name, signature, kind and type.

        Raises:
            TypeError: what is decorated is no function, or of a kind that a policy can't guard.
        """
        guarded: F = self._pipeline().guard(function)
        return guarded

    def call(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function through the policies.

        Raises:
            TypeError: the function is async: use `call_async`.
        """
        result: R = self._pipeline().run(function, args, kwargs)
        return result

    def call_async(
        self, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, R]:
        """Call an async function through the policies.

        Raises:
            TypeError: the function is not async: use `call`.
        """
        result: Coroutine[Any, Any, R] = self._pipeline().run_async(function, args, kwargs)
        return result

    def proxy(self, target: T, *, methods: Collection[str]) -> T:
        """A stand-in for an object: calls of these methods go through the policies, everything else passes through.

        Raises:
            ConfigurationError: a name is not that of a method.
            TypeError: a method is of a kind that a policy can't guard.
        """
        from resilient.proxy import make_proxy

        proxy: T = make_proxy(self._pipeline(), target, methods)
        return proxy

    def __enter__(self) -> Self:
        self._pipeline().enter(sys._getframe(1))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        self._pipeline().exit(sys._getframe(1), error)

    def __aenter__(self) -> Coroutine[Any, Any, Self]:
        return self._entered(sys._getframe(1))

    async def _entered(self, frame: FrameType) -> Self:
        await self._pipeline().enter_async(frame)
        return self

    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> Coroutine[Any, Any, None]:
        return self._left(sys._getframe(1), error)

    async def _left(self, frame: FrameType, error: BaseException | None) -> None:
        self._pipeline().exit_async(frame, error)


class Pipeline(Faces):
    """Policies in order, outermost first. Made by `pipeline(...)` and by stacking decorators.

    Attributes:
        name: the name given, or None: calls are then named after the guarded function.
        policies: the policies, outermost first.
    """

    __slots__ = ("__weakref__", "_block", "_call", "_call_async", "_open", "_registry", "name", "policies")

    def __init__(self, name: str | None, policies: tuple[Policy, ...], registry: Registry) -> None:
        self.name = name
        self.policies = policies
        self._registry = registry
        self._open: OpenBlocks[Use] = OpenBlocks()
        self._call: Callable[..., Any] | None = None
        self._call_async: Callable[..., Any] | None = None
        self._block: Operation | None = None

    def __repr__(self) -> str:
        return f"<Pipeline {self.name or 'unnamed'}: {', '.join(policy.kind for policy in self.policies)}>"

    def __iter__(self) -> Any:
        raise TypeError("a pipeline has no attempts to iterate over: iterate over its retry policy, or decorate")

    def _pipeline(self) -> Pipeline:
        return self

    def guard(self, function: Any) -> Any:
        """What `pipeline(function)` does."""
        if isinstance(function, (staticmethod, classmethod)):
            return type(function)(self.guard(function.__func__))
        if isinstance(function, type) or not callable(function):
            raise TypeError(
                f"{self._shown()} can't guard {function!r}: decorate functions or methods"
                + (" (put the decorator below @property)" if isinstance(function, property) else "")
            )
        if is_guarded(function):
            known: Any = function
            guarded = self._around(known.__resilient__)._guard_bare(known.__wrapped__)
            carry_over(known, guarded)
            return guarded
        return self._guard_bare(function)

    def _guard_bare(self, function: Any) -> Any:
        kind = kind_of(function)
        self._refuse(kind)
        name = name_of(function)
        operation = self._operation(name)
        guarded: Any
        if kind == "generator":
            guarded = guard_generator(function, lambda: self._use(operation))
        elif kind == "async generator":
            guarded = guard_async_generator(function, lambda: self._use(operation))
        elif kind == "async function":
            guarded = dressed_as(function, self._fuse(function, bare_async(function), operation, True))
        else:
            guarded = dressed_as(function, self._fuse(function, bare_sync(function), operation, False))
        guarded.__resilient__ = self
        return guarded

    def _around(self, inner: Pipeline) -> Pipeline:
        """This pipeline with another inside it, as stacked decorators mean it."""
        return Pipeline(self.name or inner.name, _distinct((*self.policies, *inner.policies)), self._registry)

    def run(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """What `.call` does."""
        call = self._call
        if call is None:
            self._refuse("function")
            operation = self._operation(None, user_args=1)
            call = self._call = self._fuse(None, _call_handed_over, operation, False)
        if kind_of(function) != "function":
            raise _refused_by_call(function)
        return call(function, *args, **kwargs)

    def run_async(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """What `.call_async` does."""
        call = self._call_async
        if call is None:
            self._refuse("async function")
            operation = self._operation(None, user_args=1)
            call = self._call_async = self._fuse(None, _await_handed_over, operation, True)
        return call(function, *args, **kwargs)

    def enter(self, frame: FrameType) -> None:
        """What `with pipeline:` does at its beginning."""
        holder = holder_of(frame)
        if holder.f_code.co_flags & SUSPENDABLE:
            self._refuse("block in a coroutine" if holder.f_code.co_flags & COROUTINE else "block in a generator")
        use = self._new_block(holder)
        use.enter(frame)
        self._open.push(holder, use)

    def exit(self, frame: FrameType, error: BaseException | None) -> None:
        """What `with pipeline:` does at its end."""
        use = self._left_block(frame, error)
        instead = error if use is None else use.leave(error)
        if instead is not None and instead is not error:
            raise instead from error

    async def enter_async(self, frame: FrameType) -> None:
        holder = holder_of(frame)
        use = self._new_block(holder)
        await use.enter_async()
        self._open.push(holder, use)

    def exit_async(self, frame: FrameType, error: BaseException | None) -> None:
        use = self._left_block(frame, error)
        instead = error if use is None else use.leave_async(error)
        if instead is not None and instead is not error:
            raise instead from error

    def _left_block(self, frame: FrameType, error: BaseException | None) -> Use | None:
        use = self._open.pop(holder_of(frame))
        if use is None and error is None:
            raise RuntimeError(f"{self._shown()}: a block is left that was not entered")
        return use

    def _new_block(self, frame: FrameType) -> Use:
        if self._block is None:
            self._refuse("block")
        operation = self.loop_operation()
        use = self._use(operation, lambda: self._open.pop(frame))
        use.is_current = not frame.f_code.co_flags & GENERATOR
        return use

    def loop_operation(self) -> Operation:
        """What a loop over the attempts of this pipeline's retry policy counts in."""
        if self._block is None:
            self._block = self._operation(None)
        return self._block

    def _use(self, operation: Operation, forget: Callable[[], object] | None = None) -> Use:
        scopes = [] if BYPASS.active else [policy.scope(operation) for policy in self.policies]
        return Use(operation, scopes, forget)

    def _fuse(
        self, function: Callable[..., Any] | None, bare: Call, operation: Operation, asynchronous: bool
    ) -> FunctionType:
        """The guarded function; `function` itself is called where that is allowed, and else `bare`."""
        chain = [bare]
        for policy in reversed(self.policies):
            wrap = policy.wrap_async if asynchronous else policy.wrap_sync
            chain.append(wrap(chain[-1], operation))
        chain.reverse()
        operation.install(chain[0], bare)
        return fuse(function, operation, chain, asynchronous)

    def _operation(self, function_name: str | None, *, user_args: int = 0) -> Operation:
        """Name what has no name yet, and the operation."""
        for policy in self.policies:
            if policy.name is None:
                policy.claim(_free_name(self.name or function_name or policy.kind, policy.kind, self.policies))
        name = self.name or function_name
        if name is None:
            name = (self.policies[0].name if len(self.policies) == 1 else None) or "pipeline"
        meter = self._registry.call_meter(name)
        return Operation(name, meter, policies=self.policies, user_args=user_args)

    def _refuse(self, use: str) -> None:
        for policy in self.policies:
            reason = policy.refusal(use)
            if reason is not None:
                raise TypeError(reason)

    def _shown(self) -> str:
        if len(self.policies) == 1 and self.name is None:
            return repr(self.policies[0])
        return repr(self)


def _call_handed_over(args: Any, kwargs: Any) -> Any:
    """Innermost of `.call`: the function is the first of the arguments."""
    function = args[0]
    result = function(*args[1:], **kwargs)
    if hasattr(type(result), "__await__"):
        if type(result) is CoroutineType:
            result.close()
        raise Misuse(_refused_by_call(function))
    return result


INTERRUPTIBLE.add(_call_handed_over.__code__)


async def _await_handed_over(args: Any, kwargs: Any) -> Any:
    function = args[0]
    result = function(*args[1:], **kwargs)
    if not hasattr(type(result), "__await__"):
        raise Misuse(
            _refused_by_call(function, "is not async: write `policy.call(...)` instead of `policy.call_async(...)`")
        )
    return await result


def _refused_by_call(
    function: Callable[..., Any],
    reason: str = "is async: write `await policy.call_async(...)` instead of `policy.call(...)`",
) -> TypeError:
    kind = kind_of(function)
    if kind in ("generator", "async generator"):
        reason = (
            f"is {'a' if kind == 'generator' else 'an'} {kind} function, whose body runs after the call: decorate it"
        )
    return TypeError(f"{name_of(function)} {reason}")


def _distinct(policies: tuple[Policy, ...]) -> tuple[Policy, ...]:
    for index, policy in enumerate(policies):
        if policy in policies[:index]:
            refuse("pipeline", "policies", policy, "each policy object once: it would guard and count every call twice")
    return policies


def pipeline(*parts: str | Policy | Pipeline, registry: Registry = registry) -> Pipeline:
    """Policies as one, outermost first.

    Args:
        parts: optionally a name, then policies (or pipelines, whose policies are taken). Unnamed policies in a named
            pipeline take its name.
        registry: where the pipeline's calls are counted.

    Raises:
        ConfigurationError: no policy, or something that is none; the same policy twice; a policy of that name is
            registered with other settings.

    Example:
        >>> from resilient import circuit_breaker, pipeline, retry, timeout
        >>> payments = pipeline("payments", retry(attempts=3), circuit_breaker(), timeout(2.0))
        >>> payments.call(abs, -3)
        3
    """
    name = parts[0] if parts and isinstance(parts[0], str) else None
    checker = Checker("pipeline", name)
    checker.instance("registry", registry, Registry)
    policies: list[Policy] = []
    for part in parts if name is None else parts[1:]:
        if isinstance(part, Pipeline):
            policies.extend(part.policies)
        elif isinstance(part, Faces):
            policies.append(part)
        else:
            hint = f" (call it: {part.__name__}(...))" if isinstance(part, FunctionType) else ""
            refuse(checker.policy, "policies", part, "policies such as retry() or timeout(2.0)" + hint)
    if not policies:
        refuse(checker.policy, "policies", (), "at least one policy")
    if name is not None:
        policies = _named(name, policies)
    return Pipeline(name, _distinct(tuple(policies)), registry)


def _named(name: str, policies: list[Policy]) -> list[Policy]:
    """The policies with the pipeline's name on those that have none; registered ones in the place of equal ones."""
    named: list[Policy] = []
    for index, policy in enumerate(policies):
        if policy.name is None:
            free = _free_name(name, policy.kind, (*named, *policies[index:]))
            named.append(policy.registered(free))
        else:
            named.append(policy)
    return named


def _free_name(base: str, kind: str, policies: tuple[Policy, ...]) -> str:
    """`base`, or `base#2` and so on where another policy of the kind in the same pipeline is called so."""
    taken = {policy.name for policy in policies if policy.kind == kind}
    turn = 1
    while (name := base if turn == 1 else f"{base}#{turn}") in taken:
        turn += 1
    return name
