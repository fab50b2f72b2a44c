"""Our metrics in the files of prometheus_client's multiprocess mode: copied there once a second, never by a call.

Each process writes what it has counted itself into files named after its pid. A `MultiProcessCollector` adds up the
files of all processes, of those that have ended, too; gauges only of those that live.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Any, Final, NoReturn

from resilient.core.fork import renew_after_fork
from resilient.errors import ConfigurationError
from resilient.telemetry.catalogue import OVERFLOW
from resilient.telemetry.catalogue import Metric as Entry
from resilient.telemetry.collecting import Attributes, Collector, Distribution, Family, Value
from resilient.telemetry.prometheus import labels_of, size_of

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
INTERVAL: Final = 1.0
_PATIENCE: Final = 1.0


def in_use() -> bool:
    """Does prometheus_client write into files? Raises where it was meant to and can't."""
    from prometheus_client import values

    folder = os.environ.get(VARIABLE) or os.environ.get(VARIABLE.lower())
    if not getattr(values.ValueClass, "_multiprocess", False):
        if folder:
            _refuse(folder, "was set after prometheus_client was imported: set it before the process starts")
        return False
    if not folder or not os.path.isdir(folder):
        _refuse(folder, "is no directory: make it, empty, before the first process starts")
    return True


def _refuse(folder: str | None, why: str) -> NoReturn:
    raise ConfigurationError(
        f"PrometheusExporter: {VARIABLE}={folder!r} {why}",
        setting=VARIABLE,
        value=folder,
        allowed="a directory, set before prometheus_client is imported, and one exporter for it",
    )


def merged() -> CollectorRegistry:
    """A registry that shows the metrics of all processes."""
    from prometheus_client import CollectorRegistry
    from prometheus_client.multiprocess import MultiProcessCollector

    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry


def gauge_mode(entry: Entry) -> str:
    """How a gauge of several processes is one number.

    Up-down counters are added up, states among them, as they would be over processes that are scraped one by one: so
    many workers are in that state. Of what can't be added, the highest is shown: of ratios and delays the worst.
    """
    return "livesum" if entry.kind == "updown" else "livemax"


class _Cell:
    """One number in a file: `base` is what was counted before that which counts now began at 0."""

    __slots__ = ("base", "last", "written", "value", "_make")

    def __init__(self, make: Callable[[], Any], *, adds: bool) -> None:
        self._make = make
        self.value = make()
        # A process of the same pid may have been here before us; what it counted stays counted.
        self.base: float = self.value.get() if adds else 0.0
        self.last = 0.0
        self.written: float | None = None

    def show(self, number: float) -> None:
        self.last = number
        if self.base + number != self.written:
            self.value.set(self.base + number)
            self.written = self.base + number

    def reopen(self) -> None:
        self.value = self._make()
        self.written = None


class _Series:
    """The cells of one series."""

    __slots__ = ("_adds", "_attributes", "_cells", "_entry", "_shrinks", "_size")

    def __init__(self, entry: Entry, attributes: Attributes) -> None:
        self._entry = entry
        self._attributes = attributes
        self._adds = entry.kind in ("counter", "histogram")
        # Where others are removed, some of what overflowed has room of its own: it did not begin again.
        self._shrinks = any(name == OVERFLOW for name, _ in attributes)
        self._cells: dict[tuple[str, str | None], _Cell] = {}
        self._size = 0.0

    def show(self, value: Value) -> None:
        if self._adds:
            size = size_of(value)
            if size < self._size:
                if self._shrinks:
                    return
                self._begin_again()
            self._size = size
        for key, number in _numbers(self._entry, value):
            cell = self._cells.get(key)
            if cell is None:
                cell = self._cells[key] = self._cell(*key)
            cell.show(number)

    def vanish(self) -> None:
        """Files have no way to forget a series: counts stay, gauges are 0."""
        if not self._adds:
            for cell in self._cells.values():
                cell.show(0.0)
        else:
            self._begin_again()

    def reopen(self) -> None:
        for cell in self._cells.values():
            cell.reopen()

    def _begin_again(self) -> None:
        self._size = 0.0
        for cell in self._cells.values():
            cell.base += cell.last
            cell.last = 0.0

    def _cell(self, sample: str, bound: str | None) -> _Cell:
        from prometheus_client import values

        entry = self._entry
        labels = labels_of(self._attributes) | ({} if bound is None else {"le": bound})
        kind = entry.kind if self._adds else "gauge"
        mode = "" if self._adds else gauge_mode(entry)

        def make() -> object:
            name, texts = entry.prometheus_name, list(labels.values())
            return values.ValueClass(kind, name, sample, list(labels), texts, entry.meaning, multiprocess_mode=mode)

        return _Cell(make, adds=self._adds)


