"""The span and the duration of a guarded call for functions and blocks that no policy guards."""

from __future__ import annotations

from typing import Any, overload

from resilient.core.checks import Checker
from resilient.operation import Operation
from resilient.pipeline import F, Pipeline
from resilient.registry import Registry, registry


class Observed(Pipeline):
    """A pipeline without policies: calls through it are counted and traced, and nothing else. Made by `observed(...)`.

    Attributes:
        name: the name given, or None: calls are then named after the decorated function.
    """

    __slots__ = ()

    def __init__(self, name: str | None, registry: Registry) -> None:
        super().__init__(name, (), registry)

    def __repr__(self) -> str:
        return f"<Observed {self.name or 'unnamed'}>"

    def __iter__(self) -> Any:
        raise TypeError("observed has no attempts to iterate over: decorate, or write `with observed(...)`")

    def _operation(self, function_name: str | None, *, user_args: int = 0) -> Operation:
        if self.name is None and function_name is None:
            raise TypeError(
                "observed() without a name is a decorator: only a function has a name of its own. "
                'Give a block or a call one, as in `with observed("checkout"):`'
            )
        return super()._operation(function_name, user_args=user_args)


@overload
def observed(function: F, /) -> F: ...
@overload
def observed(name: str | None = None, /, *, registry: Registry = ...) -> Observed: ...
def observed(name: Any = None, /, *, registry: Registry = registry) -> Any:
    """Give a function or a block the span and the metrics of a guarded call, without a policy.

    It counts in `resilience.call.duration` and `resilience.call.active` under its name, and in
    `registry.snapshot()["pipeline"]`; where the application traces, it is the span `execute <name>`. What is raised
    passes as it is.

    It is a decorator for functions of every kind, a block (`with` and `async with`), and has `.call`, `.call_async` and
    `.proxy` as policies do. Generators are observed from their first step to their end; decorate them, because a block
    in one would stay the current span while other code runs. Stacked with policies on one function it is one pipeline
    with them: one span and one duration around all of them, under the name of the outermost that has one.

    Args:
        name: what it is called. Default: the qualified name of the decorated function; a block or `.call` needs one.
        registry: where the calls are counted.

    Raises:
        ConfigurationError: the name is empty or no string.
        TypeError: a block or `.call` without a name; what is decorated is no function.

    Example:
        >>> from resilient import registry
        >>> from resilient import observed
        >>> @observed("checkout")
        ... def check_out(order: int) -> str:
        ...     return f"order {order}"
        >>> check_out(7)
        'order 7'
        >>> with observed("checkout"):
        ...     pass
        >>> registry.snapshot()["pipeline"]["checkout"]["calls"]["success"]
        2
    """
    if name is None or isinstance(name, str):
        check = Checker("observed", name)
        check.instance("registry", registry, Registry)
        return Observed(name, registry)
    return Observed(None, registry)(name)
