"""What is compared with what, and which ratio is the goal."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Literal

from benchmarks.peers.measuring import Timer
from benchmarks.timing import time_awaited, time_sync, work, work_async

Call = Callable[[], Any]
Kind = Literal["sync", "async", "tasks", "threads", "timers", "numbers"]
Unit = Literal["second", "byte"]

OURS = "resilient"
BARE = "bare"
BY_HAND = "by hand"
BY_HAND_AT_MOST = 1.6
TASKS = 1_000
THREADS = 4


@dataclass(frozen=True)
class Goal:
    """`ours` against the faster of `against`, by ratio or by difference; without `against`, by itself.

    Without `at_most` it is shown and no goal.
    """

    against: tuple[str, ...] = ()
    at_most: float | Mapping[str, float] | None = None
    ours: str = OURS
    by: Literal["ratio", "difference", "itself"] = "ratio"

    def limit(self, python: str) -> float | None:
        """`python` as in "3.11"; versions that have no limit of their own have that of the newest."""
        if isinstance(self.at_most, Mapping):
            return self.at_most.get(python, list(self.at_most.values())[-1])
        return self.at_most


@dataclass(frozen=True)
class Case:
    """One piece of work, done by several candidates.

    A candidate is made by a function without arguments, once a process; for async ones inside of the event loop, and it
    may be async itself. It gives what is called; with kind "timers" what measures itself; with kind "numbers" what
    gives one number a call.
    The bare call is added where there is one.
    """

    name: str
    title: str
    kind: Kind
    candidates: Mapping[str, Callable[[], Any]]
    goals: tuple[Goal, ...] = ()
    bare: Callable[[], Any] | None = None
    unit: Unit = "second"
    rounds: int | None = None
    slice_seconds: float | None = None
    fixed_loops: int | None = None
    last: bool = field(default=False, kw_only=True)
    """Run after the others: it changes what they measure."""
    shown: bool = field(default=False, kw_only=True)
    """Has a place in the picture."""

    def all_goals(self) -> tuple[Goal, ...]:
        if BY_HAND in self.candidates:
            return (*self.goals, Goal((BY_HAND,), BY_HAND_AT_MOST))
        return self.goals

    def bare_call(self) -> Callable[[], Any] | None:
        usual: dict[Kind, Callable[[], Any]] = {
            "sync": lambda: work,
            "async": lambda: work_async,
            "tasks": lambda: work_async_suspended,
            "threads": lambda: work,
        }
        return self.bare or usual.get(self.kind)


async def work_async_suspended() -> int:
    """Lets all other tasks run once."""
    await asyncio.sleep(0)
    return 1


class Bench:
    """Makes the timers of a case; async ones share one event loop."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self._runner = asyncio.Runner() if case.kind in ("async", "tasks", "timers") else None

    def __enter__(self) -> dict[str, Timer]:
        made = {name: self._make(make) for name, make in self.case.candidates.items()}
        bare = self.case.bare_call()
        if bare is not None:
            made[BARE] = self._make(bare)
        return {name: self._timer(call) for name, call in made.items()}

    def __exit__(self, *_: object) -> None:
        if self._runner is not None:
            self._runner.close()

    def _make(self, make: Callable[[], Any]) -> Any:
        if self._runner is None or self.case.kind == "timers":
            return make()

        async def in_loop() -> Any:
            call = make()
            return await call if inspect.iscoroutine(call) else call

        return self._runner.run(in_loop())

    def _timer(self, call: Any) -> Timer:
        runner = self._runner
        if self.case.kind == "async":
            assert runner is not None
            return lambda loops: runner.run(time_awaited(loops, call))
        if self.case.kind == "tasks":
            assert runner is not None
            return lambda loops: runner.run(time_tasks(loops, call))
        if self.case.kind == "threads":
            return lambda loops: time_threads(loops, call)
        if self.case.kind == "sync":
            return lambda loops: time_sync(loops, call)
        timer: Timer = call
        return timer


async def time_tasks(loops: int, call: Callable[[], Awaitable[object]]) -> float:
    """Seconds for so many calls by 1,000 tasks at once, one call a task; calls are rounded to thousands."""
    create = asyncio.get_running_loop().create_task
    times = max(1, round(loops / TASKS))
    total = 0.0
    for _ in range(times):
        started = perf_counter()
        tasks = [create(one(call)) for _ in range(TASKS)]
        for task in tasks:
            await task
        total += perf_counter() - started
    return total * loops / (times * TASKS)


async def one(call: Callable[[], Awaitable[object]]) -> object:
    return await call()


def time_threads(loops: int, call: Call) -> float:
    """Seconds from the first to the last of so many calls by 4 threads together."""
    start = threading.Barrier(THREADS + 1)
    share = max(1, loops // THREADS)
    ended: list[float] = []

    def run() -> None:
        start.wait()
        for _ in range(share):
            call()
        ended.append(perf_counter())

    threads = [threading.Thread(target=run) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    start.wait()
    started = perf_counter()
    for thread in threads:
        thread.join()
    return (max(ended) - started) * loops / (share * THREADS)
