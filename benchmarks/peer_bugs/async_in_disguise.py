"""Async in disguise: what is awaited is not always an `async def`.

As before, with a partial of an `async def`, an object with an `async __call__`, and a `def` that returns a
coroutine, such as a lambda around a client's method.
"""

from __future__ import annotations

from benchmarks.peer_bugs.async_unprotected import cases
from benchmarks.peer_bugs.tables import main

if __name__ == "__main__":
    main(__doc__, cases(("partial", "object", "def returning one")))
