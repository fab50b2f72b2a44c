"""Failover of async providers: the rules of the house."""

from __future__ import annotations

import gc
import weakref
from contextvars import ContextVar

import pytest

from resilient import Registry, circuit_breaker, failover
from tests.policies.fallback_kit import run


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_context_variables_pass_both_ways_in_a_task(backend: str, registry: Registry) -> None:
    variable: ContextVar[int] = ContextVar("variable", default=0)

    async def one() -> None:
        variable.set(variable.get() + 1)
        raise ConnectionError

    async def other() -> None:
        variable.set(variable.get() + 10)

    async def main() -> int:
        variable.set(5)
        await failover(("one", one), ("other", other), registry=registry)()
        return variable.get()

    assert run(backend, main) == 16


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_nothing_of_an_async_call_stays_behind(backend: str, registry: Registry) -> None:
    class Error(Exception):
        pass

    left: list[weakref.ref[Error]] = []

    async def failing(works: bool) -> None:
        error = Error()
        left.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error

    async def sometimes(works: bool) -> None:
        if not works:
            await failing(works)

    for name in ("a", "b"):
        circuit_breaker(f"search.{name}", registry=registry).disable()
    search = failover(("a", failing), ("b", sometimes), name="search", registry=registry)

    async def main() -> list[Error | None]:
        for turn in range(20):
            try:
                await search(bool(turn % 2))
            except ExceptionGroup:
                pass
        return [reference() for reference in left]

    gc.disable()
    try:
        assert run(backend, main) == [None] * 30
    finally:
        gc.enable()
