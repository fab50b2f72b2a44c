"""Where in a thread's code an interrupt may be raised, and what would become of it there.

An exception out of nowhere is safe in most code and ruinous in some: between the two bytecodes that take a lock and
enter the `try` that gives it back, the lock stays held for ever. So an interrupt waits while the thread is inside

* this package: permits, states and blocks are moved in a few bytecodes that must run as one;
* the parts of the standard library that lock for an instant (`threading`, `queue`, `logging` and the like), and
  OpenTelemetry;
* a `__del__`, where Python prints an exception and drops it;
* a loop's back edge at which this version of Python would look past the handlers around it (gh-130279 in 3.13).
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from enum import Enum, auto
from functools import cache
from opcode import hasjrel, opmap
from types import CodeType, FrameType
from typing import Final

INTERRUPTIBLE: Final[set[CodeType]] = set()
"""Functions of this package that may be interrupted at any of their bytecodes: those that wait for a policy, and those
that do nothing but call the user's function (which may be written in C and have no frame of its own). They must hold
nothing that is not given back by a `finally` further out."""

GENERATED: Final = "<resilient: "
"""How the names of files begin that there are not: of functions that this package makes at run time."""

GRACE: Final = 0.05
"""Seconds, by the real clock, for which an interrupt waits for a safe point."""

_LONGEST_GAP: Final = 0.005


def real_time(_monotonic: Callable[[], float] = time.monotonic) -> float:  # noqa: TID251 - see below
    """Paces threads and signals: neither a fake clock nor a tool that replaces module globals can freeze it."""
    return _monotonic()


_DEPTH: Final = 6
_THREAD_BOTTOMS: Final = frozenset({"_bootstrap", "_bootstrap_inner", "_worker", "run"})
_BRIEFLY_LOCKING: Final = (
    "_weakrefset.py",
    "concurrent/futures/_base.py",
    "concurrent/futures/process.py",
    "concurrent/futures/thread.py",
    "contextlib.py",
    "importlib/__init__.py",
    "logging/__init__.py",
    "logging/config.py",
    "logging/handlers.py",
    "queue.py",
    "threading.py",
    "weakref.py",
)
# The tracer of coverage.py holds a lock while it notes a new file: interrupted there, it would hold it for ever.
_TRACER: Final = f"{os.sep}coverage{os.sep}collector.py"
# Spans lock at every touch, and a span whose lock is never given back can't be ended. What stands below instrumentation
# is the user's own call.
_TRACING: Final = f"{os.sep}opentelemetry{os.sep}"
_INSTRUMENTATION: Final = f"{_TRACING}instrumentation{os.sep}"
_IMPORT_SYSTEM: Final = ("<frozen importlib._bootstrap>", "<frozen importlib._bootstrap_external>")

# The instruction of a `with` or `try` that follows the call which opened a block starts at most this far on.
_ENTRY_SPAN: Final = 16
_BACK_JUMPS: Final = frozenset(op for name, op in opmap.items() if "BACKWARD" in name and "NO_INTERRUPT" not in name)
_EXTENDED_ARG: Final = opmap["EXTENDED_ARG"]
_LOOKS_BEFORE_TARGET: Final = sys.version_info < (3, 13)

# From 3.13 on, a thread that was waiting to go on when an exception was thrown into it does not raise it on the spot,
# but at the next instruction that looks: a call, a loop's back edge, or the first of a function.
_RAISES_LATER: Final = sys.version_info >= (3, 13)
_CALLS: Final = frozenset(opmap[name] for name in ("CALL", "CALL_KW", "CALL_FUNCTION_EX") if name in opmap)
_RETURNS: Final = frozenset(opmap[name] for name in ("RETURN_VALUE", "RETURN_CONST") if name in opmap)
_LEAVES: Final = frozenset(hasjrel).union(
    op for name, op in opmap.items() if name.startswith(("RETURN", "YIELD", "RAISE", "RERAISE", "WITH_EXCEPT_START"))
) - {opmap["FOR_ITER"]}
_LOAD_CONST: Final = opmap["LOAD_CONST"]


class _Hold(Enum):
    GO = auto()
    LIBRARY = auto()
    """Code of a library that locks for an instant."""
    OURS = auto()
    """Code that must not be interrupted at all."""
    ASTRAY = auto()
    """The exception would not go where the source code shows."""


class Fate(Enum):
    """What becomes of an exception raised at some instant, as seen from a block."""

    CAUGHT = auto()
    """The block's `exit` will get it."""
    EDGE = auto()
    """The block is open, but nothing stands between the exception and the block's surroundings."""
    GONE = auto()
    """The block's function has ended without closing it."""


