"""What type checkers make of fallback, stale and failover; never run."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, assert_type

from resilient import Fallback, failover, fallback, stale


@fallback(default=None)
def with_none(a: int, *, b: str = "") -> str:
    return b * a


@fallback(default=0)
async def with_zero(a: int) -> str:
    return str(a)


def handler(error: Exception, a: int) -> float:
    return 0.5


async def async_handler(a: int) -> bytes:
    return b""


@fallback(handler, pass_error=True)
def with_handler(a: int) -> str:
    return str(a)


@fallback(async_handler)
async def with_async_handler(a: int) -> str:
    return str(a)


@fallback(handler=handler)
async def with_plain_handler(a: int) -> str:
    return str(a)


@fallback(default="")
def of_the_same_type(a: int) -> str:
    return str(a)


class Client:
    @fallback(default=None)
    def method(self, a: int) -> str:
        return str(a)

    @fallback(default=None)
    async def async_method(self, a: int) -> str:
        return str(a)

    @classmethod
    @fallback(default=None)
    def below_classmethod(cls, a: int) -> str:
        return str(a)

    @fallback(default=None)
    @classmethod
    def above_classmethod(cls, a: int) -> str:
        return str(a)

    @fallback(default=None)
    @staticmethod
    def above_staticmethod(a: int) -> str:
        return str(a)

    @fallback(default=None)
    @staticmethod
    async def above_async_staticmethod(a: int) -> str:
        return str(a)

    @property
    @fallback(default=0)
    def value(self) -> str:
        return ""

    @stale(ttl=1, max_stale=10)
    def kept(self, a: int) -> str:
        return str(a)


@stale(ttl=1, max_stale=10, key=lambda a: a)
async def kept(a: int) -> str:
    return str(a)


def primary(word: str, *, limit: int = 10) -> list[str]:
    return [word] * limit


def replica(word: str, *, limit: int = 10) -> list[str]:
    return [word] * limit


async def async_primary(word: str) -> list[str]:
    return [word]


async def async_replica(word: str) -> list[str]:
    return [word]


search = failover(("primary", primary), ("replica", replica), deadline=2.0)
async_search = failover(("primary", async_primary), ("replica", async_replica))


async def checks() -> None:
    assert_type(with_none(1, b=""), str | None)
    assert_type(await with_zero(1), str | int)
    assert_type(with_handler(1), str | float)
    assert_type(await with_async_handler(1), str | bytes)
    assert_type(await with_plain_handler(1), str | float)
    assert_type(of_the_same_type(1), str)
    client = Client()
    assert_type(client.method(1), str | None)
    assert_type(await client.async_method(1), str | None)
    assert_type(Client.below_classmethod(1), str | None)
    assert_type(Client.above_classmethod(1), str | None)
    assert_type(client.above_classmethod(1), str | None)
    assert_type(Client.above_staticmethod(1), str | None)
    assert_type(client.above_staticmethod(1), str | None)
    assert_type(await client.above_async_staticmethod(1), str | None)
    assert_type(client.value, str | int)
    assert_type(client.kept(1), str)
    assert_type(await kept(1), str)

    nothing = fallback(default=None)
    assert_type(nothing, Fallback[None])
    assert_type(nothing.call(primary, "otter", limit=3), list[str] | None)
    assert_type(await nothing.call_async(async_primary, "otter"), list[str] | None)

    assert_type(search("otter", limit=3), list[str])
    assert_type(await async_search("otter"), list[str])
    takes_a_plain_function: Callable[..., list[str]] = search
    takes_an_async_function: Callable[[str], Coroutine[Any, Any, list[str]]] = async_search
    assert callable(takes_a_plain_function)
    assert callable(takes_an_async_function)


def refused() -> None:
    with_none("one")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    x: str = with_none(1)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    search(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    fallback(handler, default=None)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    fallback()  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    assert x
