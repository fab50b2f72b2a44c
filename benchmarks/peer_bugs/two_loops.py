"""Bound to one event loop: an object made at import, used by whichever loop runs.

A bulkhead of two that stands at the top of a module, as decorators do. First two loops use it one after the other, as
tests and scripts with `asyncio.run` do; then two at once, on two threads. Four calls on each loop. All must get
through, and no more than two may ever be inside.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from functools import partial

from benchmarks.peer_bugs.breakers import Seen
from benchmarks.peer_bugs.bulkheads import BULKHEADS, Maker
from benchmarks.peer_bugs.tables import Case, documented, judge, main

AT_ONCE = 2
CALLS = 4


def scenario(make: Maker) -> Seen:
    bulkhead = None
    counted = threading.Lock()
    inside = most = through = 0
    errors: set[str] = set()
    meeting = threading.Barrier(2)

    async def body() -> None:
        nonlocal inside, most, through
        with counted:
            inside += 1
            most = max(most, inside)
        await asyncio.sleep(0.1)
        with counted:
            inside -= 1
            through += 1

    async def calls() -> None:
        assert bulkhead is not None
        tasks = [asyncio.ensure_future(bulkhead(body)) for _ in range(CALLS)]
        done, pending = await asyncio.wait(tasks, timeout=4)
        for task in pending:
            task.cancel()
            errors.add("calls that never end")
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
        errors.update(type(error).__name__ for task in done if (error := task.exception()) is not None)

    def on_a_thread() -> None:
        meeting.wait(10)
        asyncio.run(calls())

    wrongs = []
    bulkhead = make(AT_ONCE, 2 * CALLS)
    asyncio.run(calls())
    asyncio.run(calls())
    if errors or most > AT_ONCE:
        wrongs.append(f"one after the other: {', '.join(sorted(errors)) or 'more than two inside'}")
    errors.clear()
    inside = most = 0
    bulkhead = make(AT_ONCE, 2 * CALLS)
    threads = [threading.Thread(target=on_a_thread) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors or most > AT_ONCE:
        wrongs.append(f"at the same time: {'more than two inside' if most > AT_ONCE else ', '.join(sorted(errors))}")
    return "; ".join(wrongs) or "all through, two at most inside", judge(not wrongs)


CASES: list[Case] = [(library, form, partial(scenario, make)) for (library, form), make in BULKHEADS.items()]

if __name__ == "__main__":
    # interlock-cb: "the async side of one instance belongs to a single event loop".
    main(__doc__, documented(CASES, "interlock-cb"))
