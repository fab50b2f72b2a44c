"""Cancelled probe: a caller that hangs up says nothing about the other side.

The break is over, one call goes through as the probe and is cancelled. The circuit must not close, because nothing has
succeeded, and must let the next call try: at once, because nothing has failed.
"""

from __future__ import annotations

import asyncio

from benchmarks.peer_bugs.breakers import (
    Maker,
    Seen,
    admits,
    async_cases,
    let_others_run,
    trip,
    wait_out_the_pause,
)
from benchmarks.peer_bugs.tables import Verdict, judge, main

MOST = 20
PAUSE = 0.5
"""Longer than so many calls take, however slow the machine."""


async def scenario(make: Maker) -> Seen:
    breaker = make(1, PAUSE)
    await trip(breaker)
    wait_out_the_pause(PAUSE)
    probe = asyncio.ensure_future(breaker.call(asyncio.Event().wait))
    await let_others_run()
    probe.cancel()
    await asyncio.wait([probe])
    if breaker.state() == "closed":
        return "closed the circuit, though nothing has succeeded", Verdict.WRONG
    rejected = 0
    while rejected < MOST and not await admits(breaker):
        rejected += 1
    if not rejected:
        return "neutral: the next call is the probe", Verdict.RIGHT
    if rejected == MOST:
        return "counted as a failure: open for another break", Verdict.WRONG
    return f"{rejected} calls rejected before the next probe", judge(False)


if __name__ == "__main__":
    main(__doc__, async_cases(scenario))