class _Patience:
    """Runs out after `GRACE` seconds of asking. Real time, of which long gaps count little: nothing ran in them."""

    __slots__ = ("_asked_at", "_left")

    def __init__(self) -> None:
        self._left = GRACE
        self._asked_at: float | None = None

    def runs_out(self) -> bool:
        now = real_time()
        if self._asked_at is not None:
            self._left -= min(now - self._asked_at, _LONGEST_GAP)
        self._asked_at = now
        return self._left <= 0.0


class Hesitation:
    """How long one thread's interrupt has been waiting for a safe point.

    It counts from the first refusal on and not from the deadline: an interrupt that comes late must be no ruder for it.
    """

    __slots__ = ("_at_spot", "_block", "_in_all", "_spot", "refusals")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._block: object = None
        self._spot: tuple[int, int] | None = None
        self._at_spot = _Patience()
        self._in_all = _Patience()
        self.refusals = 0

    def put_off(
        self, frame: FrameType | None, block_frames: Collection[FrameType | None], block: object, thrown: bool = False
    ) -> bool:
        """Should the interrupt for `block` wait a little longer? `frame` is the innermost one of the thread.

        `thrown`: it is not to be raised right here, but thrown into the thread by another.
        """
        hold = _hold(frame, block_frames)
        if thrown and _RAISES_LATER and frame is not None and hold is _Hold.GO and not _stays_here(frame):
            hold = _Hold.ASTRAY
        if frame is None or hold is _Hold.GO:
            return False
        if block is not self._block:
            self.reset()
            self._block = block
        spot = (id(frame), frame.f_lasti)
        moved = spot != self._spot
        if moved:
            self._spot = spot
            self._at_spot = _Patience()
        if self._is_out_of_patience(hold, moved, thrown):
            return False
        self.refusals += 1
        return True

    def _is_out_of_patience(self, hold: _Hold, moved: bool, thrown: bool) -> bool:
        if hold is _Hold.OURS:
            # Only a blocking call stays at one spot. A signal breaks it, a thrown exception does not.
            return not thrown and self._at_spot.runs_out()
        if hold is _Hold.LIBRARY and thrown and not moved:
            return False
        return self._in_all.runs_out()


# From code objects and not from `__file__`: the two differ in frozen applications.
_PACKAGE: Final = (os.path.dirname(os.path.dirname(Hesitation.put_off.__code__.co_filename)) + os.sep, GENERATED)
_LIBRARY: Final = os.path.dirname(threading.Thread.run.__code__.co_filename) + os.sep
_SITE_PACKAGES: Final = _LIBRARY + "site-packages" + os.sep


@cache
def _briefly_locking() -> frozenset[str]:
    return frozenset(_LIBRARY + name.replace("/", os.sep) for name in _BRIEFLY_LOCKING).union(_IMPORT_SYSTEM)


def _in_library(filename: str) -> bool:
    if filename.startswith(_LIBRARY):
        return not filename.startswith(_SITE_PACKAGES)
    return filename.startswith("<frozen ")


def _hold(frame: FrameType | None, block_frames: Collection[FrameType | None]) -> _Hold:
    if frame is not None and _is_blind_back_edge(frame):
        return _Hold.ASTRAY
    only_library_so_far = True
    innermost = frame
    for _ in range(_DEPTH):
        if frame is None:
            break
        code = frame.f_code
        filename = code.co_filename
        if code.co_name == "__del__" or (frame is innermost and filename.endswith(_TRACER)):
            return _Hold.OURS
        if filename.startswith(_PACKAGE):
            if only_library_so_far:
                if code in INTERRUPTIBLE:
                    break
                return _Hold.OURS if frame is innermost else _Hold.LIBRARY
        elif filename in _briefly_locking() or (_TRACING in filename and _INSTRUMENTATION not in filename):
            if code.co_name in _THREAD_BOTTOMS:
                break
            return _Hold.LIBRARY
        elif not _in_library(filename):
            only_library_so_far = False
        if frame in block_frames:
            break
        frame = frame.f_back
    return _Hold.GO


