"""What a lane of the endurance run is: guarded calls that know exactly what their policies have to count."""

from __future__ import annotations

import asyncio
from typing import Any

from resilient import Registry


class Visit:
    """One call: of ten, one fails at each attempt and one at its first."""

    __slots__ = ("attempts", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.attempts = 0

    def made(self) -> int:
        self.attempts += 1
        if self.number % 10 == 0 or (self.number % 10 == 5 and self.attempts == 1):
            raise ConnectionError
        return self.number


def visit(one: Visit) -> int:
    return one.made()


async def visit_async(one: Visit) -> int:
    return one.made()


async def visit_and_wait(one: Visit) -> int:
    await asyncio.sleep(0)
    return one.made()


class Lane:
    """Makes guarded calls, a multiple of ten at a time: those of `go` come from no event loop, those of `go_async` do.

    A lane that has both makes half of its calls in each. `expected` is what they all add up to.
    """

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.calls = 0
        self.prepare()

    def prepare(self) -> None:
        raise NotImplementedError

    def run(self, calls: int, loop: asyncio.Runner) -> None:
        kinds = [kind for kind in ("go", "go_async") if getattr(type(self), kind) is not getattr(Lane, kind)]
        if "go" in kinds:
            self.go(calls // len(kinds))
        if "go_async" in kinds:
            loop.run(self.go_async(calls // len(kinds)))
        self.calls += calls

    def go(self, calls: int) -> None: ...

    async def go_async(self, calls: int) -> None: ...

    def expected(self) -> dict[str, int]:
        """Counters of the snapshot by path, and events as `events/<kind>`; one that lanes share is their sum."""
        raise NotImplementedError


def count(snapshot: Any, path: str) -> int:
    """The value at this path of a snapshot; a transition that never was is 0."""
    *parents, last = path.split("/")
    for parent in parents:
        snapshot = snapshot[parent]
    return int(snapshot.get(last, 0))
