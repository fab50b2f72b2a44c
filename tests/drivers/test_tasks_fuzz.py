"""Random programs with timeouts do on asyncio what they do with this Python's `asyncio.timeout`."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from types import TracebackType
from typing import Any

import pytest

from resilient.core.clock import CLOCK, Timer
from resilient.drivers.tasks import TaskTimeouts
from tests.drivers.vloop import run

PROGRAMS = int(os.environ.get("RESILIENT_FUZZ_PROGRAMS", "2000"))

Program = list[tuple[Any, ...]]
Guard = Callable[[float], AbstractAsyncContextManager[object]]
Log = list[object]


class Guarded:
    def __init__(self, timeouts: TaskTimeouts, seconds: float | None = None) -> None:
        self._block = timeouts.block()
        self._seconds = seconds

    async def __aenter__(self) -> None:
        self._block.enter(self._seconds)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._block.exit(error):
            raise TimeoutError from error


def random_program(rng: random.Random, draw: Callable[[], float], *, groups: bool, depth: int = 0) -> Program:
    def inner() -> Program:
        return random_program(rng, draw, groups=groups, depth=depth + 1)

    program: Program = []
    for _ in range(rng.randint(1, 3)):
        if depth > 4:
            program.append(("sleep", draw()))
            continue
        kind = rng.choices(
            ["sleep", "yield", "timeout", "catch", "swallow", "finally", "raise", "child", "stubborn", "group"],
            [30, 5, 30, 8, 7, 9, 4, 4, 4, 4 if groups else 0],
        )[0]
        if kind in ("sleep", "stubborn"):
            program.append((kind, draw()))
        elif kind == "yield":
            program.append((kind,))
        elif kind == "raise":
            program.append((kind, rng.choice([ValueError, TimeoutError, asyncio.CancelledError])))
        elif kind in ("timeout", "finally"):
            program.append((kind, draw(), inner()))
        elif kind == "group":
            program.append((kind, inner(), inner()))
        else:
            program.append((kind, inner()))
    return program


class Execution:
    """One run of a program: the log holds what happened when, and the task's count after every block."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self.log: Log = []

    def note(self, what: str) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.log.append((what, round(asyncio.get_running_loop().time(), 6), task.cancelling()))

    async def perform(self, program: Program) -> None:
        for step in program:
            await getattr(self, f"do_{step[0]}")(*step[1:])

    async def do_sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self.note("slept")

    async def do_yield(self) -> None:
        await asyncio.sleep(0)

    async def do_timeout(self, seconds: float, body: Program) -> None:
        try:
            async with self.guard(seconds):
                await self.perform(body)
        except BaseException as error:
            self.note(f"left with {type(error).__name__} from {type(error.__cause__).__name__}")
            raise
        self.note("left")

    async def do_catch(self, body: Program) -> None:
        try:
            await self.perform(body)
        except Exception as error:
            self.note(f"caught {type(error).__name__}")

    async def do_swallow(self, body: Program) -> None:
        try:
            await self.perform(body)
        except asyncio.CancelledError:
            self.note("swallowed")

    async def do_finally(self, seconds: float, body: Program) -> None:
        try:
            await self.perform(body)
        finally:
            await asyncio.sleep(seconds)
            self.note("cleaned up")

    async def do_raise(self, kind: type[BaseException]) -> None:
        raise kind

    async def do_child(self, body: Program) -> None:
        await asyncio.ensure_future(self.perform(body))

    async def do_group(self, child: Program, body: Program) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.perform(child))
            await self.perform(body)

    async def do_stubborn(self, seconds: float) -> None:
        """Waits for a task that ignores its cancellation, so that a result arrives after the timeout struck."""

        async def ignore() -> None:
            try:
                await asyncio.sleep(seconds)
            except asyncio.CancelledError:
                self.note("ignored")

        await asyncio.ensure_future(ignore())


async def execute(guard: Guard, program: Program, cancellations: list[float]) -> Log:
    execution = Execution(guard)
    loop = asyncio.get_running_loop()

    async def whole() -> None:
        try:
            await execution.perform(program)
            execution.note("done")
        finally:
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                execution.note("a cancellation was left over")
                raise

    task = asyncio.ensure_future(whole())
    for when in cancellations:
        loop.call_at(when, task.cancel)
    (outcome,) = await asyncio.gather(task, return_exceptions=True)
    execution.log.append((type(outcome).__name__, round(loop.time(), 6), task.cancelling()))
    return execution.log


def generate(seed: int, *, ties: bool) -> tuple[Program, list[float]]:
    rng = random.Random(seed)
    # Quarters are exact in binary, so many things happen at one instant. Not in two tasks, though: loops run timers of
    # one instant in any order.
    draw = (lambda: rng.randint(0, 16) / 4) if ties else (lambda: rng.uniform(0.01, 10.0))
    program = random_program(rng, draw, groups=not ties)
    end = 8 if ties else 20
    cancellations = [
        rng.randint(0, 4 * end) / 4 if ties else rng.uniform(0, end) for _ in range(rng.choice([0, 0, 1, 1, 2]))
    ]
    return program, cancellations


def assert_same(guard: Guard, *, ties: bool, programs: int = PROGRAMS, first: int = 0) -> None:
    for seed in range(first, first + programs):
        program, cancellations = generate(seed, ties=ties)
        expected = run(execute(asyncio.timeout, program, cancellations))
        actual = run(execute(guard, program, cancellations))
        assert actual == expected, f"seed {seed}, ties {ties}: {program!r}, cancelled at {cancellations!r}"


def shared_timeouts() -> Guard:
    """One `TaskTimeouts` a duration, for every program and loop."""
    pool: dict[float, TaskTimeouts] = {}

    def guard(seconds: float) -> Guarded:
        if seconds <= 0.0:  # no policy has such a duration, but an enclosing deadline may leave no more
            return Guarded(pool.setdefault(1.0, TaskTimeouts(1.0)), seconds)
        return Guarded(pool.setdefault(seconds, TaskTimeouts(seconds)))

    return guard


@pytest.mark.parametrize("ties", [False, True])
def test_random_programs_do_what_they_do_with_asyncio_timeout(ties: bool) -> None:
    assert_same(shared_timeouts(), ties=ties, programs=PROGRAMS // 2)


@pytest.mark.parametrize("ties", [False, True])
def test_so_they_do_when_every_entry_has_a_time_of_its_own(ties: bool) -> None:
    timeouts = TaskTimeouts(1e6)
    assert_same(lambda seconds: Guarded(timeouts, seconds), ties=ties, programs=PROGRAMS // 4, first=10**6)


class LoopTime:
    """Virtual time that a loop moves: timeouts take the path of virtual time, at the instants of `asyncio.timeout`."""

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def call_at(self, when: float, fire: Callable[[], object]) -> Timer:
        return asyncio.get_running_loop().call_at(when, fire)

    def wait(self, seconds: float) -> None:
        raise AssertionError("these programs do not wait through the clock")


@contextmanager
def time_moved_by_the_loop() -> Iterator[None]:
    time = LoopTime()
    CLOCK.use_virtual_time(time.now, time)
    try:
        yield
    finally:
        CLOCK.use_real_time()


def test_so_they_do_under_virtual_time() -> None:
    timeouts = TaskTimeouts(1e6)
    with time_moved_by_the_loop():
        # Without ties: the message from virtual time takes one more turn of the loop than a timer of its own.
        assert_same(lambda seconds: Guarded(timeouts, seconds), ties=False, programs=PROGRAMS // 4, first=2 * 10**6)
