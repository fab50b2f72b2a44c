"""Hung calls starve the others: a pool of threads is full when its bodies hang.

40 calls under a timeout of 1 s hang, and time out; their bodies can't be ended and stay on their threads. Then comes
a call whose body returns at once. It must return, with the default settings.
"""

from __future__ import annotations

import threading
from contextlib import suppress

from benchmarks.peer_bugs.breakers import Seen
from benchmarks.peer_bugs.tables import judge, main
from benchmarks.peer_bugs.timeouts import SYNC, Maker, cases

CALLS = 40


def scenario(make: Maker) -> Seen:
    release = threading.Event()
    hung = make(1.0)(lambda flag: flag or release.wait(20))

    def caller() -> None:
        with suppress(Exception):
            hung(False)

    callers = [threading.Thread(target=caller) for _ in range(CALLS)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    try:
        hung(True)
    except Exception as error:  # noqa: BLE001 - whatever it is, the call was refused its turn
        return f"{type(error).__name__}: it never ran", judge(False)
    else:
        return "returned", judge(True)
    finally:
        release.set()


if __name__ == "__main__":
    helpers = {where: make for where, make in SYNC.items() if "main thread" not in where[1]}
    main(__doc__, cases(helpers, scenario))
