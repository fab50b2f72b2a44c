"""Generator unprotected: calling a generator function runs none of its body, so there is nothing yet to count or to
retry.

A generator, and an async one, give one item and then fail. A breaker that opens at three failures is asked for ten of
them: it must have seen the failures, or refuse generators when they are decorated. With three attempts the consumer
must not get items twice without having been told: items already given out can't be taken back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from benchmarks.peer_bugs.async_unprotected import BREAKERS, RETRIES, Decorator
from benchmarks.peer_bugs.breakers import Seen
from benchmarks.peer_bugs.tables import Case, Verdict, judge, main


class Source:
    """One item, then a failure."""

    def __init__(self) -> None:
        self.started = 0
        self.items: list[int] = []

    def plain(self) -> Iterator[int]:
        self.started += 1
        yield 1
        raise ConnectionError

    async def not_plain(self) -> AsyncIterator[int]:
        self.started += 1
        yield 1
        raise ConnectionError

    def consume(self, guarded: Callable[[], Iterator[int]]) -> None:
        self.items += guarded()

    def consume_async(self, guarded: Callable[[], AsyncIterator[int]]) -> None:
        async def all_of_them() -> None:
            async for item in guarded():
                self.items.append(item)

        asyncio.run(all_of_them())


def functions(source: Source) -> Iterator[tuple[str, Any, Any]]:
    # Methods would be another form again.
    def generator() -> Iterator[int]:
        yield from source.plain()

    async def async_generator() -> AsyncIterator[int]:
        async for item in source.not_plain():
            yield item

    yield "generator", generator, source.consume
    yield "async generator", async_generator, source.consume_async


def through_breaker(make: Callable[[], Decorator]) -> Seen:
    seen = []
    source = Source()
    for kind, function, consume in functions(source):
        source.started = 0
        try:
            guarded = make()(function)
        except TypeError:
            seen.append(f"{kind} refused")
            continue
        for _ in range(10):
            with suppress(Exception):
                consume(guarded)
        seen.append(f"{kind} {'unguarded' if source.started == 10 else 'guarded'}")
    return ", ".join(seen), judge(not any("unguarded" in what for what in seen))


def through_retry(make: Callable[[], Decorator]) -> Seen:
    seen = []
    source = Source()
    for kind, function, consume in functions(source):
        source.started = 0
        source.items.clear()
        try:
            guarded = make()(function)
        except TypeError:
            seen.append(f"{kind} refused")
            continue
        with suppress(Exception):
            consume(guarded)
        if source.started == 1:
            seen.append(f"{kind} not retried")
        else:
            seen.append(f"{kind} starts again: the first item comes {len(source.items)} times")
    told = "; ".join(seen)
    if "not retried" in told:
        return told, Verdict.WRONG
    return told, Verdict.DOCUMENTED if "starts again" in told else Verdict.RIGHT


def cases() -> list[Case]:
    breakers: list[Case] = [(name, "breaker", partial(through_breaker, make)) for name, make in BREAKERS.items()]
    retries: list[Case] = [(name, "retry", partial(through_retry, make)) for name, make in RETRIES.items()]
    return breakers + retries


if __name__ == "__main__":
    main(__doc__, cases())
