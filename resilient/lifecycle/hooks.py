"""Shutdown hooks: in order, each under its own timeout, and none can keep the next from running."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Literal

from resilient.drivers import tasks

Hook = Callable[[], object]
Outcome = BaseException | Literal["done", "late"]

# A hook whose turn comes after the time is up still gets this long: most close something, and are quick.
LEAST = 0.1


@dataclass(frozen=True, slots=True)
class ShutdownHook:
    """Something to do at the end."""

    run: Hook
    name: str
    priority: int
    timeout: float
    turn: int

    @property
    def rank(self) -> tuple[int, int]:
        """Lower priorities first; of one priority the newest first."""
        return self.priority, -self.turn


def run_hook(hook: Hook, seconds: float) -> Outcome:
    """Run it on a thread, which is left behind after so many seconds; an async hook in an event loop of its own."""
    outcome: list[Outcome] = []

    def run() -> None:
        try:
            result = hook()
            if hasattr(type(result), "__await__"):
                import asyncio

                asyncio.run(_awaited(result))  # type: ignore[arg-type]
        except BaseException as error:  # noqa: BLE001 - the next hook runs all the same
            outcome.append(error)
        else:
            outcome.append("done")

    thread = threading.Thread(target=run, name="resilient-shutdown-hook", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        # Python 3.12 starts none any more while it exits: here, then, and for as long as it takes.
        run()
        return outcome[0]
    # Real time, whatever a test says about the clock: what hangs here hangs really.
    thread.join(max(seconds, LEAST))
    return outcome[0] if outcome else "late"


async def run_hook_async(hook: Hook, seconds: float) -> Outcome:
    """The same beside a running event loop: async hooks run in it, and are cancelled when their time is up."""
    if not iscoroutinefunction(hook):
        return await tasks.in_thread(lambda: run_hook(hook, seconds))
    try:
        return "done" if await tasks.ended_within(hook, max(seconds, LEAST)) else "late"
    except Exception as error:  # noqa: BLE001 - see above
        return error


async def _awaited(work: Awaitable[object]) -> object:
    return await work
