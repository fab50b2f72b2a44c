"""Blocks that end at about their deadline, by the hundred thousand: none is lost, none leaks, nothing stays armed.

`RESILIENT_TORTURE=full` runs all of them; without it a few thousand show that the test itself works.
"""

from __future__ import annotations

import io
import logging
import os
import queue
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import pytest

from resilient.core.clock import CLOCK
from resilient.drivers import interrupts
from resilient.drivers.interrupts import Block, TimeoutInterrupt, open_block
from tests.drivers.interrupt_kit import Limit, TimesUp

pytestmark = [pytest.mark.torture, pytest.mark.realtime]

FULL = os.environ.get("RESILIENT_TORTURE") == "full"
BLOCKS = 100_000 if FULL else 2_000
INTERRUPTIONS = 2_000 if FULL else 60


@pytest.fixture(autouse=True)
def quick_switches() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(2e-5)
    yield
    sys.setswitchinterval(interval)


class BareLimit(Limit):
    """A timeout whose own functions are not left alone, as they would be in the package: every edge gets hit."""

    def __enter__(self) -> BareLimit:
        self.opened = open_block(self.expired, self.always, CLOCK.now() + self.seconds, sys._getframe(1))
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self.block.exit(error):
            raise TimesUp(self.block) from None


class Racer:
    """Runs blocks on one thread, of which about half end by themselves and half by an interrupt."""

    def __init__(self, limit: type[Limit], seed: int, always: bool) -> None:
        self.limit = limit
        self.random = random.Random(seed)
        self.always = always
        self.seen: Counter[str] = Counter()
        self.rounds = 500.0

    def run(self, blocks: int, race: Callable[[Racer, int, int], Block]) -> Counter[str]:
        for number in range(blocks):
            try:
                self.one(race, number, int(self.rounds * self.random.uniform(0.8, 1.2)))
                step()
            except TimeoutInterrupt:
                self.seen["leaked"] += 1
            except TimesUp:
                self.seen["late"] += 1
            record = interrupts._here.record
            flying = record.flying
            if record.blocks or record.due or (flying is not None and not flying.settled):
                self.seen["leftover"] += 1
        return self.seen

    def one(self, race: Callable[[Racer, int, int], Block], number: int, rounds: int) -> None:
        try:
            block = race(self, number, rounds)
        except TimesUp:
            self.seen["timed out"] += 1
            self.rounds *= 0.997
        else:
            if block.delivered:
                self.seen["lost"] += 1
            self.seen["in time"] += 1
            self.rounds *= 1.003
        step()

    def a_little_while(self) -> float:
        return self.random.uniform(20e-6, 60e-6)


def step() -> None:
    for _ in range(30):
        nothing()


def nothing() -> None:
    pass


def spin(rounds: int) -> None:
    for _ in range(rounds):
        nothing()


def single(racer: Racer, number: int, rounds: int) -> Block:
    limit = racer.limit(racer.a_little_while(), racer.always)
    match number % 3:
        case 0:
            with limit:
                spin(rounds)
        case 1:
            done = 0
            with limit:
                while done < rounds:
                    done += 1
                    nothing()
        case _:
            with limit:
                for _ in range(rounds):
                    nothing()
    return limit.block


