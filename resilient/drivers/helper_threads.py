"""Running a function on a thread of its own, which the caller may stop waiting for."""

from __future__ import annotations

import threading
from _thread import allocate_lock, get_ident
from collections.abc import Callable
from typing import Any, Final

from resilient.core.clock import CLOCK


class HelperCall:
    """One function call on a helper thread, made by `owner`, the task or thread that is going to wait for it.

    Whether it ended in time or was abandoned is decided once, under a lock, by whoever comes first. `on_end` is called
    on the helper thread once it has ended, `on_late_end` where it was abandoned before.
    """

    __slots__ = (
        "_abandoned",
        "_at_end",
        "_ended",
        "_error",
        "_finished",
        "_left_behind",
        "_lock",
        "_on_end",
        "_on_late_end",
        "_owner",
        "_result",
        "_work",
    )

    def __init__(
        self,
        work: Callable[[], Any],
        on_late_end: Callable[[], object],
        owner: int,
        *,
        on_end: Callable[[], object] | None = None,
        name: str = "resilient-timeout-body",
    ) -> None:
        self._work = work
        self._on_end = on_end
        self._on_late_end = on_late_end
        self._owner = owner
        self._lock = allocate_lock()
        self._ended = threading.Event()
        self._finished = self._abandoned = False
        self._result: Any = None
        self._error: BaseException | None = None
        self._at_end: list[Callable[[], object]] | None = []
        self._left_behind: list[HelperCall] = []
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def wait_until(self, at: float) -> bool:
        """Wait for the end; False where the clock came to `at` first."""
        virtual = CLOCK.virtual
        if virtual is None:
            return self._ended.wait(max(0.0, at - CLOCK.now()))
        timer = virtual.call_at(at, self._ended.set)
        try:
            # The body may have moved time past it already.
            if CLOCK.now() < at:
                self._ended.wait()
        finally:
            timer.cancel()
        return self._finished

    def abandon(self) -> bool:
        """Stop caring for the call; False where it has ended."""
        with self._lock:
            self._abandoned = not self._finished
            if self._abandoned:
                ORPHANS.add(self, self._owner)
                return True
        self._hand_over_orphans()
        return False

    def result(self) -> Any:
        """What the call gave: returned, or raised as the same exception."""
        self._hand_over_orphans()
        error, self._error = self._error, None
        if error is None:
            return self._result
        try:
            raise error
        finally:
            del error

    def after_end(self, do: Callable[[], object]) -> None:
        """Call `do` once the call, and what it has left behind itself, has ended; at once where that is so already."""
        with self._lock:
            if self._at_end is not None:
                self._at_end.append(do)
                return
        do()

    def _run(self) -> None:
        left = ORPHANS.left
        try:
            self._result = self._work()
        except BaseException as error:  # noqa: BLE001 - raised again by the caller
            self._error = error
        finally:
            self._left_behind = ORPHANS.since(left, get_ident())
            with self._lock:
                self._finished = True
                late = self._abandoned
            self._ended.set()
            if self._on_end is not None:
                self._on_end()
            if late:
                self._result = self._error = None
                self._on_late_end()
            self._end_with(self._left_behind.copy())

    def _hand_over_orphans(self) -> None:
        for orphan in self._left_behind:
            ORPHANS.add(orphan, self._owner)

    def _end_with(self, others: list[HelperCall]) -> None:
        if others:
            others.pop().after_end(lambda: self._end_with(others))
            return
        ORPHANS.discard(self)
        with self._lock:
            waiting, self._at_end = self._at_end, None
        for do in waiting or ():
            do()


class Orphans:
    """Calls on helper threads that go on though nobody waits for them any more.

    What has to be held until the work is really over is given back like this, at no cost where there are none:

        left = ORPHANS.left
        ...                                            # the guarded body
        if ORPHANS.left != left:
            for orphan in ORPHANS.since(left, current_owner()):
                orphan.after_end(...)

    Attributes:
        left: how many have been left so far; it only grows.
    """

    __slots__ = ("_lock", "_running", "left")

    def __init__(self) -> None:
        self.left = 0
        self._running: dict[HelperCall, tuple[int, int]] = {}
        self._lock = allocate_lock()

    def add(self, call: HelperCall, owner: int) -> None:
        """`owner`, a task or a thread, has left this call."""
        with self._lock:
            self.left += 1
            self._running[call] = self.left, owner
        if call._at_end is None:
            self.discard(call)

    def discard(self, call: HelperCall) -> None:
        with self._lock:
            self._running.pop(call, None)

    def since(self, left: int, owner: int) -> list[HelperCall]:
        """Those that `owner` has left since `ORPHANS.left` was `left`, and that still run."""
        with self._lock:
            return [call for call, (turn, by) in self._running.items() if turn > left and by == owner]


ORPHANS: Final = Orphans()
