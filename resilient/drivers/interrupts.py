"""Interrupting synchronous code at a deadline.

`Block` is one stretch of code with a deadline; a thread's open blocks are nested. The watchdog sees that a block is due
and sends the thread an interrupt; the thread itself decides, when the interrupt arrives, which of its blocks that is
for: the outermost one whose time is up. There it becomes a `TimeoutInterrupt`, and at the end of the block an answer
of `Block.exit`.

What keeps interrupts from getting lost, doubled or out of their block:

* Each block has one token. Who takes it decides: the watchdog (an interrupt is then on its way) or the thread that owns
  the block (then none will ever come). Taking it is a single `list.pop`, which no other thread can come between.
* At most one interrupt is on its way to a thread. A block that ends while its interrupt is on its way waits until that
  has been sent for sure, and takes it back.
* Nothing here runs half: an interrupt is put off while the thread is inside this package (see `safe_points`). What can
  still break in is the application's own signal handlers, Ctrl-C above all. Statements are in an order that leaves at
  worst a *dead* block behind, open though its function has ended; it is dropped when its time comes.
"""

from __future__ import annotations

import sys
import threading
from _thread import get_ident
from collections.abc import Callable
from functools import cache
from math import inf
from types import FrameType
from typing import Final

from resilient.core.clock import CLOCK
from resilient.drivers import reach, safe_points
from resilient.drivers.interrupt_blocks import Block, TimeoutInterrupt
from resilient.drivers.reach import Reach
from resilient.drivers.safe_points import real_time
from resilient.drivers.watchdog import Watchdog

_RECHECK: Final = 0.0005
_SEND_AGAIN: Final = 0.01
_MOST_TRIES: Final = 200


class Record:
    """The open blocks of one thread. Only that thread writes to it, but for `flying` and `sent_at`."""

    __slots__ = ("__weakref__", "blocks", "by_signal", "due", "flying", "hesitation", "reach", "sent_at", "thread_id")

    def __init__(self) -> None:
        self.thread_id = get_ident()
        self.blocks: list[Block] = []
        self.due: Block | None = None
        self.flying: Block | None = None
        self.hesitation = safe_points.Hesitation()
        self.reach = Reach.UNKNOWN
        self.by_signal = False
        self.sent_at = 0.0

    def find_reach(self) -> Reach:
        found = reach.find_reach(_on_signal)
        by_signal = found is Reach.SIGNAL
        if self.blocks and by_signal is not self.by_signal:
            # The open blocks count on the way that was found when they were opened.
            return Reach.NONE
        if found is not Reach.NONE:
            reach.prepare(found)
            _begin_anew_after_fork()
            if not _WATCHDOG.watch(self):
                return Reach.NONE
        self.by_signal = by_signal
        self.reach = found
        return found

    # On the watchdog's thread.

    def next_due(self) -> float:
        block = self.due
        flying = self.flying
        if block is None or not block.token or (flying is not None and not flying.settled):
            return inf
        return block.deadline

    def serve(self, now: float) -> float:
        flying = self.flying
        if flying is not None:
            if not flying.settled:
                return self._send_again() if self.by_signal else inf
            self.flying = None
        block = self.due
        if block is None or block.deadline > now or not block.token:
            return inf
        if not self.by_signal:
            return self._fire_by_exception(block)
        return self._send() if self._take_token(block) else inf

    def _take_token(self, block: Block) -> bool:
        # First `flying`, then the token: who finds the token gone can rely on `flying`.
        self.flying = block
        try:
            block.token.pop()
        except IndexError:
            self.flying = None
            return False
        return True

    def _send(self) -> float:
        if not reach.is_installed(_on_signal):
            # The application has taken the signal for itself. The block still finds out at its end.
            self.reach = Reach.UNKNOWN
            return inf
        self.sent_at = real_time()
        reach.send_signal(self.thread_id)
        return _SEND_AGAIN

    def _send_again(self) -> float:
        """A signal that came just before a blocking call did not break it, and one that was put off must come back."""
        interval = _RECHECK if self.hesitation.refusals else _SEND_AGAIN
        if real_time() - self.sent_at < interval:
            return interval
        return min(interval, self._send())

    def _fire_by_exception(self, block: Block) -> float:
        frame = sys._current_frames().get(self.thread_id)
        spot = -1 if frame is None else frame.f_lasti
        if self.hesitation.put_off(frame, self.block_frames(), block, thrown=True):
            return _RECHECK
        if sys._current_frames().get(self.thread_id) is not frame or (frame is not None and frame.f_lasti != spot):
            return _RECHECK  # it ran on while we looked
        if not self._take_token(block):
            return inf
        reach.throw(self.thread_id, _Thrown)
        block.thrown = True
        return inf

    # On the thread itself.

    def block_frames(self) -> list[FrameType | None]:
        return [block.frame for block in self.blocks.copy()]

    def choose_due(self) -> None:
        """Find the block that is due first (of equal ones the outermost), after more than the innermost has changed."""
        self.due = None
        for block in self.blocks:
            block.previous = self.due
            if block.token and not block.doomed and (self.due is None or block.deadline < self.due.deadline):
                self.due = block
        _WATCHDOG.wake()

    def deliver(self, claimed: Block | None, frame: FrameType | None) -> BaseException | None:
        """Time is up for `claimed`, whose token is taken. What must be raised in `frame`, and for which block?"""
        if claimed is not None:
            claimed.settled = True
        self.hesitation.reset()
        now = CLOCK.now()
        for block in self.blocks.copy():
            if block is not claimed and (not block.token or block.doomed or block.deadline > now):
                continue
            fate = safe_points.fate(block.frame, block.opened_at, frame)
            if fate is safe_points.Fate.GONE and self.by_signal:
                block.claim()
                self.blocks.remove(block)
                continue
            return self._interrupt(block, fate)
        self.choose_due()
        return None

    def _interrupt(self, block: Block, fate: safe_points.Fate) -> BaseException:
        block.claim()
        block.delivered = True
        inside = self.blocks.index(block) + 1
        for inner in self.blocks[inside:]:
            inner.doomed = True
        if fate is not safe_points.Fate.CAUGHT:
            del self.blocks[inside - 1 :]
        self.choose_due()
        return TimeoutInterrupt(block) if fate is safe_points.Fate.CAUGHT else block.expired()

    def after_fork(self) -> None:
        """In the child, on the thread that forked: what was on its way to it may be lost, so begin again."""
        self.flying = None
        self.reach = Reach.UNKNOWN
        self.hesitation.reset()
        if not self.blocks:
            return
        if not self.by_signal:
            reach.retract(self.thread_id)
        for block in self.blocks:
            if not block.token and not block.settled:
                block.thrown = False
                block.token.append(None)
        _WATCHDOG.watch(self)


