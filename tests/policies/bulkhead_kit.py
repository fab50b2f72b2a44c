"""Bulkheads under test: every face as one function, calls that stay inside, and whether all is at rest."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import trio

from resilient import (
    Bulkhead,
    Registry,
    bulkhead,
)

Body = Callable[[], Any]
Through = Callable[[Bulkhead, Body], Any]


def fresh(**settings: Any) -> Bulkhead:
    made: Bulkhead = bulkhead(registry=Registry(), **settings)
    return made


# One text for all faces: run `body` through the policy, on this thread.


def by_call(policy: Bulkhead, body: Body) -> Any:
    return policy.call(body)


def by_decorator(policy: Bulkhead, body: Body) -> Any:
    def plain() -> Any:
        return body()

    return policy(plain)()


def by_block(policy: Bulkhead, body: Body) -> Any:
    with policy:
        return body()


def by_generator(policy: Bulkhead, body: Body) -> Any:
    def steps() -> Iterator[Any]:
        yield body()

    return next(iter(list(policy(steps)())))


async def _call_async(policy: Bulkhead, body: Body) -> Any:
    async def coroutine() -> Any:
        return body()

    return await policy.call_async(coroutine)


async def _decorated_async(policy: Bulkhead, body: Body) -> Any:
    async def coroutine() -> Any:
        return body()

    return await policy(coroutine)()


async def _block_async(policy: Bulkhead, body: Body) -> Any:
    async with policy:
        return body()


async def _async_generator(policy: Bulkhead, body: Body) -> Any:
    async def steps() -> AsyncIterator[Any]:
        yield body()

    (item,) = [item async for item in policy(steps)()]
    return item


ASYNC = (_call_async, _decorated_async, _block_async, _async_generator)
SYNC_FACES = (by_call, by_decorator, by_block, by_generator)


def on_asyncio(through: Any) -> Through:
    return lambda policy, body: asyncio.run(through(policy, body))


def on_trio(through: Any) -> Through:
    return lambda policy, body: trio.run(through, policy, body)


faces = pytest.mark.parametrize(
    "through",
    [
        *(pytest.param(face, id=face.__name__) for face in SYNC_FACES),
        *(pytest.param(on_asyncio(face), id=f"asyncio{face.__name__}") for face in ASYNC),
        *(pytest.param(on_trio(face), id=f"trio{face.__name__}") for face in ASYNC),
    ],
)


def until(condition: Callable[[], bool]) -> None:
    """Let other threads run until something is so."""
    give_up = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < give_up, "it did not come to be so"
        time.sleep(0.0005)


class Hold:
    """A call on a thread of its own that stays inside until told."""

    def __init__(self, policy: Bulkhead) -> None:
        self.inside = threading.Event()
        self.end = threading.Event()
        self.thread = threading.Thread(target=policy.call, args=(self.stay,))
        self.thread.start()
        assert self.inside.wait(10.0)

    def stay(self) -> None:
        self.inside.set()
        self.end.wait(10.0)

    def leave(self) -> None:
        self.end.set()
        self.thread.join(10.0)

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()


def at_rest(policy: Bulkhead) -> bool:
    """Is nobody inside or waiting, and is every permit there?"""
    if (policy.in_flight, policy.queued) != (0, 0):
        return False
    taken = 0
    while policy._permits.try_acquire():
        taken += 1
    for _ in range(taken):
        policy._permits.release()
    return taken == policy.limit
