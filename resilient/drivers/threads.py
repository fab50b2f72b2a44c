"""Waiting on threads."""

from __future__ import annotations

import sys
import warnings

from resilient.core.clock import CLOCK
from resilient.drivers.safe_points import INTERRUPTIBLE
from resilient.drivers.tasks import running_backend

_PACKAGE = __name__.partition(".")[0]


def sleep(seconds: float) -> None:
    """Block this thread for `seconds`; not at all if they are not positive."""
    if seconds > 0.0:
        CLOCK.sleep(seconds)


INTERRUPTIBLE.add(sleep.__code__)


def warn_if_loop_runs(policy_name: str, instead: str) -> bool:
    """Warn that a policy is about to block a thread on which an event loop runs, and tell whether it did.

    `instead` names the async form. A policy that got True need not ask again: one warning a policy is enough.
    """
    backend = running_backend()
    if backend is None:
        return False
    warnings.warn(
        f"{policy_name} blocks a thread on which an event loop ({backend}) runs, and every task of that loop with it; "
        f"use {instead}",
        RuntimeWarning,
        stacklevel=_stacklevel_of_user_code(),
    )
    return True


def _stacklevel_of_user_code() -> int:
    """The `stacklevel` at which this function's caller points at the innermost frame outside this package."""
    level = 1
    frame = sys._getframe(1)
    while frame.f_back is not None:
        module = frame.f_globals.get("__name__", "")
        if module != _PACKAGE and not module.startswith(_PACKAGE + "."):
            break
        frame = frame.f_back
        level += 1
    return level
