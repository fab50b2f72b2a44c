"""The body's own `TimeoutError` taken for the timeout: a refused connection reported as 30 seconds of waiting.

The body raises a `TimeoutError` of its own at once, as sockets and database drivers do. It must reach the caller as it
is. For plain functions, one more call follows, of a body that returns at once: it must return.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from benchmarks.peer_bugs.breakers import Seen
from benchmarks.peer_bugs.tables import judge, main
from benchmarks.peer_bugs.timeouts import ASYNC, SYNC, Maker, cases


def told(own: TimeoutError, raised: BaseException | None, seconds: float) -> str:
    if raised is own:
        return "as it is"
    return f"as {type(raised).__name__}, after {seconds:g} s that never passed"


def caught(call: Any) -> BaseException | None:
    try:
        call()
    except Exception as error:  # noqa: BLE001 - what arrives is the question
        return error
    return None


def plain(make: Maker) -> Seen:
    own = TimeoutError("of the socket")

    def body(fails: bool) -> None:
        if fails:
            raise own

    guarded = make(2.0)(body)
    happened = told(own, caught(lambda: guarded(True)), 2.0)
    after = caught(lambda: guarded(False))
    if after is not None:
        happened += f"; the next call, of a body that returns at once, ends with {type(after).__name__}"
    return happened, judge(happened == "as it is")


def on_asyncio(make: Maker) -> Seen:
    own = TimeoutError("of the socket")

    async def fail() -> None:
        raise own

    async def call() -> None:
        await make(30.0)(fail)()

    happened = told(own, caught(lambda: asyncio.run(call())), 30.0)
    return happened, judge(happened == "as it is")


if __name__ == "__main__":
    logging.disable()  # one of them kills a thread of its pool, which logs
    main(__doc__, cases(SYNC, plain) + cases(ASYNC, on_asyncio))
