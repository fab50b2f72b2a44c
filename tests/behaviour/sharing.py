"""The same work on threads, two asyncio loops and trio, all at once."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

from tests.behaviour.kit import PATIENCE, Asyncio, Backend, Threads, Trio

WORKERS: list[Backend] = [Threads(), Threads(), Threads(), Asyncio(), Asyncio(), Trio()]
CALLS = 400


class Neutral(BaseException):
    """Neither success nor failure."""


def on_all_at_once(work: Callable[[Backend, int], Any]) -> None:
    """Run `CALLS` calls of `work(backend, number)` on each of three threads, two asyncio loops and trio, all at once.

    On a loop they are spread over ten tasks.
    """
    begin = threading.Barrier(len(WORKERS))
    errors: list[BaseException] = []

    async def share(backend: Backend, first: int, step: int) -> None:
        for number in range(first, CALLS, step):
            await work(backend, number)

    async def main(backend: Backend) -> None:
        if backend.name == "threads":
            await share(backend, 0, 1)
            return
        async with backend.group() as spawn:
            for task in range(10):
                spawn(share, backend, task, 10)

    def worker(backend: Backend) -> None:
        begin.wait(PATIENCE)
        try:
            backend.run(main, backend)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=worker, args=[backend], daemon=True) for backend in WORKERS]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
    finally:
        sys.setswitchinterval(before)
    assert not any(thread.is_alive() for thread in threads)
    if errors:
        raise errors[0]
