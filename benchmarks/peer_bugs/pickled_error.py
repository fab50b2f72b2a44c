"""Error that does not pickle: in a pool of processes the answer is lost on its way home.

Each error of the library's own is sent through `pickle`, as `multiprocessing` does with what a worker raises. It must
come back as the same class with the same message.
"""

from __future__ import annotations

import asyncio
import pickle
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.peer_bugs.breakers import ASYNC, LONG, SYNC, Breaker, Maker, Seen, fine, trip, trip_sync
from benchmarks.peer_bugs.tables import OURS, Case, judge, main


def through_pickle(error: Exception) -> Seen:
    name = type(error).__name__
    message = str(error)
    try:
        back = pickle.loads(pickle.dumps(error))
    except Exception as failure:  # noqa: BLE001 - what becomes of it is the question
        return f"{name}: {type(failure).__name__} on the way", judge(False)
    if type(back) is not type(error) or str(back) != message:
        return f"{name}: comes back with another message", judge(False)
    return f"{name}: comes back as it was", judge(True)


def of_breaker(library: str) -> Seen:
    if library == "pybreaker":
        return of_sync_breaker(SYNC[library])
    make = next(make for (name, _), make in ASYNC.items() if name == library)

    async def rejected() -> Exception:
        breaker = make(1, LONG)
        await trip(breaker)
        return await error_of(breaker)

    return through_pickle(asyncio.run(rejected()))


async def error_of(breaker: Breaker) -> Exception:
    try:
        await breaker.call(fine)
    except Exception as error:  # noqa: BLE001 - each library has its own
        return error
    raise AssertionError("let in")


def of_sync_breaker(make: Maker) -> Seen:
    breaker = make(1, LONG)
    trip_sync(breaker)
    try:
        breaker.call(lambda: None)
    except Exception as error:  # noqa: BLE001 - each library has its own
        return through_pickle(error)
    raise AssertionError("let in")


def of_timeout(library: str) -> Seen:
    from benchmarks.peer_bugs.timeouts import ASYNC as TIMEOUTS

    make = next(make for (name, _), make in TIMEOUTS.items() if name == library)

    async def ended() -> Exception:
        try:
            await make(0.01)(asyncio.Event().wait)()
        except Exception as error:  # noqa: BLE001 - each library has its own
            return error
        raise AssertionError("not ended")

    return through_pickle(asyncio.run(ended()))


def of_retry(make: Callable[[], Any]) -> Seen:
    def fail() -> None:
        raise ConnectionError("refused")

    try:
        make()(fail)()
    except Exception as error:  # noqa: BLE001 - each library has its own
        return through_pickle(error)
    raise AssertionError("no error")


def tenacity_() -> Any:
    from tenacity import retry, stop_after_attempt

    return retry(stop=stop_after_attempt(2))


def ours() -> Any:
    from resilient import Registry, retry

    return retry(attempts=2, backoff=0, registry=Registry())


BREAKERS = dict.fromkeys([*SYNC, *(name for name, _ in ASYNC)])
CASES: list[Case] = [
    *((library, "breaker, open", partial(of_breaker, library)) for library in BREAKERS),
    *((library, "timeout", partial(of_timeout, library)) for library in (OURS, "hyx", "interlock-cb", "pyresilience")),
    ("tenacity", "retry, exhausted", lambda: of_retry(tenacity_)),
    (OURS, "retry, exhausted", lambda: of_retry(ours)),
]

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(__doc__, CASES)
