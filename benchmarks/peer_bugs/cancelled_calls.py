"""Cancelled calls counted: neither a failure nor a success.

The circuit opens at three failures in a row. First, three calls are cancelled: it must stay closed. Then two calls
fail, one is cancelled, one fails: it must open, because a cancellation is no success that would end the row.
"""

from __future__ import annotations

import asyncio

from benchmarks.peer_bugs.breakers import LONG, Breaker, Maker, Seen, admits, async_cases, let_others_run, trip
from benchmarks.peer_bugs.tables import judge, main


async def cancel_one(breaker: Breaker) -> None:
    call = asyncio.ensure_future(breaker.call(asyncio.Event().wait))
    await let_others_run()
    call.cancel()
    await asyncio.wait([call])


async def scenario(make: Maker) -> Seen:
    breaker = make(3, LONG)
    for _ in range(3):
        await cancel_one(breaker)
    failure = not await admits(breaker)

    breaker = make(3, LONG)
    await trip(breaker, 2)
    await cancel_one(breaker)
    await trip(breaker)
    success = await admits(breaker)

    if failure:
        return "counted as failures: three open the circuit", judge(False)
    if success:
        return "counted as a success: the failures before it are forgotten", judge(False)
    return "neutral", judge(True)


if __name__ == "__main__":
    main(__doc__, async_cases(scenario))
