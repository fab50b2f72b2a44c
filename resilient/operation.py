"""One guarded function, `.call` or block as its policies see it: a name, a meter, and the compiled chain of calls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import FrameType
from typing import Any
from weakref import WeakSet

from resilient.core.meters import CallMeter

Args = tuple[Any, ...]
Kwargs = Mapping[str, Any]
SyncCall = Callable[[Args, Kwargs], Any]
AsyncCall = Callable[[Args, Kwargs], Awaitable[Any]]
Call = SyncCall | AsyncCall


class Misuse(BaseException):
    """Carries a TypeError about the guarded function itself past all policies: nothing to retry or to count."""

    def __init__(self, error: TypeError) -> None:
        super().__init__(error)
        self.error = error


class Served:
    """A result that a fallback put in the place of a failed call, on its way out through the layers around it.

    They pass it on as it is; those that ask the user about a result ask about `result_in` it. The outermost guard
    counts it and hands out the value.
    """

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


def result_in(result: Any) -> Any:
    """The result as the caller will see it."""
    return result.value if type(result) is Served else result


class Operation:
    """What calls are named after and counted in.

    `policies` are those around it, outermost first, and `call` is the chain of them in force; `user_args` is where the
    user's own arguments begin in the arguments of the chain (a `.call` passes the function itself as the first).
    `falls_back` tells that results may come `Served`; `traced_as` is what those who trace calls keep here; `switch`
    tells a function that has the policies in itself to leave them out.
    """

    __slots__ = (
        "__weakref__",
        "_bare",
        "_compiled",
        "call",
        "falls_back",
        "meter",
        "name",
        "policies",
        "switch",
        "traced_as",
        "user_args",
    )

    call: Callable[[Args, Kwargs], Any]

    def __init__(self, name: str, meter: CallMeter, *, policies: Sequence[Any] = (), user_args: int = 0) -> None:
        self.name = name
        self.policies = policies
        self.meter = meter
        self.user_args = user_args
        self.falls_back = False
        self.switch: Callable[[bool], object] = bool
        self.traced_as: Any = None

    def expect_fallback(self) -> None:
        """For policies that hand out `Served`, before the function is guarded."""
        self.falls_back = True
        self.meter.expect_fallback()

    def install(self, compiled: Callable[[Args, Kwargs], Any], bare: Callable[[Args, Kwargs], Any]) -> None:
        self._compiled = compiled
        self._bare = bare
        OPERATIONS.add(self)
        self.bypass(BYPASS.active)

    def bypass(self, active: bool) -> None:
        self.call = self._bare if active else self._compiled
        self.switch(active)


OPERATIONS: WeakSet[Operation] = WeakSet()


class _Bypass:
    """Tests switch all policies of the process off; a chain is exchanged, so calls pay nothing for it."""

    __slots__ = ("active",)

    def __init__(self) -> None:
        self.active = False

    def set(self, active: bool) -> None:
        self.active = active
        for operation in list(OPERATIONS):
            operation.bypass(active)


BYPASS = _Bypass()


class _Cap:
    """Tests cap the attempts of every retry policy of the process."""

    __slots__ = ("attempts",)

    def __init__(self) -> None:
        self.attempts: int | None = None


CAP = _Cap()


class Scope:
    """One use of a policy around a body that is not a function call: a block, or the steps of a generator.

    `begin` and `end` bracket the whole, `resume` and `pause` each stretch in which the body's own code runs. `pause`
    and `end` may hand back the error to raise in place of what the body raised. The policies of this package that
    wait before they let a call in do it in `begin` or `begin_async`.
    """

    __slots__ = ()

    def bind(self, abandon: Callable[[Scope, BaseException], None]) -> None:
        """Told before `begin`: what to call where an interrupt skips the end of the block."""

    def begin(self) -> None: ...

    async def begin_async(self) -> None:
        self.begin()

    def resume(self, frame: FrameType) -> None: ...

    def resume_async(self) -> None: ...

    def pause(self, error: BaseException | None) -> BaseException | None:
        return None

    def pause_async(self, error: BaseException | None) -> BaseException | None:
        return None

    def end(self, error: BaseException | None) -> BaseException | None:
        return None
