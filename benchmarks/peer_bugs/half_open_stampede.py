"""Half-open stampede: after the break, one call should find out whether the other side is back.

50 callers come at the moment the break is over, to a circuit that closes at one success. How many are let through at
once, to what may be still down?
"""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress

from benchmarks.peer_bugs.breakers import (
    PAUSE,
    Maker,
    Seen,
    async_cases,
    let_others_run,
    sync_cases,
    trip,
    trip_sync,
    wait_out_the_pause,
)
from benchmarks.peer_bugs.tables import documented, judge, main

CALLERS = 50


def verdict(inside: int) -> Seen:
    return f"{inside} of {CALLERS} let through at once", judge(inside == 1)


async def on_asyncio(make: Maker) -> Seen:
    breaker = make(1, PAUSE)
    await trip(breaker)
    wait_out_the_pause()
    inside = 0
    gate = asyncio.Event()

    async def probe() -> None:
        nonlocal inside
        inside += 1
        await gate.wait()

    callers = [asyncio.ensure_future(breaker.call(probe)) for _ in range(CALLERS)]
    await let_others_run()
    at_once = inside
    gate.set()
    await asyncio.gather(*callers, return_exceptions=True)
    return verdict(at_once)


def on_threads(make: Maker) -> Seen:
    breaker = make(1, PAUSE)
    trip_sync(breaker)
    wait_out_the_pause()
    inside: list[bool] = []
    rejected: list[bool] = []
    gate = threading.Event()

    def probe() -> None:
        inside.append(True)
        gate.wait(10)

    def caller() -> None:
        with suppress(Exception):
            breaker.call(probe)
            return
        rejected.append(True)

    threads = [threading.Thread(target=caller) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 2
    # Who waits for a lock is neither inside nor rejected.
    while len(inside) + len(rejected) < CALLERS and time.monotonic() < end:
        time.sleep(0.005)
    at_once = len(inside)
    gate.set()
    for thread in threads:
        thread.join()
    return verdict(at_once)


if __name__ == "__main__":
    # pyfailsafe lets through a share of the calls, a tenth unless told otherwise.
    main(__doc__, documented(async_cases(on_asyncio) + sync_cases(on_threads), "pyfailsafe"))