def fate(block_frame: FrameType | None, opened_at: int, innermost: FrameType | None) -> Fate:
    """What would become of an exception raised in `innermost`, as seen from the block that `block_frame` opened.

    `opened_at` is the instruction of `block_frame` that opened the block. The answer is read from the exception table:
    on the way into a `with` statement and out of it there are instants at which no `__exit__` would be called.
    """
    if block_frame is None:
        return Fate.EDGE
    code = block_frame.f_code
    own_handler = _handler_opened_at(code, opened_at)
    frame = innermost
    while frame is not None and frame is not block_frame:
        frame = frame.f_back
    if frame is None:
        return Fate.EDGE if own_handler is None else Fate.GONE
    if own_handler is None:
        return Fate.EDGE
    offset = _looked_up_at(block_frame)
    seen: set[int] = set()
    while (handler := _handler_at(code, offset)) is not None and handler not in seen:
        if handler == own_handler:
            return Fate.CAUGHT
        seen.add(handler)
        offset = handler
    return Fate.EDGE


def _handlers(code: CodeType) -> Iterator[tuple[int, int, int]]:
    """(start, end, handler) of each protected range, as byte offsets; the format is that of CPython 3.11 and later."""
    table = iter(code.co_exceptiontable)

    def number(byte: int) -> int:
        value = byte & 63
        while byte & 64:
            byte = next(table)
            value = value << 6 | byte & 63
        return value

    for first in table:
        start, length, handler = number(first), number(next(table)), number(next(table))
        number(next(table))
        yield 2 * start, 2 * (start + length), 2 * handler


def _handler_at(code: CodeType, offset: int) -> int | None:
    return next((handler for start, end, handler in _handlers(code) if start <= offset < end), None)


def _handler_opened_at(code: CodeType, offset: int) -> int | None:
    return next((handler for start, _, handler in _handlers(code) if offset < start <= offset + _ENTRY_SPAN), None)


def _looked_up_at(frame: FrameType) -> int:
    """The offset for which Python looks up a handler when an interrupt is raised where `frame` is now.

    Up to 3.12 an exception at a loop's back edge counts as raised by the instruction before the loop's first.
    """
    offset = frame.f_lasti
    if not _LOOKS_BEFORE_TARGET:
        return offset
    code = frame.f_code.co_code
    if code[offset] not in _BACK_JUMPS:
        return offset
    return _target(code, offset) - 2


def _target(code: bytes, offset: int) -> int:
    """Where the back jump at `offset` leads."""
    distance, shift, prefix = code[offset + 1], 8, offset - 2
    while prefix >= 0 and code[prefix] == _EXTENDED_ARG:
        distance |= code[prefix + 1] << shift
        shift += 8
        prefix -= 2
    caches = 0 if _LOOKS_BEFORE_TARGET else 2
    return offset + 2 + caches - 2 * distance


def _is_blind_back_edge(frame: FrameType) -> bool:
    """Is this a loop's back edge from which an exception would not go to the handler that the source code shows?"""
    offset = frame.f_lasti
    code = frame.f_code
    if offset < 0 or not code.co_exceptiontable or code.co_code[offset] not in _BACK_JUMPS:
        return False
    shown = _handler_at(code, offset)
    if shown is None:
        # From 3.12 on the table may leave out a back edge that belongs to the range before it.
        shown = _handler_at(code, offset - 2)
    return _handler_at(code, _looked_up_at(frame)) != shown


def _stays_here(frame: FrameType) -> bool:
    """Will an exception thrown into this thread be raised in the user's code, or at the start of what that calls next?

    Not so if it may first return to this package, nor if the next call is that of a `with` statement's `__exit__`.
    Branches are not followed, and a `for` loop is taken to go on: a wrong answer is possible, but rare.
    """
    offset = frame.f_lasti
    code = frame.f_code.co_code
    at = _target(code, offset) if code[offset] in _BACK_JUMPS else offset + 2
    while at < len(code):
        instruction = code[at]
        if instruction in _BACK_JUMPS:
            return True
        if instruction in _CALLS:
            before = code[max(at - 6, 0) : at]
            return not (before[0::2] == bytes([_LOAD_CONST] * 3) and len(set(before[1::2])) == 1)
        if instruction in _RETURNS and frame.f_back is not None:
            frame = frame.f_back
            if frame.f_code.co_filename.startswith(_PACKAGE):
                return False
            code, at = frame.f_code.co_code, frame.f_lasti
        elif instruction in _LEAVES:
            return False
        at += 2
    return False
