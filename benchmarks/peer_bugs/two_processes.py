"""Two processes, twice the rate: a limit that is kept in memory holds for one process.

Five calls a minute are allowed. Two processes make ten calls each. Five of the twenty should pass. Only what needs no
server is tried here, so limits with Redis is not. Counts as documented where sharing is not offered.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.peer_bugs.breakers import Seen
from benchmarks.peer_bugs.limiters import LIMITERS, Limiter
from benchmarks.peer_bugs.tables import Case, Verdict, judge, main

LIMIT = 5
CALLS = 10
MINUTE = 60


def in_memory(library: str, form: str, _: Path) -> Limiter:
    return LIMITERS[library, form](LIMIT, MINUTE)


def in_sqlite(file: Path) -> Limiter:
    from pyrate_limiter import Duration, Limiter, Rate, SQLiteBucket

    bucket = SQLiteBucket.init_from_file([Rate(LIMIT, Duration.MINUTE)], db_path=str(file), use_file_lock=False)
    limiter = Limiter(bucket)

    async def admit() -> bool:
        return bool(limiter.try_acquire("peer", blocking=False))

    return admit


def calls(make: Callable[[Path], Limiter], file: Path) -> int:
    async def count() -> int:
        admit = make(file)
        return sum([await admit() for _ in range(CALLS)])

    return asyncio.run(count())


def scenario(make: Callable[[Path], Limiter]) -> Seen:
    with tempfile.TemporaryDirectory() as folder:
        # One after the other, well within the minute: which of them comes first is no part of the question.
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as processes:
            passed = sum(processes.apply(calls, (make, Path(folder) / "rates.sqlite")) for _ in range(2))
    return f"{passed} of {2 * CALLS} passed, where {LIMIT} are allowed", judge(passed == LIMIT)


def known(make: Callable[[Path], Limiter]) -> Seen:
    happened, verdict = scenario(make)
    return happened, Verdict.DOCUMENTED if verdict is Verdict.WRONG else verdict


IN_MEMORY = [where for where in LIMITERS if where[0] not in ("limits", "pyrate-limiter")]
CASES: list[Case] = [
    *(
        (library, f"{form}, in memory", partial(known, partial(in_memory, library, form)))
        for library, form in IN_MEMORY
    ),
    ("pyrate-limiter", "SQLite", partial(scenario, in_sqlite)),
]

if __name__ == "__main__":
    main(__doc__, CASES)
