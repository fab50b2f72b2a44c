"""Lost context: a timeout that runs the body elsewhere loses the context variables on the way.

The caller sets a variable: the request id of its log lines, the parent of its spans, the locale. The body must see it.
The body sets another value: after a bare call the caller sees that.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar

from benchmarks.peer_bugs.breakers import Seen
from benchmarks.peer_bugs.tables import OURS, Case, Verdict, documented, main
from benchmarks.peer_bugs.timeouts import ASYNC, SYNC, Maker, cases, on_another_thread, ours

request: ContextVar[str] = ContextVar("request", default="none")


def told(inside: str, after: str) -> Seen:
    wrongs = []
    if inside != "of the caller":
        wrongs.append("the body does not see the caller's")
    if after != "of the body":
        wrongs.append("the body's is lost")
    return "; ".join(wrongs) or "both seen", Verdict.WRONG if wrongs else Verdict.RIGHT


def plain(make: Maker) -> Seen:
    def body() -> str:
        seen = request.get()
        request.set("of the body")
        return seen

    request.set("of the caller")
    return told(make(30)(body)(), request.get())


def on_asyncio(make: Maker) -> Seen:
    async def body() -> str:
        seen = request.get()
        request.set("of the body")
        return seen

    async def caller() -> Seen:
        request.set("of the caller")
        return told(await make(30)(body)(), request.get())

    return asyncio.run(caller())


def elsewhere() -> list[Case]:
    return [(OURS, "decorator, other thread", lambda: on_another_thread(plain)(ours))]


if __name__ == "__main__":
    # Ours runs the body in a copy of the context when asked for a helper thread, and says so.
    main(__doc__, elsewhere() + documented(cases(SYNC, plain), OURS) + cases(ASYNC, on_asyncio))
