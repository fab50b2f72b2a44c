"""The one place that reads time.

Everything in the package takes the instant from `CLOCK.now()` (monotonic seconds) and sleeps on a thread through
`CLOCK.sleep()`. The testing kit swaps the two slots, which puts every policy of the process on virtual time at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """Something that `VirtualTime.call_at` handed out."""

    def cancel(self) -> None: ...


class VirtualTime(Protocol):
    """What stands behind the clock while a test has swapped it."""

    def call_at(self, when: float, fire: Callable[[], object]) -> Timer:
        """Run `fire` on the thread that moves virtual time to `when` or past it."""
        ...

    def wait(self, seconds: float) -> None:
        """A policy waits: record it and move time on."""


class Clock:
    """Monotonic seconds, and the sleep of threads.

    The functions are kept in slots of an instance, where neither a patched `time` module nor a tool that replaces
    module globals can reach them: freezing the wall clock in a test must not freeze timeouts.
    """

    __slots__ = ("now", "sleep", "virtual")

    now: Callable[[], float]
    sleep: Callable[[float], None]
    virtual: VirtualTime | None

    def __init__(self) -> None:
        self.use_real_time()

    def use_real_time(self) -> None:
        self.now = time.monotonic
        self.sleep = time.sleep
        self.virtual = None

    def state(self) -> tuple[Callable[[], float], Callable[[float], None], VirtualTime | None]:
        """What is in force, for `restore`."""
        return self.now, self.sleep, self.virtual

    def restore(self, state: tuple[Callable[[], float], Callable[[float], None], VirtualTime | None]) -> None:
        self.now, self.sleep, self.virtual = state

    def use_virtual_time(self, now: Callable[[], float], virtual: VirtualTime) -> None:
        self.now = now
        self.sleep = virtual.wait
        self.virtual = virtual


CLOCK = Clock()
