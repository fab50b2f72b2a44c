"""Who had a signal before, so that it can go on to him."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], object]


class LoopHandler:
    """What an asyncio loop was to do at a signal."""

    __slots__ = ("_handle", "_loop")

    def __init__(self, loop: Any, handle: Any) -> None:
        self._loop = loop
        self._handle = handle

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self._loop.call_soon_threadsafe(self._handle._run)


def take_from_loop(number: int) -> LoopHandler | None:
    """The handler that `loop.add_signal_handler` set, taken off the loop.

    A loop hears of signals by itself, beside all handlers, and would not wait for anybody. There is no public way to
    ask it for what was set.
    """
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return None
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return None
    handle = getattr(loop, "_signal_handlers", {}).get(number)
    if handle is None:
        return None
    loop.remove_signal_handler(number)
    return LoopHandler(loop, handle)
