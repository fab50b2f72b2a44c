"""What must be new in the child of a fork.

Locks that another thread may have held at that instant, counts that the parent reports, and what threads that are not
there any more have begun. Locks of single calls are no concern: the calls stay in the parent.
"""

from __future__ import annotations

import os
from _thread import LockType, allocate_lock
from threading import RLock
from typing import Any, Final, Protocol
from weakref import WeakSet

from resilient.core.clock import CLOCK


class Renewable(Protocol):
    def after_fork(self, now: float) -> None:
        """Begin anew, in the child, on its only thread."""


_LOCKS: Final[WeakSet[Any]] = WeakSet()
_THINGS: Final[WeakSet[Any]] = WeakSet()


def new_lock() -> LockType:
    """A lock that is free in the child of a fork, whoever held it in the parent."""
    lock = allocate_lock()
    _LOCKS.add(lock)
    return lock


def new_rlock() -> Any:
    """The same for a lock that its thread may take again."""
    lock = RLock()
    _LOCKS.add(lock)
    return lock


def renew_lock(lock: Any) -> None:
    """In the child: free it. What the standard library does with its own locks; there is no public way."""
    lock._at_fork_reinit()


def renew_after_fork(thing: Renewable) -> None:
    """Have `thing.after_fork(now)` called in every child. Policies do it for what they are made of."""
    _THINGS.add(thing)


def _in_child() -> None:
    for lock in list(_LOCKS):
        renew_lock(lock)
    now = CLOCK.now()
    for thing in list(_THINGS):
        thing.after_fork(now)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
