"""One exception raised again and again: it keeps the frames of all who ever got it.

An open circuit rejects a hundred calls. Each rejection must be an exception of its own: one that is kept grows a
longer traceback each time it is raised, which keeps every frame alive, and is shared by threads that each see the
others' stack.
"""

from __future__ import annotations

from functools import partial

from benchmarks.peer_bugs.breakers import ASYNC, LONG, SYNC, Breaker, Maker, Seen, fine, trip, trip_sync
from benchmarks.peer_bugs.tables import Case, judge, main, on_a_loop

CALLS = 100


def told(errors: list[Exception]) -> Seen:
    different = len(set(map(id, errors)))
    if different == CALLS:
        return "raised afresh", judge(True)
    length, link = 0, errors[-1].__traceback__
    while link is not None:
        length, link = length + 1, link.tb_next
    return f"{different} exception for {CALLS} calls, with {length} frames in its traceback", judge(False)


async def rejected(breaker: Breaker) -> Exception:
    try:
        await breaker.call(fine)
    except Exception as error:  # noqa: BLE001 - each library has its own
        return error
    raise AssertionError("let in")


async def on_asyncio(make: Maker) -> Seen:
    breaker = make(1, LONG)
    await trip(breaker)
    return told([await rejected(breaker) for _ in range(CALLS)])


def plain(make: Maker) -> Seen:
    breaker = make(1, LONG)
    trip_sync(breaker)
    errors = []
    for _ in range(CALLS):
        try:
            breaker.call(lambda: None)
        except Exception as error:  # noqa: BLE001 - each library has its own
            errors.append(error)
    return told(errors)


CASES: list[Case] = [
    *(
        (library, "async", partial(on_a_loop, on_asyncio, make))
        for (library, form), make in ASYNC.items()
        if form != "async with"
    ),
    *((library, "sync", partial(plain, make)) for library, make in SYNC.items()),
]

if __name__ == "__main__":
    main(__doc__, CASES)
