"""Hedge: rules of the house that its other tests leave out."""

from __future__ import annotations

import threading
import weakref
from typing import Any

import pytest
import trio

from resilient import Registry, hedge, percentile
from tests.policies.hedge_kit import LOOPS, PATIENCE, Attempts, Backend, returning


@pytest.fixture(params=LOOPS, ids=str)
def loop(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def registry() -> Registry:
    return Registry()


def test_no_lock_is_held_while_it_warms_up(registry: Registry) -> None:
    together = threading.Barrier(5, timeout=PATIENCE)
    policy = hedge(delay=percentile(0.9), registry=registry)
    callers = [threading.Thread(target=policy.call, args=[together.wait]) for _ in range(5)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(PATIENCE)
    assert not together.broken
    calls: Any = policy.snapshot()["calls"]
    assert calls["not_hedged"] == 5


def test_the_losers_are_cancelled(loop: Backend, registry: Registry) -> None:
    policy = hedge(delay=0, registry=registry)
    ends: list[str] = []

    async def late() -> None:
        try:
            for _ in range(100):
                await loop.checkpoint()
        except BaseException:
            ends.append("cancelled")
            raise
        ends.append("ran on")

    async def main() -> None:
        assert await loop.guard(policy, Attempts(late, returning("hedge")))() == "hedge"
        assert ends == ["cancelled"]

    loop.run(main)


def test_the_error_that_is_raised_keeps_nothing_of_the_losers_alive(loop: Backend, registry: Registry) -> None:
    class Failure(Exception):
        pass

    left: list[weakref.ref[Failure]] = []
    policy = hedge(delay=0, on=Failure, registry=registry)

    async def refuse() -> None:
        while not begun:
            await loop.checkpoint()
        raise ValueError("not worth another attempt")

    async def late() -> None:
        begun.append(True)
        try:
            await (trio.sleep_forever() if loop.name == "trio" else loop.event().wait())
        finally:
            error = Failure("out of the cleanup")
            left.append(weakref.ref(error))
            try:
                raise error
            finally:
                del error

    begun: list[bool] = []

    async def main() -> None:
        with pytest.raises(ValueError, match="not worth") as caught:
            await loop.guard(policy, Attempts(refuse, late))()
        await loop.checkpoint()
        assert caught.value.__traceback__ is not None
        assert [reference() for reference in left] == [None]

    loop.run(main)
