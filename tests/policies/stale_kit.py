"""A source and a gate to load from, and callers that load at the same time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from resilient import Stale
from resilient.drivers import tasks


class Source:
    """Gives 1, 2, 3 and so on, until it is told to fail."""

    def __init__(self) -> None:
        self.calls = 0
        self.error: BaseException | None = None

    def __call__(self, *args: object, **kwargs: object) -> int:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return self.calls


def counts(policy: Stale) -> dict[str, int]:
    calls: Any = policy.snapshot()["calls"]
    return {result: count for result, count in calls.items() if count}


def waiting(policy: Stale) -> int:
    return sum(len(load.seats) for load in policy._cache._loads.copy().values())


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def in_threads(*works: Callable[[], object]) -> list[threading.Thread]:
    threads = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in threads:
        thread.start()
    return threads


def joined(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(10.0)
        assert not thread.is_alive()


class Caught:
    """Keeps what a call gave, returned or raised."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self.result: Any = None
        self.error: BaseException | None = None

    def __call__(self) -> None:
        try:
            self.result = self._call()
        except BaseException as error:
            self.error = error


class Gate:
    """A body that waits at a gate, for threads and for tasks."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.calls = 0
        self.outcome: Any = "loaded"

    def finish(self) -> Any:
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome

    def sync(self, *args: object) -> Any:
        self.calls += 1
        assert self.open.wait(10.0)
        return self.finish()

    async def asynchronous(self, *args: object) -> Any:
        self.calls += 1
        while not self.open.is_set():
            await tasks.sleep(0.0005)
        return self.finish()
