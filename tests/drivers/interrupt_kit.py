"""A timeout made of nothing but a block, as the tests of interrupts need it: function and `with` statement."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType, TracebackType
from typing import Any, TypeVar

import pytest

import resilient.drivers
from resilient.core.clock import CLOCK, Timer
from resilient.drivers import interrupts
from resilient.drivers.interrupts import Block, open_block

SHORT = 0.02
LONG = 5.0
SLACK = 2.5

Result = TypeVar("Result")
Function = TypeVar("Function", bound=Callable[..., object])

SHELL_FILE = os.path.join(os.path.dirname(os.path.dirname(resilient.drivers.__file__)), "policies", "made_up.py")


class TimesUp(Exception):
    def __init__(self, block: Block | None, at_edge: bool = False) -> None:
        super().__init__("at the edge" if at_edge else "")
        self.block = block
        self.at_edge = at_edge


def in_package(function: Function) -> Function:
    """Make a function look as if it stood in the package, where no interrupt may be raised."""
    assert isinstance(function, FunctionType)
    function.__code__ = function.__code__.replace(co_filename=SHELL_FILE)
    return function


@in_package
def guarded(seconds: float, body: Callable[[], Result], always: bool = False) -> Result:
    """The shell of a timeout around a function."""
    block = open_block(lambda: TimesUp(None, at_edge=True), always, CLOCK.now() + seconds, sys._getframe())
    try:
        result = body()
    except BaseException as error:
        assert block is not None
        if block.exit(error):
            raise TimesUp(block) from None
        raise
    else:
        assert block is not None
        if block.exit(None):
            raise TimesUp(block)
        return result


class Limit:
    """The same as a block of code: `with Limit(0.02):`."""

    def __init__(self, seconds: float, always: bool = False) -> None:
        self.seconds = seconds
        self.always = always
        self.opened: Block | None = None
        self.edges = 0

    def expired(self) -> TimesUp:
        self.edges += 1
        return TimesUp(self.opened, at_edge=True)

    @property
    def block(self) -> Block:
        assert self.opened is not None
        return self.opened

    @in_package
    def __enter__(self) -> Limit:
        self.opened = open_block(self.expired, self.always, CLOCK.now() + self.seconds, sys._getframe(1))
        return self

    @in_package
    def __exit__(self, kind: object, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self.block.exit(error):
            raise TimesUp(self.block) from None


class HandMovedTime:
    """Virtual time that moves when the test says so."""

    def __init__(self) -> None:
        self.instant = 1000.0

    def now(self) -> float:
        return self.instant

    def call_at(self, when: float, fire: Callable[[], object]) -> Timer:
        raise NotImplementedError

    def wait(self, seconds: float) -> None:
        raise NotImplementedError


@contextmanager
def hand_moved_time() -> Iterator[HandMovedTime]:
    time = HandMovedTime()
    CLOCK.use_virtual_time(time.now, time)
    try:
        yield time
    finally:
        CLOCK.use_real_time()


def on_another_thread(body: Callable[[], Result]) -> Result:
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((body(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    result, error = outcome[0]
    if error is not None:
        raise error
    return result  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """In every module that imports it: no test leaves a block open or an interrupt on its way."""
    yield
    record = interrupts._here.record
    assert record.blocks == []
    assert record.due is None
    assert record.flying is None or record.flying.settled


def loop_forever() -> None:
    while True:
        pass


def call_forever() -> None:
    while True:
        len(())


def pretend_that_an_interrupt_is_on_its_way(block: Block) -> None:
    assert interrupts._here.record._take_token(block)
