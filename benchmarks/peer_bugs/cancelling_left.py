"""Cancellation left behind: a timeout that cancels the task, and does not take it back.

The timeout has fired and its error was caught. `current_task().cancelling()` must be zero again: what looks at it
afterwards, a task group or another timeout, takes the task for cancelled.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from benchmarks.peer_bugs.breakers import Seen
from benchmarks.peer_bugs.tables import judge, main
from benchmarks.peer_bugs.timeouts import ASYNC, Maker, cases


def scenario(make: Maker) -> Seen:
    async def call() -> int:
        with suppress(Exception):
            await make(0.01)(asyncio.Event().wait)()
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    left = asyncio.run(call())
    return f"cancelling() is {left}", judge(left == 0)


if __name__ == "__main__":
    main(__doc__, cases(ASYNC, scenario))
