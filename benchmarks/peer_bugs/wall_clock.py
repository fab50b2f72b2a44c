"""Wall clock set back: NTP or an operator moves it by an hour, and what counted on it waits for an hour.

A circuit opens for 50 ms, or a limiter of two calls a second is used up. Then the wall clock is set back by an hour,
and the time passes. The next call must be let in.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta, tzinfo
from functools import partial
from unittest import mock

from benchmarks.peer_bugs.breakers import ASYNC, PAUSE, SYNC, Seen, admits, trip, trip_sync, wait_out_the_pause
from benchmarks.peer_bugs.breakers import Maker as BreakerMaker
from benchmarks.peer_bugs.limiters import LIMITERS
from benchmarks.peer_bugs.limiters import Maker as LimiterMaker
from benchmarks.peer_bugs.tables import Case, judge, main, on_a_loop

HOUR = timedelta(hours=1)


class SetBack(datetime):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        return datetime.now(tz) - HOUR

    @classmethod
    def utcnow(cls) -> datetime:  # type: ignore[override]
        return datetime.now(UTC).replace(tzinfo=None) - HOUR


@contextmanager
def set_back() -> Iterator[None]:
    """The wall clock an hour back, for all modules, however they came by it."""
    now, now_ns = time.time, time.time_ns
    to = {
        id(now): lambda: now() - HOUR.total_seconds(),
        id(now_ns): lambda: now_ns() - int(HOUR.total_seconds() * 1e9),
        id(datetime): SetBack,
    }
    with ExitStack() as patches:
        for name, module in list(sys.modules.items()):
            if name.split(".")[0] in ("asyncio", "datetime", "unittest", "benchmarks", "__main__", "threading"):
                continue
            # A copy, for some modules load others when looked at.
            for attribute, value in list(vars(module).items()):
                if id(value) in to:
                    with suppress(TypeError):
                        patches.enter_context(mock.patch.object(module, attribute, to[id(value)]))
        yield


def verdict(admitted: bool) -> Seen:
    return ("let in" if admitted else "refused, and would be for an hour"), judge(admitted)


async def of_breaker(make: BreakerMaker) -> Seen:
    breaker = make(1, PAUSE)
    await trip(breaker)
    with set_back():
        wait_out_the_pause()
        return verdict(await admits(breaker))


def of_sync_breaker(make: BreakerMaker) -> Seen:
    breaker = make(1, PAUSE)
    trip_sync(breaker)
    admitted: list[bool] = []
    with set_back(), suppress(Exception):
        wait_out_the_pause()
        breaker.call(lambda: admitted.append(True))
    return verdict(bool(admitted))


async def of_limiter(make: LimiterMaker) -> Seen:
    admit = make(2, 1)
    for _ in range(3):
        await admit()
    with set_back():
        await asyncio.sleep(1.3)
        return verdict(await admit())


CASES: list[Case] = [
    *(
        (library, "breaker", partial(on_a_loop, of_breaker, make))
        for (library, form), make in ASYNC.items()
        if form != "async with"
    ),
    ("pybreaker", "breaker", lambda: of_sync_breaker(SYNC["pybreaker"])),
    *((library, form, partial(on_a_loop, of_limiter, make)) for (library, form), make in LIMITERS.items()),
]

if __name__ == "__main__":
    main(__doc__, CASES)
