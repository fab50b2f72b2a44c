"""Permit given back too early: a timeout lets the caller go, while the body goes on.

A bulkhead of one, around a timeout of 0.5 s. The first body hangs on its thread; its caller gets the error. A second
call must not be let in beside it: what the bulkhead protects is still busy with the first.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from benchmarks.peer_bugs.breakers import Seen
from benchmarks.peer_bugs.tables import OURS, Case, documented, judge, main


def ours() -> Any:
    from resilient import Registry, bulkhead, pipeline, timeout

    registry = Registry()
    return pipeline(bulkhead(max_concurrent=1, registry=registry), timeout(0.5, interrupt="thread", registry=registry))


def interlock_() -> Any:
    from interlock import Pipeline

    return Pipeline.builder().bulkhead(1).timeout(0.5).build()


def pyresilience_() -> Any:
    from pyresilience import BulkheadConfig, TimeoutConfig, resilient

    return resilient(bulkhead=BulkheadConfig(max_concurrent=1), timeout=TimeoutConfig(seconds=0.5))


def scenario(make: Callable[[], Any]) -> Seen:
    release = threading.Event()
    inside = 0

    def body() -> None:
        nonlocal inside
        inside += 1
        release.wait(20)

    guarded = make()(body)
    for _ in range(2):
        with suppress(Exception):
            guarded()
    most = inside
    release.set()
    return f"{most} in the body where 1 is allowed", judge(most == 1)


CASES: list[Case] = [
    (OURS, 'interrupt="thread"', lambda: scenario(ours)),
    ("interlock-cb", "pipeline", lambda: scenario(interlock_)),
    ("pyresilience", "decorator", lambda: scenario(pyresilience_)),
]

if __name__ == "__main__":
    # interlock-cb: "it may still hold the resource it was waiting on".
    main(__doc__, documented(CASES, "interlock-cb"))
