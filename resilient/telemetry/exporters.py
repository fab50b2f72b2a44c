"""Who exports what the policies count: registered at startup, shut down at the end."""

from __future__ import annotations

import atexit
import os
from _thread import allocate_lock
from collections.abc import Iterator
from threading import Event, RLock, Thread
from typing import Final, Protocol, TypeVar, runtime_checkable

from resilient.core.checks import Checker, Seconds, refuse
from resilient.core.clock import CLOCK
from resilient.registry import Registry
from resilient.registry import registry as default_registry
from resilient.telemetry.catalogue import EXPORT_FAILURES
from resilient.telemetry.collecting import SOURCES, Collector, Reading


@runtime_checkable
class Exporter(Protocol):
    """What `register_exporter` takes. Nothing that an exporter does or fails to do may slow or fail a call."""

    @property
    def name(self) -> str:
        """What its failures are counted under."""
        ...

    def start(self, collector: Collector) -> None:
        """Begin to export what `collector.collect()` gives; errors of wrong settings are raised here."""
        ...

    def flush(self, timeout: float) -> bool:
        """Export what there is, within so many seconds; True where it arrived."""
        ...

    def shutdown(self, timeout: float) -> None:
        """Flush, and stop all threads and endpoints, within so many seconds."""
        ...


E = TypeVar("E", bound=Exporter)

AT_EXIT: Final = 2.0
"""Seconds for the last exports of an application that ends without having called `shutdown`."""

GRACE: Final = 0.1
"""Seconds that an exporter which has used up its time may take to end."""

_lock = RLock()
_count_lock = allocate_lock()
_active: list[Exporter] = []
_failures: dict[str, int] = {}


def register_exporter(exporter: E, *, registry: Registry = default_registry) -> E:
    """Export the metrics of all policies of `registry` from now on; once, at startup. Gives the exporter back.

    An exporter that is registered already is left as it is.

    Raises:
        ConfigurationError: it is no exporter, or can't do what its settings ask for.

    Example:
        >>> from resilient import PrometheusExporter, register_exporter, unregister_exporter
        >>> exporter = register_exporter(PrometheusExporter())
        >>> unregister_exporter(exporter)
        True
    """
    if not isinstance(exporter, Exporter):
        refuse("register_exporter", "exporter", exporter, "PrometheusExporter(...), OTLPExporter(...) or an Exporter")
    Checker("register_exporter").instance("registry", registry, Registry)
    with _lock:
        if not any(other is exporter for other in _active):
            exporter.start(Collector(registry))
            with _count_lock:
                _failures.setdefault(exporter.name, 0)
            _active.append(exporter)
    return exporter


def unregister_exporter(exporter: Exporter, *, timeout: Seconds = 5.0) -> bool:
    """Stop an exporter, after a last export, within `timeout` seconds. True if it was registered."""
    seconds = Checker("unregister_exporter").seconds("timeout", timeout, zero=True)
    with _lock:
        if not any(other is exporter for other in _active):
            return False
        _active[:] = [other for other in _active if other is not exporter]
    exporter.shutdown(seconds)
    return True


def shutdown(timeout: Seconds = 5.0) -> None:
    """Export what there is and stop all exporters, within `timeout` seconds for all of them together.

    Policies go on working and counting.

    Example:
        >>> import resilient
        >>> resilient.shutdown(timeout=2)
    """
    seconds = Checker("shutdown").seconds("timeout", timeout, zero=True)
    end = CLOCK.now() + seconds
    # Who holds it may hang in the start of an exporter, and taking over the list needs no lock but for that.
    held = _lock.acquire(timeout=seconds)
    exporters, _active[:] = _active[:], []
    if held:
        _lock.release()
    if exporters:
        _shut_down_together(exporters, max(0.0, end - CLOCK.now()))


def _shut_down_together(exporters: list[Exporter], seconds: float) -> None:
    """All at the same time, each with all of it: one that hangs takes nothing from the others."""
    end = CLOCK.now() + seconds
    done = _Countdown(len(exporters))
    left: list[Exporter] = []
    for exporter in exporters:
        try:
            Thread(target=done.after, args=(exporter, seconds), name="resilient-shutdown", daemon=True).start()
        except RuntimeError:  # no thread to be had: at the exit of Python 3.12, or at the limit of the system
            left.append(exporter)
    for number, exporter in enumerate(left):
        done.after(exporter, max(0.0, end - CLOCK.now()) / (len(left) - number))
    done.over.wait(max(0.0, end - CLOCK.now()) + GRACE)


class _Countdown:
    def __init__(self, count: int) -> None:
        self.over = Event()
        self._count = count
        self._lock = allocate_lock()

    def after(self, exporter: Exporter, seconds: float) -> None:
        try:
            exporter.shutdown(seconds)
        except Exception:  # noqa: BLE001 - whoever ends his application can do nothing about it
            count_failure(exporter.name)
        with self._lock:
            self._count -= 1
            if not self._count:
                self.over.set()


@atexit.register
def _at_exit() -> None:
    shutdown(AT_EXIT)


def registered() -> list[Exporter]:
    return _active[:]


def count_failure(exporter: str) -> None:
    """Count an export that did not arrive."""
    with _count_lock:
        _failures[exporter] = _failures.get(exporter, 0) + 1


def _in_child() -> None:
    """Another thread of the parent may have held the locks, and the parent's failures are the parent's."""
    global _lock, _count_lock
    _lock, _count_lock = RLock(), allocate_lock()
    for name in _failures:
        _failures[name] = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def _read() -> Iterator[Reading]:
    for name, count in _failures.copy().items():
        yield EXPORT_FAILURES, (name,), int(count)


SOURCES.append(_read)
