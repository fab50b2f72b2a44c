"""Leaked permits: a waiter that is cancelled takes its place along, or goes on as if nothing had been.

A bulkhead of one, with room for three to wait. Waiters are cancelled while they wait, and at every step of the event
loop around the moment in which they get the permit. Each must end as cancelled or with its result, and afterwards all
places must be free.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial

from benchmarks.peer_bugs.breakers import Seen, fine, let_others_run
from benchmarks.peer_bugs.bulkheads import BULKHEADS, Bulkhead, Maker
from benchmarks.peer_bugs.tables import Case, judge, main, on_a_loop

ROOM = 3
STEPS = 8


async def free(bulkhead: Bulkhead) -> bool:
    """Whether one call is let in, and as many as may wait can wait for it."""
    gate = asyncio.Event()
    calls = [asyncio.ensure_future(bulkhead(gate.wait)) for _ in range(1 + ROOM)]
    await let_others_run()
    gate.set()
    done, pending = await asyncio.wait(calls, timeout=1)
    for call in pending:
        call.cancel()
    with suppress(asyncio.CancelledError):
        await asyncio.gather(*calls, return_exceptions=True)
    return not pending and all(call.exception() is None for call in done)


async def cancelled_while_waiting(make: Maker) -> bool:
    bulkhead = make(1, ROOM)
    gate = asyncio.Event()
    holder = asyncio.ensure_future(bulkhead(gate.wait))
    await let_others_run()
    waiters = [asyncio.ensure_future(bulkhead(fine)) for _ in range(ROOM)]
    await let_others_run()
    for waiter in waiters:
        waiter.cancel()
    await asyncio.wait(waiters)
    gate.set()
    await holder
    return await free(bulkhead)


async def cancelled_when_granted(make: Maker, step: int) -> str:
    bulkhead = make(1, ROOM)
    gate = asyncio.Event()
    holder = asyncio.ensure_future(bulkhead(gate.wait))
    await let_others_run()
    waiter = asyncio.ensure_future(bulkhead(asyncio.Event().wait))
    await let_others_run()
    gate.set()
    for _ in range(step):
        await asyncio.sleep(0)
    waiter.cancel()
    done, _ = await asyncio.wait([waiter], timeout=1)
    if not done:
        waiter.cancel()
        await asyncio.wait([waiter, holder])
        return "a cancellation is swallowed: the body runs on"
    await asyncio.wait([holder])
    return "" if await free(bulkhead) else "a place is lost when cancelled as it is granted"


async def scenario(make: Maker) -> Seen:
    wrongs = [] if await cancelled_while_waiting(make) else ["a place is lost for each cancelled waiter"]
    for step in range(STEPS):
        wrong = await cancelled_when_granted(make, step)
        if wrong and wrong not in wrongs:
            wrongs.append(wrong)
    return "; ".join(wrongs) or "all places free again", judge(not wrongs)


CASES: list[Case] = [(library, form, partial(on_a_loop, scenario, make)) for (library, form), make in BULKHEADS.items()]

if __name__ == "__main__":
    main(__doc__, CASES)
