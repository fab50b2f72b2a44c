"""One stretch of code with a deadline, and the interrupt that ends it; `interrupts` has the rules of both."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

from resilient.drivers import reach

if TYPE_CHECKING:
    from resilient.drivers.interrupts import Record

_let_others_run = time.sleep  # noqa: TID251 - for an instant of real time, whatever a fake clock says


class TimeoutInterrupt(BaseException):
    """Raised in a body whose time is up. The timeout that `block` belongs to replaces it by its public error.

    Not an `Exception`, so that a body's `except Exception` lets it through.
    """

    def __init__(self, block: Block | None = None) -> None:
        super().__init__("the time of an enclosing timeout is up")
        self.block = block


class Block:
    """One stretch of code on the current thread that is interrupted at its deadline.

    `open_block` is the last thing before a `try` (or in what a `with` statement calls), `exit` the first in its
    handlers. `expired` makes the public error; it is called at most once, and only where no handler would call `exit`:
    on the way into a `with` statement or out of it, `exit` included.

    Attributes:
        thrown: by the watchdog: the exception has been thrown.
        settled: by the owner: nothing is on its way any more, or ever will be.
        delivered: an interrupt was raised for this block.
        doomed: an interrupt was raised for an enclosing block: this one is about to be unwound.
    """

    __slots__ = (
        "deadline",
        "delivered",
        "doomed",
        "expired",
        "frame",
        "opened_at",
        "previous",
        "record",
        "settled",
        "thrown",
        "token",
    )

    # Without an __init__: up to Python 3.12 it would be a quarter of what a block costs.
    deadline: float
    delivered: bool
    doomed: bool
    expired: Callable[[], BaseException]
    frame: FrameType | None
    opened_at: int
    previous: Block | None
    record: Record
    settled: bool
    thrown: bool
    token: list[None]

    def exit(self, error: BaseException | None) -> bool:
        """Close the block, which ended with `error`; True if its time ran out and the timeout error must be raised.

        It may raise instead: the interrupt of an enclosing block that is due, or what `expired` made.
        """
        record = self.record
        blocks = record.blocks
        self.frame = None
        if record.due is self:
            record.due = self.previous
        if blocks and blocks[-1] is self:
            try:
                self.token.pop()
            except IndexError:
                pass
            else:
                blocks.pop()
                return False
        return self._exit_slowly(error)

    def claim(self) -> bool:
        """Make sure that no interrupt is on its way for this block; True if one was and has been taken back."""
        if self.settled:
            return False
        record = self.record
        try:
            self.token.pop()
        except IndexError:
            in_flight = record.flying is self
            if in_flight and not record.by_signal:
                while record.flying is self and not self.thrown:
                    _let_others_run(0)
                reach.retract(record.thread_id)
        else:
            in_flight = False
        self.settled = True
        return in_flight

    def _exit_slowly(self, error: BaseException | None) -> bool:
        record = self.record
        blocks = record.blocks
        if self not in blocks:
            return False
        taken_back = False
        while self in blocks:  # what lies above it is dead
            taken_back = blocks[-1].claim()
            blocks.pop()
        record.choose_due()
        if taken_back:
            enclosing = record.deliver(None, sys._getframe())
            if enclosing is not None:
                raise enclosing
            self.delivered = True
        return self.delivered and self._caused(error)

    def _caused(self, error: BaseException | None) -> bool:
        """Is `error` nothing but our own interrupt? Interrupts of blocks inside this one have nobody else to go to."""
        if error is None:
            return True
        if isinstance(error, BaseExceptionGroup):
            return all(self._caused(part) for part in error.exceptions)
        return isinstance(error, TimeoutInterrupt) and error.block not in self.record.blocks
