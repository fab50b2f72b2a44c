"""Which `with` block is being left? One policy object serves many blocks at once, in threads, tasks and generators.

`__exit__` is told the policy object and nothing else. The frame that holds the `with` statement tells blocks apart,
also where a generator is resumed or closed by another task than began it. Where the frame that leaves is not the one
that entered (`contextlib.ExitStack`, hand-written `__enter__`), it is the newest block of the same task or thread.
"""

from __future__ import annotations

import sys
from _thread import get_ident
from types import FrameType
from typing import Generic, TypeVar

from resilient.drivers.tasks import running_backend

Block = TypeVar("Block")


def current_owner() -> int:
    """The task that runs, or else the thread."""
    backend = running_backend()
    if backend == "trio":
        return id(sys.modules["trio"].lowlevel.current_task())
    task = sys.modules["asyncio"].current_task() if backend == "asyncio" else None
    return get_ident() if task is None else id(task)


def holder_of(frame: FrameType) -> FrameType:
    """The frame that holds a block: `contextlib` enters and leaves for whoever called it."""
    while frame.f_globals.get("__name__") == "contextlib" and frame.f_back is not None:
        frame = frame.f_back
    return frame


def _key(frame: FrameType) -> tuple[int, int]:
    # With its code: a new frame may get the identity of one that has ended with a block open (`__enter__` by hand).
    return id(frame), id(frame.f_code)


class OpenBlocks(Generic[Block]):
    """The blocks of one policy that have been entered and not left.

    Only single operations of a dict and of lists that belong to one frame are used, so no lock is needed. The keys are
    identities, not references: holding a frame would keep an abandoned generator from ever being closed.
    """

    __slots__ = ("_by_frame",)

    def __init__(self) -> None:
        self._by_frame: dict[tuple[int, int], list[tuple[int, Block]]] = {}

    def push(self, frame: FrameType, block: Block) -> None:
        self._by_frame.setdefault(_key(frame), []).append((current_owner(), block))

    def pop(self, frame: FrameType) -> Block | None:
        """The block that is being left; None where there is none."""
        owner = current_owner()
        own = self._by_frame.get(_key(frame))
        if own is None:
            for key, entries in reversed(list(self._by_frame.items())):
                if any(entered_by == owner for entered_by, _ in entries):
                    return self._take(key, entries, owner)
            return None
        return self._take(_key(frame), own, owner)

    def _take(self, key: tuple[int, int], entries: list[tuple[int, Block]], owner: int) -> Block:
        index = len(entries) - 1
        for position in range(index, -1, -1):
            if entries[position][0] == owner:
                index = position
                break
        _, block = entries.pop(index)
        if not entries:
            self._by_frame.pop(key, None)
        return block

    def __len__(self) -> int:
        return sum(len(entries) for entries in list(self._by_frame.values()))