class _Here(threading.local):
    def __init__(self) -> None:
        self.record = Record()


# On Python 3.11 a member of an enumeration is looked up by a descriptor.
_UNKNOWN: Final = Reach.UNKNOWN
_EXCEPTION: Final = Reach.EXCEPTION
_SIGNAL: Final = Reach.SIGNAL

_here = _Here()
_WATCHDOG: Final = Watchdog()


def can_interrupt(always: bool) -> bool:
    """Can a block on the current thread be interrupted?

    The main thread by a signal, unless the application has a handler for it. With `always` Python code on any thread.
    """
    record = _here.record
    found = record.reach
    if found is _UNKNOWN:
        found = record.find_reach()
    return found is _SIGNAL or (always and found is _EXCEPTION)


def open_block(expired: Callable[[], BaseException], always: bool, deadline: float, frame: FrameType) -> Block | None:
    """Open a block until `deadline`, an instant of the clock; None where `can_interrupt` says no.

    `frame` holds the `with` or `try` statement.
    """
    record = _here.record
    found = record.reach
    if found is not _SIGNAL and not can_interrupt(always):
        return None
    block = Block()
    block.expired = expired
    block.token = [None]
    block.thrown = block.settled = block.delivered = block.doomed = False
    block.record = record
    block.deadline = deadline
    block.frame = frame
    block.opened_at = frame.f_lasti
    block.previous = due = record.due
    record.blocks.append(block)
    if due is None or deadline < due.deadline:
        record.due = block
    else:
        block.previous = None
    if deadline < _WATCHDOG.next_wake:
        _WATCHDOG.wake()
    return block


def fire_due() -> None:
    """Virtual time has moved, or the clock was swapped: interrupt what is due now.

    A block of the current thread that is due raises its interrupt from here.
    """
    _WATCHDOG.wake()
    record = _here.record
    due = record.due
    if due is None or due.deadline > CLOCK.now():
        return
    due.claim()
    error = record.deliver(due, sys._getframe())
    if error is not None:
        raise error


def _on_signal(_signal_number: int, frame: FrameType | None) -> None:
    record = _here.record
    flying = record.flying
    if flying is None or flying.settled or flying.token:
        return  # meant for a block that has ended, or sent by somebody else
    hesitation = record.hesitation
    if not hesitation.put_off(frame, record.block_frames(), flying):
        error = record.deliver(flying, frame)
        if error is not None:
            raise error
        return
    if hesitation.refusals == 1:
        _WATCHDOG.wake()  # to send more of them: one that comes in a blocking call has to break that
    if hesitation.refusals <= _MOST_TRIES:
        reach.send_to_self()


class _MadeOnArrival(type):
    """Asynchronous exceptions are thrown as a class, which Python calls on the thread that it is raised in."""

    def __call__(cls, *args: BaseException) -> BaseException:
        if args:
            return args[0]  # 3.11 asks again when the instance is not one of the class
        record = _here.record
        flying = record.flying
        error = None if flying is None else record.deliver(flying, sys._getframe(1))
        return TimeoutInterrupt() if error is None else error


class _Thrown(TimeoutInterrupt, metaclass=_MadeOnArrival):
    pass


@cache
def _begin_anew_after_fork() -> None:
    reach.call_after_fork(_after_fork)


def _after_fork() -> None:
    record = _here.record
    _WATCHDOG.forget_thread()
    _WATCHDOG.forget_all_but(record)
    record.after_fork()