def _numbers(entry: Entry, value: Value) -> Iterator[tuple[tuple[str, str | None], float]]:
    """The numbers of a series by sample and bound; buckets by themselves, as the files have them."""
    if not isinstance(value, Distribution):
        yield (entry.prometheus_samples[0], None), float(value)
        return
    from prometheus_client.utils import floatToGoString

    bucket, _, total = entry.prometheus_samples
    for bound, count in zip((*value.bounds, float("inf")), value.counts, strict=True):
        yield (bucket, floatToGoString(bound)), float(count)  # type: ignore[no-untyped-call]
    yield (total, None), value.sum


class Flusher:
    """Copies what the meters have into the files: each second, and once more at the end."""

    def __init__(
        self, collector: Collector, tell: Callable[[Exception | None], None], afterwards: Callable[[], None]
    ) -> None:
        from prometheus_client import values

        self.files: object = values.ValueClass
        if any(other.files is self.files for other in _RUNNING):
            _refuse(
                os.environ.get(VARIABLE), "has one set of files a process, and another exporter writes them already"
            )
        self._collector = collector
        self._tell = tell
        self._afterwards = afterwards
        self._reset()
        renew_after_fork(self)

    def _reset(self) -> None:
        self._flushing = Lock()
        # Held for the short while in which prometheus_client's own lock may be; a fork waits for it, because a child
        # that inherits that lock held would hang in the next metric that the application counts.
        self.writing = Lock()
        self._series = _shared_series()
        self._shown: set[tuple[str, Attributes]] = set()
        self._stopped = Event()
        self._broken = False

    def start(self) -> None:
        self._start_thread()
        _RUNNING.append(self)

    def flush(self, timeout: float) -> bool:
        """Write now; False where that failed, or was not to be had in time."""
        return self._flush(timeout, self._collector.collect)

    def stop(self, timeout: float) -> None:
        """Stop the thread; write what was counted, and that nothing is under way here any more."""
        _RUNNING[:] = [other for other in _RUNNING if other is not self]
        self._stopped.set()
        self._thread.join(timeout / 2)
        self._flush(timeout / 2, self._counts)

    def after_fork(self, now: float) -> None:
        """In the child: its files begin at 0, as its meters do, and nobody writes them yet."""
        if self in _RUNNING:
            self._reset()
            self._start_thread()

    def _start_thread(self) -> None:
        self._thread = Thread(target=self._run, name="resilient-prometheus", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        stopped = self._stopped
        # The wait comes first: in a forked child the meters may be set to 0 after this thread was started.
        while not stopped.wait(INTERVAL):
            self.flush(INTERVAL)
            if not stopped.is_set():
                self._afterwards()

    def _counts(self) -> list[Family]:
        """Without gauges, which then are 0: what has ended has no calls under way, and no state."""
        return [family for family in self._collector.collect() if family.metric.kind in ("counter", "histogram")]

    def _flush(self, timeout: float, collect: Callable[[], Iterable[Family]]) -> bool:
        if not self._flushing.acquire(timeout=max(0.0, timeout)):
            return False
        try:
            families = collect()
            with self.writing:
                self._write_locked(families)
        except Exception as error:  # noqa: BLE001
            self._tell(error)
            return False
        finally:
            self._flushing.release()
        self._tell(None)
        return True

    def _write_locked(self, families: Iterable[Family]) -> None:
        broken, self._broken = self._broken, True
        if broken:
            for series in self._series.values():
                series.reopen()
        gone, self._shown = self._shown, set()
        for family in families:
            for attributes, value in family.series.items():
                key = family.metric.name, attributes
                if key not in self._series:
                    self._series[key] = _Series(family.metric, attributes)
                self._series[key].show(value)
                self._shown.add(key)
        for key in gone - self._shown:
            self._series[key].vanish()
        self._broken = False


def _shared_series() -> dict[tuple[str, Attributes], _Series]:
    """What this process has written, kept beside the files themselves: an exporter that comes later goes on from it."""
    from prometheus_client import values

    files: Any = values.ValueClass
    pid, series = getattr(files, "_resilient", (None, {}))
    if pid != os.getpid():
        series = {}
        files._resilient = os.getpid(), series
    return series


_RUNNING: Final[list[Flusher]] = []
_FORKING: Final = threading.local()


def _before_fork() -> None:
    _FORKING.held = [flusher.writing for flusher in _RUNNING if flusher.writing.acquire(timeout=_PATIENCE)]


def _after_fork_in_parent() -> None:
    for lock in getattr(_FORKING, "held", ()):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent)
