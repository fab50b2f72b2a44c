"""Lock held across the call: a breaker that queues its callers makes a service of one thread of them.

Five threads call through one closed circuit. Can all five be in the body at once?
"""

from __future__ import annotations

import threading
from contextlib import suppress

from benchmarks.peer_bugs.breakers import LONG, Maker, Seen, sync_cases
from benchmarks.peer_bugs.tables import judge, main

THREADS = 5


def scenario(make: Maker) -> Seen:
    breaker = make(100, LONG)
    meeting = threading.Barrier(THREADS)
    inside = 0
    most = 0

    def body() -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        # Who waits alone gives up after a while, and breaks up the meeting for all.
        with suppress(threading.BrokenBarrierError):
            meeting.wait(2)
        inside -= 1

    threads = [threading.Thread(target=breaker.call, args=(body,)) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return f"{most} of {THREADS} in the body at once", judge(most == THREADS)


if __name__ == "__main__":
    main(__doc__, sync_cases(scenario))
