"""What the tests of timeouts have in common."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from resilient import (
    Timeout,
)

PATIENCE = 20.0
"""Real seconds after which a test that waits for something has failed."""


def on_another_thread(call: Callable[[], Any]) -> Any:
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((call(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    result, error = outcome[0]
    if error is not None:
        raise error
    return result


def calls_of(limit: Timeout) -> tuple[int, int]:
    """Completed and timed out."""
    calls: Any = limit.snapshot()["calls"]
    return calls["completed"], calls["timed_out"]
