"""The timeouts of all libraries: from seconds, a decorator. One object stands behind all that it decorates."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

from benchmarks.peer_bugs.breakers import Seen
from benchmarks.peer_bugs.tables import OURS, Case

Decorator = Callable[[Any], Any]
Maker = Callable[[float], Decorator]


def in_blocks(blocks: Callable[[], Any]) -> Decorator:
    def decorator(function: Any) -> Any:
        @wraps(function)
        async def in_block() -> Any:
            async with blocks():
                return await function()

        return in_block

    return decorator


def ours(seconds: float, interrupt: Any = "auto") -> Decorator:
    from resilient import Registry, timeout

    return timeout(seconds, interrupt=interrupt, registry=Registry())


def ours_in_block(seconds: float) -> Decorator:
    from resilient import Registry, timeout

    shared = timeout(seconds, registry=Registry())
    return in_blocks(lambda: shared)


def hyx_(seconds: float) -> Decorator:
    from hyx.timeout import timeout

    return timeout(seconds)


def hyx_in_block(seconds: float) -> Decorator:
    from hyx.timeout import timeout

    shared = timeout(seconds)
    return in_blocks(lambda: shared)


def interlock_(seconds: float) -> Decorator:
    from interlock import sync_timeout

    return sync_timeout(seconds)


def interlock_in_block(seconds: float) -> Decorator:
    from interlock import timeout

    return in_blocks(lambda: timeout(seconds))


def interlock_pipeline(seconds: float) -> Decorator:
    from interlock import Pipeline

    return Pipeline.builder().timeout(seconds).build()


def pyresilience_(seconds: float) -> Decorator:
    from pyresilience import TimeoutConfig, resilient

    return resilient(timeout=TimeoutConfig(seconds=seconds))


SYNC: dict[tuple[str, str], Maker] = {
    (OURS, "decorator, main thread"): ours,
    (OURS, 'decorator, interrupt="thread"'): lambda seconds: ours(seconds, "thread"),
    ("interlock-cb", "sync_timeout"): interlock_,
    ("pyresilience", "decorator"): pyresilience_,
}
ASYNC: dict[tuple[str, str], Maker] = {
    (OURS, "async, decorator"): ours,
    (OURS, "async with"): ours_in_block,
    ("hyx", "async, decorator"): hyx_,
    ("hyx", "async with"): hyx_in_block,
    ("interlock-cb", "async with"): interlock_in_block,
    ("interlock-cb", "async, pipeline"): interlock_pipeline,
    ("pyresilience", "async, decorator"): pyresilience_,
}


def cases(makers: dict[tuple[str, str], Maker], scenario: Callable[[Maker], Seen]) -> list[Case]:
    return [(library, form, partial(scenario, make)) for (library, form), make in makers.items()]


def on_another_thread(scenario: Callable[[Maker], Seen]) -> Callable[[Maker], Seen]:
    def run(make: Maker) -> Seen:
        seen: list[Seen] = []
        thread = threading.Thread(target=lambda: seen.append(scenario(make)))
        thread.start()
        thread.join()
        return seen[0]

    return run
