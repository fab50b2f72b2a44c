"""Burst beyond the limit: idle time saved up twice.

Five calls a second are allowed. Nobody calls for a while, then a hundred come at once. No more may pass than five, and
what has been added while they came.
"""

from __future__ import annotations

import asyncio
import math
import time
from functools import partial

from benchmarks.peer_bugs.breakers import Seen
from benchmarks.peer_bugs.limiters import LIMITERS, Maker
from benchmarks.peer_bugs.tables import Case, judge, main, on_a_loop

LIMIT = 5
CALLS = 100


async def scenario(make: Maker) -> Seen:
    admit = make(LIMIT, 1)
    await asyncio.sleep(1.2)
    began = time.monotonic()
    admitted = sum([await admit() for _ in range(CALLS)])
    fair = LIMIT + math.ceil((time.monotonic() - began) * LIMIT)
    if admitted > fair:
        return f"{admitted} of {CALLS} at once, where {LIMIT} are allowed", judge(False)
    return f"as many as allowed of {CALLS} at once", judge(admitted >= LIMIT)


CASES: list[Case] = [(library, form, partial(on_a_loop, scenario, make)) for (library, form), make in LIMITERS.items()]

if __name__ == "__main__":
    main(__doc__, CASES)
