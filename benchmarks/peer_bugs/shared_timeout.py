"""Timeout that never fires when shared: one object that keeps the state of a call in itself.

Two calls overlap under one timeout object of 0.1 s. The first hangs; the second comes and goes at once. The first must
still be ended by its timeout.
"""

from __future__ import annotations

import asyncio

from benchmarks.peer_bugs.breakers import Seen, fine, let_others_run
from benchmarks.peer_bugs.tables import judge, main
from benchmarks.peer_bugs.timeouts import ASYNC, Maker, cases

GIVEN_UP_AFTER = 3.0


def scenario(make: Maker) -> Seen:
    async def overlapping() -> Seen:
        shared = make(0.1)
        first = asyncio.ensure_future(shared(asyncio.Event().wait)())
        await let_others_run()
        await shared(fine)()
        _, pending = await asyncio.wait([first], timeout=GIVEN_UP_AFTER)
        for call in pending:
            call.cancel()
        await asyncio.wait([first])
        if pending:
            return f"never: it hung for {GIVEN_UP_AFTER:.0f} s until we cancelled it", judge(False)
        return "fired", judge(first.exception() is not None)

    return asyncio.run(overlapping())


if __name__ == "__main__":
    main(__doc__, cases(ASYNC, scenario))
