"""A clean end: readiness goes first, then the server, then what is under way, then what was opened, telemetry last.

    1. The signal comes. Readiness probes answer 503 from here on; the server still serves.
    2. `lame_duck` seconds later the signal goes on to whoever had it before: the server stops to accept.
    3. Guarded calls under way are waited for, then the shutdown hooks run by priority, each under its own timeout, all
       of it within `timeout` seconds. What has been counted and traced is exported last.

A second signal skips the rest of the lame-duck time. Handlers that were there before are called and never replaced.
"""

from __future__ import annotations

from typing import Final

from resilient.lifecycle.process import Lifecycle, State

__all__ = [
    "Lifecycle",
    "State",
    "asgi",
    "drain",
    "in_flight",
    "install",
    "on_shutdown",
    "process",
    "state",
    "stop",
    "stop_async",
]

process: Final = Lifecycle()
"""That of this process, for services that need no other settings than the defaults."""

asgi = process.asgi
drain = process.drain
install = process.install
on_shutdown = process.on_shutdown
stop = process.stop
stop_async = process.stop_async


def state() -> State:
    """The state of this process: `running`, `draining`, `stopping`, `stopped`."""
    return process.state


def in_flight() -> int:
    """Guarded calls under way in this process."""
    return process.in_flight
