"""Who exports what the policies count: registered at startup, shut down at the end."""

from __future__ import annotations

from collections.abc import Iterator
from threading import RLock
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

_LOCK: Final = RLock()
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
    with _LOCK:
        if not any(other is exporter for other in _active):
            exporter.start(Collector(registry))
            _failures.setdefault(exporter.name, 0)
            _active.append(exporter)
    return exporter


def unregister_exporter(exporter: Exporter, *, timeout: Seconds = 5.0) -> bool:
    """Stop an exporter, after a last export, within `timeout` seconds. True if it was registered."""
    seconds = Checker("unregister_exporter").seconds("timeout", timeout, zero=True)
    with _LOCK:
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
    end = CLOCK.now() + Checker("shutdown").seconds("timeout", timeout, zero=True)
    with _LOCK:
        exporters = _active[:]
        _active.clear()
    for exporter in exporters:
        exporter.shutdown(max(0.0, end - CLOCK.now()))


def registered() -> list[Exporter]:
    return _active[:]


def count_failure(exporter: str) -> None:
    """Count an export that did not arrive."""
    with _LOCK:
        _failures[exporter] = _failures.get(exporter, 0) + 1


def _read() -> Iterator[Reading]:
    for name, count in _failures.copy().items():
        yield EXPORT_FAILURES, (name,), int(count)


SOURCES.append(_read)
