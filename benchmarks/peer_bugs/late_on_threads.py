"""Timeout late on threads: what blocks a thread in C can't be ended from outside, but its caller can be let go.

A plain function, on a thread that is not the main one, waits for 2 s under a timeout of 0.3 s. The caller should get
the error after 0.3 s, with the settings that the library has by default.
"""

from __future__ import annotations

import threading
import time
from functools import partial

from benchmarks.peer_bugs.breakers import Seen
from benchmarks.peer_bugs.tables import OURS, Case, documented, judge, main
from benchmarks.peer_bugs.timeouts import SYNC, Maker, on_another_thread

BODY = 2.0


def scenario(make: Maker) -> Seen:
    def body() -> None:
        threading.Event().wait(BODY)

    guarded = make(0.3)(body)
    began = time.monotonic()
    raised = "no error"
    try:
        guarded()
    except Exception as error:  # noqa: BLE001 - each library has its own
        raised = type(error).__name__
    in_time = time.monotonic() - began < BODY
    return f"{raised}, {'in time' if in_time else 'after the body has ended'}", judge(in_time)


CASES: list[Case] = [
    (library, form.replace("main thread", 'interrupt="auto"'), partial(on_another_thread(scenario), make))
    for (library, form), make in SYNC.items()
]

if __name__ == "__main__":
    # Ours lets nobody go before the body has ended, unless asked for a helper thread, and says so.
    main(__doc__, documented(CASES, OURS))
