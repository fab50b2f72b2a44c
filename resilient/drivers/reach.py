"""How an interrupt gets to a thread: by a signal or as an asynchronous exception."""

from __future__ import annotations

import os
import signal
import sys
import threading
from _thread import get_ident, interrupt_main
from collections.abc import Callable
from enum import IntEnum
from functools import cache
from importlib import import_module
from types import FrameType
from typing import Final

SignalHandler = Callable[[int, FrameType | None], None]

# Ignored by default, never sent by the kernel but for urgent data on sockets, and of no use to debuggers or `sleep`.
_SIGNAL: Final[signal.Signals | None] = getattr(signal, "SIGURG", None) if hasattr(signal, "pthread_kill") else None


# Before 3.13 only an exception that is raised lowers the flag by which a thread looks for one; clearing it raises the
# flag for good. The thread is slow from then on, and on 3.11, traced, it turns round in one place for ever.
_CLEARING_STICKS: Final = sys.version_info < (3, 13)
_TURNS: Final = 1000


class _Dropped(BaseException):
    """Takes the place of an interrupt that is taken back, to be raised and caught at once."""


class Reach(IntEnum):
    """What can be done to a thread; the greater includes the smaller."""

    UNKNOWN = -1
    NONE = 0
    EXCEPTION = 1
    """Stops Python code at its next bytecode; a blocking call returns first."""
    SIGNAL = 2
    """Breaks blocking calls, too."""


def find_reach(handler: SignalHandler) -> Reach:
    """How the current thread can be interrupted; on the main thread this installs the signal handler if it may."""
    if not _can_throw() or _under_gevent() or _in_subinterpreter():
        return Reach.NONE
    if get_ident() == threading.main_thread().ident and _install(handler):
        return Reach.SIGNAL
    return Reach.EXCEPTION


def is_installed(handler: SignalHandler) -> bool:
    """Is it still our handler that gets the signal, or has the application set its own since?"""
    return _SIGNAL is not None and signal.getsignal(_SIGNAL) is handler


def send_signal(thread_id: int) -> None:
    """Send the signal to one thread."""
    if _SIGNAL is not None:
        signal.pthread_kill(thread_id, _SIGNAL)


def send_to_self() -> None:
    """The last thing in the signal's handler: have it called again at the next bytecode that looks for signals."""
    # A call looks for signals when it returns, which would be here; unpacking does not.
    if _SIGNAL is not None:
        [_] = map(interrupt_main, (_SIGNAL,))


def throw(thread_id: int, error: type[BaseException]) -> None:
    """Have `error` raised in a thread at one of its next bytecodes."""
    _set_async_exc()(thread_id, error)


def retract(thread_id: int) -> None:
    """Take back what `throw` set for this thread, where it has not been raised yet."""
    if not _CLEARING_STICKS:
        _clear_async_exc()(thread_id, None)
        return
    try:
        _set_async_exc()(thread_id, _Dropped)
        for _ in range(_TURNS):
            pass
    except _Dropped:
        pass
    except BaseException:
        _clear_async_exc()(thread_id, None)
        raise


def _can_throw() -> bool:
    with_gil: Callable[[], bool] | None = getattr(sys, "_is_gil_enabled", None)
    return (
        sys.implementation.name == "cpython"
        and "t" not in getattr(sys, "abiflags", "")
        and (with_gil is None or with_gil())
    )


def _under_gevent() -> bool:
    """With threads that are greenlets, many stacks share one thread, and an interrupt would hit any of them."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("thread") or monkey.is_module_patched("threading"))


def _in_subinterpreter() -> bool:
    for name in ("_interpreters", "_xxsubinterpreters"):
        try:
            interpreters = import_module(name)
        except ImportError:
            continue
        return bool(interpreters.get_current() != interpreters.get_main())
    return False


def _install(handler: SignalHandler) -> bool:
    if _SIGNAL is None:
        return False
    current = signal.getsignal(_SIGNAL)
    if current is handler:
        return True
    if current not in (signal.SIG_DFL, signal.SIG_IGN):
        return False
    try:
        signal.signal(_SIGNAL, handler)
    except ValueError:
        return False
    return True


@cache
def _set_async_exc() -> Callable[[int, type[BaseException]], object]:
    import ctypes

    prototype = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_ulong, ctypes.py_object)
    return prototype(("PyThreadState_SetAsyncExc", ctypes.pythonapi))


@cache
def _clear_async_exc() -> Callable[[int, None], object]:
    import ctypes

    prototype = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)
    return prototype(("PyThreadState_SetAsyncExc", ctypes.pythonapi))


def prepare(reach: Reach) -> None:
    """Build what `throw` and `retract` need, so that neither imports anything at an instant that must be short."""
    if reach is Reach.EXCEPTION:
        _set_async_exc()
        _clear_async_exc()


def call_after_fork(in_child: Callable[[], None]) -> None:
    """Run `in_child` in each forked child, on the thread that forked."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=in_child)
