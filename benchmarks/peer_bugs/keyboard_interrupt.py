"""Ctrl-C counted: `KeyboardInterrupt` and `SystemExit` are orders to the program, and no answers of the other side.

The circuit opens at three failures. Three calls end with `KeyboardInterrupt`: each must reach the caller as it is, and
the circuit must stay closed. Then two calls fail, one is interrupted, one fails: it must open.
"""

from __future__ import annotations

from contextlib import suppress

from benchmarks.peer_bugs.breakers import LONG, Maker, Seen, sync_cases, trip_sync
from benchmarks.peer_bugs.tables import judge, main


def interrupted() -> None:
    raise KeyboardInterrupt


def scenario(make: Maker) -> Seen:
    breaker = make(3, LONG)
    arrived = []
    for _ in range(3):
        try:
            breaker.call(interrupted)
        except BaseException as error:  # noqa: BLE001 - what arrives is the question
            arrived.append(type(error).__name__)
    admitted = []
    with suppress(Exception):
        breaker.call(lambda: admitted.append(True))
    replaced = [name for name in arrived if name != "KeyboardInterrupt"]
    if replaced:
        return f"opened the circuit; the third arrived as {replaced[0]}", judge(False)
    if not admitted:
        return "opened the circuit", judge(False)

    breaker = make(3, LONG)
    trip_sync(breaker, 2)
    with suppress(KeyboardInterrupt):
        breaker.call(interrupted)
    trip_sync(breaker)
    admitted.clear()
    with suppress(Exception):
        breaker.call(lambda: admitted.append(True))
    if admitted:
        return "counted as a success: the failures before it are forgotten", judge(False)
    return "passed, not counted", judge(True)


if __name__ == "__main__":
    main(__doc__, sync_cases(scenario, "decorator"))
