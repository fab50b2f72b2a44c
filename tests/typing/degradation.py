"""What type checkers make of degradable, sheddable and recover; never run."""

from __future__ import annotations

from typing import assert_type

from resilient import fallback, retry
from resilient.degradation import Degradation
from resilient.degradation.signals import bulkhead_fill, event_loop_lag, memory, open_breakers
from resilient.policies.degradable import Degradable
from resilient.policies.recover import recover

degradation = Degradation(("normal", "minimal"), up_after=1, name="shop")
degradation.signal("breakers", open_breakers(), enter=(0.5,))
degradation.signal("bulkheads", bulkhead_fill(), enter=(0.9,), leave_gap=0.2)
degradation.signal("lag", event_loop_lag(), enter=(0.5,))
degradation.signal("memory", memory(), enter=(0.9,))


@degradation.degradable("search", off_at="minimal", fallback=None)
def with_none(a: int, *, b: str = "") -> str:
    return b * a


@degradation.degradable("search", off_at="minimal", fallback=0)
async def with_zero(a: int) -> str:
    return str(a)


def less(a: int) -> float:
    return 0.5


async def async_less(a: int) -> bytes:
    return b""


@degradation.degradable("search", off_at="minimal", fallback=less)
def with_function(a: int) -> str:
    return str(a)


@degradation.degradable("search", off_at="minimal", fallback=async_less)
async def with_async_function(a: int) -> str:
    return str(a)


class Client:
    @degradation.degradable("search", off_at="minimal", fallback=None)
    def method(self, a: int) -> str:
        return str(a)

    @degradation.sheddable(priority="bulk")
    async def export(self, a: int) -> str:
        return str(a)


@recover({ConnectionError: "retry", TimeoutError: fallback(default=""), KeyError: retry(attempts=2)})
def recovered(a: int) -> str:
    return str(a)


async def checks() -> None:
    assert_type(with_none(1, b=""), str | None)
    assert_type(await with_zero(1), str | int)
    assert_type(with_function(1), str | float)
    assert_type(await with_async_function(1), str | bytes)
    client = Client()
    assert_type(client.method(1), str | None)
    assert_type(await client.export(1), str)
    assert_type(recovered(1), str)
    assert_type(degradation, Degradation)
    assert_type(degradation.level, str)
    assert_type(degradation.is_active("search"), bool)
    assert_type(degradation.sheds("bulk"), bool)
    nothing = degradation.degradable("search", off_at="minimal", fallback=None)
    assert_type(nothing, Degradable[None])
    assert_type(nothing.call(len, "four"), int | None)


def refused() -> None:
    with_none("one")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    degradation.sheddable(priority="low")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    recover({KeyError: "skip"})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
    recover({KeyboardInterrupt: "retry"})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
    degradation.degradable("search", off_at="minimal")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
