"""Running a function on a thread of its own, which the caller may stop waiting for."""

from __future__ import annotations

import threading
from _thread import allocate_lock
from collections.abc import Callable
from typing import Any

from resilient.core.clock import CLOCK


class HelperCall:
    """One function call on a helper thread.

    Whether it ended in time or was abandoned is decided once, under a lock, by whoever comes first.
    """

    __slots__ = ("_abandoned", "_ended", "_error", "_finished", "_lock", "_on_late_end", "_result", "_work")

    def __init__(self, work: Callable[[], Any], on_late_end: Callable[[], object]) -> None:
        self._work = work
        self._on_late_end = on_late_end
        self._lock = allocate_lock()
        self._ended = threading.Event()
        self._finished = self._abandoned = False
        self._result: Any = None
        self._error: BaseException | None = None
        threading.Thread(target=self._run, name="resilient-timeout-body", daemon=True).start()

    def wait_until(self, at: float) -> bool:
        """Wait for the end; False where the clock came to `at` first."""
        virtual = CLOCK.virtual
        if virtual is None:
            return self._ended.wait(max(0.0, at - CLOCK.now()))
        timer = virtual.call_at(at, self._ended.set)
        try:
            self._ended.wait()
        finally:
            timer.cancel()
        return self._finished

    def abandon(self) -> bool:
        """Stop caring for the call; False where it has ended."""
        with self._lock:
            self._abandoned = not self._finished
            return self._abandoned

    def result(self) -> Any:
        """What the call gave: returned, or raised as the same exception."""
        error, self._error = self._error, None
        if error is None:
            return self._result
        try:
            raise error
        finally:
            del error

    def _run(self) -> None:
        try:
            self._result = self._work()
        except BaseException as error:  # noqa: BLE001 - raised again by the caller
            self._error = error
        finally:
            with self._lock:
                self._finished = True
                late = self._abandoned
            self._ended.set()
            if late:
                self._result = self._error = None
                self._on_late_end()