def nested(racer: Racer, number: int, rounds: int) -> Block:
    span = racer.a_little_while()
    difference = (racer.random.uniform(-20e-6, 20e-6), racer.random.uniform(-span, 300e-6), 0.0)[number % 3]
    outer = racer.limit(span + racer.random.choice((0.0, 200e-6)), racer.always)
    inner = racer.limit(max(1e-6, span + difference), racer.always)
    with outer:
        try:
            with inner:
                spin(rounds)
            if inner.block.delivered:
                racer.seen["lost"] += 1
        except TimesUp as error:
            if error.block is not inner.block and not error.at_edge:
                racer.seen["mixed up"] += 1
            if rounds % 2:
                raise
            spin(rounds // 4)
    return outer.block


def check(seen: Counter[str]) -> None:
    print(f"\n{sys.version.split()[0]}: {dict(seen)}")  # noqa: T201 - the figures are what a full run is for
    assert min(seen["timed out"], seen["in time"]) > (BLOCKS / 100 if FULL else 0)
    assert set(seen) == {"timed out", "in time"}


LIMITS = pytest.mark.parametrize("limit", [Limit, BareLimit])
RACES = pytest.mark.parametrize("race", [single, nested])


@LIMITS
@RACES
def test_blocks_on_the_main_thread(limit: type[Limit], race: Callable[[Racer, int, int], Block]) -> None:
    check(Racer(limit, seed=1, always=False).run(BLOCKS, race))


@LIMITS
@RACES
def test_blocks_on_eight_threads(limit: type[Limit], race: Callable[[Racer, int, int], Block]) -> None:
    racers = [Racer(limit, seed, always=True) for seed in range(8)]
    threads = [threading.Thread(target=racer.run, args=(BLOCKS // 8, race)) for racer in racers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check(sum((racer.seen for racer in racers), Counter()))


def test_blocks_on_the_main_thread_and_on_others_at_once() -> None:
    racers = [Racer(Limit, seed, always=True) for seed in range(4)]
    threads = [threading.Thread(target=racer.run, args=(BLOCKS // 8, nested)) for racer in racers]
    for thread in threads:
        thread.start()
    seen = Racer(Limit, seed=9, always=False).run(BLOCKS // 2, nested)
    for thread in threads:
        thread.join()
    check(sum((racer.seen for racer in racers), seen))


class Hazard:
    """Code of the standard library that holds a lock for an instant, again and again."""

    def use(self) -> None:
        raise NotImplementedError

    def broken(self) -> bool:
        raise NotImplementedError


class Queues(Hazard):
    def __init__(self) -> None:
        self.queue: queue.Queue[int] = queue.Queue()

    def use(self) -> None:
        self.queue.put(1)
        self.queue.get()

    def broken(self) -> bool:
        return self.queue.mutex.locked()


class Conditions(Hazard):
    def __init__(self) -> None:
        self.condition = threading.Condition()

    def use(self) -> None:
        with self.condition:
            self.condition.notify()

    def broken(self) -> bool:
        owned: Any = self.condition
        return bool(owned._is_owned())


class Loggers(Hazard):
    def __init__(self) -> None:
        self.stream = io.StringIO()
        self.handler = logging.StreamHandler(self.stream)
        self.logger = logging.Logger("torture")  # noqa: LOG001 - one that no handler of pytest is behind
        self.logger.addHandler(self.handler)

    def use(self) -> None:
        self.logger.warning("%s", 1)
        self.stream.seek(0)

    def broken(self) -> bool:
        free: list[bool] = []

        def try_it() -> None:
            assert self.handler.lock is not None
            free.append(self.handler.lock.acquire(timeout=1.0))
            if free[0]:
                self.handler.lock.release()

        thread = threading.Thread(target=try_it)
        thread.start()
        thread.join()
        return not free[0]


@pytest.mark.parametrize("kind", [Queues, Conditions, Loggers])
def test_no_lock_of_the_standard_library_stays_held_on_the_main_thread(kind: type[Hazard]) -> None:
    seen = interrupt_in(kind, always=False)
    assert seen["interrupted"] > INTERRUPTIONS / 2
    assert seen["broken"] == 0


@pytest.mark.parametrize("kind", [Queues, Conditions, Loggers])
def test_on_other_threads_that_is_rare(kind: type[Hazard]) -> None:
    seen: Counter[str] = Counter()
    thread = threading.Thread(target=lambda: seen.update(interrupt_in(kind, always=True)))
    thread.start()
    thread.join()
    assert seen["interrupted"] > INTERRUPTIONS / 10
    assert seen["broken"] <= INTERRUPTIONS / 100


def rounds_until(instant: float) -> Iterator[None]:
    while time.monotonic() < instant:
        yield


def interrupt_in(kind: type[Hazard], always: bool) -> Counter[str]:
    seen: Counter[str] = Counter()
    varied = random.Random(1)
    hazard = kind()
    for _ in range(INTERRUPTIONS):
        until = time.monotonic() + 0.02
        try:
            with Limit(varied.uniform(50e-6, 300e-6), always):
                # Not a `while` loop: 3.13.0 would skip every handler of this very function (gh-130279).
                for _ in rounds_until(until):
                    hazard.use()
        except TimesUp:
            seen["interrupted"] += 1
        if hazard.broken():
            seen["broken"] += 1
            hazard = kind()
    print(f"\n{sys.version.split()[0]}: {kind.__name__} {dict(seen)}")  # noqa: T201 - as above
    return seen
