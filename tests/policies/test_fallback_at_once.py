"""Fallback, stale, failover and hedge hold no lock across what is the user's: several are inside it at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import trio

from resilient import Event, Registry, failover, fallback, hedge, percentile, stale, subscribe
from resilient.drivers import tasks
from tests.policies.stale_kit import in_threads, joined

Body = Callable[[int], Any]
PATIENCE = 5.0


@pytest.fixture
def registry() -> Registry:
    return Registry()


def first_of_two(body: Body, registry: Registry) -> Body:
    async def unused(x: int) -> int:
        return x

    return failover(("a", body), ("b", unused), registry=registry)


def second_of_two(body: Body, registry: Registry) -> Body:
    async def failing(x: int) -> int:
        raise ConnectionError

    return failover(("a", failing), ("b", body), registry=registry)


GUARDS: dict[str, Callable[[Body, Registry], Body]] = {
    "the body of a fallback": lambda body, registry: fallback(default=1, on=ValueError, registry=registry)(body),
    "the body of stale": lambda body, registry: stale(0, 60, registry=registry)(body),
    "the first provider of a failover": first_of_two,
    "the second provider of a failover": second_of_two,
    "the body of a hedge": lambda body, registry: hedge(delay=60, registry=registry)(body),
    "the body of a hedge that warms up": lambda body, registry: hedge(delay=percentile(0.9), registry=registry)(body),
}


@pytest.mark.parametrize("place", GUARDS)
def test_three_loops_are_in_an_async_body_at_once(place: str, registry: Registry) -> None:
    together = threading.Barrier(3, timeout=PATIENCE)

    async def body(x: int) -> int:
        await tasks.sleep(0)
        together.wait()
        await tasks.sleep(0)
        return x

    guarded = GUARDS[place](body, registry)
    results: list[int] = []

    async def main(x: int) -> None:
        results.append(await guarded(x))

    joined(
        in_threads(
            lambda: asyncio.run(main(1)),
            lambda: asyncio.run(main(2)),
            partial(trio.run, main, 3),
        )
    )
    assert sorted(results) == [1, 2, 3]


def test_three_threads_are_in_the_key_function_of_stale_at_once(registry: Registry) -> None:
    together = threading.Barrier(3, timeout=PATIENCE)

    def key(x: int) -> int:
        together.wait()
        return x

    results: list[int] = []
    guarded = stale(0, 60, key, registry=registry)(results.append)
    joined(in_threads(*[partial(guarded, x) for x in range(3)]))
    assert sorted(results) == [0, 1, 2]


@pytest.mark.parametrize("place", ["fallback", "failover", "stale", "hedge"])
def test_three_threads_are_in_the_predicate_at_once(place: str, registry: Registry) -> None:
    together = threading.Barrier(3, timeout=PATIENCE)

    def on(error: BaseException) -> bool:
        together.wait()
        return False

    def body(x: int) -> None:
        raise LookupError(x)

    guards: dict[str, Callable[[], Callable[[int], Any]]] = {
        "fallback": lambda: fallback(default=1, on=on, registry=registry)(body),
        "failover": lambda: failover(("a", body), ("b", body), on=on, registry=registry),
        "stale": lambda: stale(0, 60, on=on, registry=registry)(body),
        "hedge": lambda: hedge(delay=60, on=on, registry=registry)(body),
    }
    guarded = guards[place]()
    errors: list[BaseException] = []

    def caller(x: int) -> None:
        try:
            guarded(x)
        except Exception as error:
            errors.append(error)

    joined(in_threads(*[partial(caller, x) for x in range(3)]))
    assert [type(error) for error in errors] == [LookupError] * 3


@pytest.mark.parametrize("place", ["fallback", "failover", "stale", "hedge"])
def test_a_listener_may_make_a_call_that_is_told_as_well(place: str, registry: Registry) -> None:
    good = False
    fails = 2

    def body() -> str:
        nonlocal fails
        if good or fails <= 0:
            return "good"
        fails -= 1
        raise ConnectionError

    guards: dict[str, Callable[[], Callable[[], str]]] = {
        "fallback": lambda: fallback(default="good", registry=registry)(body),
        "failover": lambda: failover(("a", body), ("b", lambda: "good"), registry=registry),
        "stale": lambda: stale(0, 60, registry=registry)(body),
        "hedge": lambda: hedge(delay=60, registry=registry)(body),
    }
    guarded = guards[place]()
    if place == "stale":
        good = True
        guarded()
        good = False
    heard: list[str] = []

    def listener(event: Event) -> None:
        heard.append(event.kind)
        if len(heard) == 1:
            assert guarded() == "good"

    stop = subscribe(listener, kinds=("fallback_applied", "hedge_started"))
    results: list[str] = []
    try:
        joined(in_threads(lambda: results.append(guarded())))
    finally:
        stop()
    assert results == ["good"]
    assert len(heard) == 2
