"""Late result: the answer to a call from before the trip is old news.

A call begins while the circuit is closed and hangs. Meanwhile the circuit opens. When the old call ends at last, its
result must be dropped: a success may neither close an open circuit nor stand for the probe that is out, and a failure
may not cut the probe short.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from benchmarks.peer_bugs.breakers import (
    LONG,
    PAUSE,
    Breaker,
    Maker,
    Seen,
    admits,
    async_cases,
    let_others_run,
    trip,
    wait_out_the_pause,
)
from benchmarks.peer_bugs.tables import judge, main


class Late:
    """A call that hangs until it is told how to end."""

    def __init__(self, breaker: Breaker) -> None:
        self.answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.call = asyncio.ensure_future(breaker.call(self.body))

    async def body(self) -> str:
        return await self.answer

    async def end(self, error: Exception | None = None) -> None:
        if error is None:
            self.answer.set_result("at last")
        else:
            self.answer.set_exception(error)
        with suppress(Exception):
            await self.call


async def success_closes_an_open_circuit(make: Maker) -> bool:
    breaker = make(3, LONG)
    late = Late(breaker)
    await let_others_run()
    await trip(breaker, 3)
    await late.end()
    return await admits(breaker)


async def state_after(make: Maker, error: Exception | None) -> str:
    """The state while a probe is out and the late call has ended."""
    breaker = make(3, PAUSE)
    late = Late(breaker)
    await let_others_run()
    await trip(breaker, 3)
    wait_out_the_pause()
    probe = Late(breaker)
    await let_others_run()
    await late.end(error)
    state = breaker.state()
    await probe.end()
    return state


async def scenario(make: Maker) -> Seen:
    wrongs = []
    if await success_closes_an_open_circuit(make):
        wrongs.append("a success closes an open circuit")
    if await state_after(make, None) == "closed":
        wrongs.append("a success closes it while the probe is out")
    if await state_after(make, ConnectionError()) == "open":
        wrongs.append("a failure opens it while the probe is out")
    return "; ".join(wrongs) or "dropped", judge(not wrongs)


if __name__ == "__main__":
    main(__doc__, async_cases(scenario))
