"""What the process takes: memory, processor time, threads, files, garbage collections, and how late its loop is.

Names follow OpenTelemetry's conventions for processes and for CPython; there are none for event loops. In Prometheus
none is that of prometheus_client's own collector (`process_cpu_seconds_total`, `python_gc_collections_total`, ...).
What a platform does not tell has no series.
"""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from resilient.core.checks import Checker, Seconds, refuse
from resilient.core.fork import new_lock, renew_after_fork
from resilient.telemetry.catalogue import Metric
from resilient.telemetry.collecting import SOURCES, Reading, distribution
from resilient.telemetry.loop_lag import LoopWatch, Token, loop_of

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

_LOOP: Final = "python.event_loop.name"

CPU_TIME: Final = Metric("process.cpu.time", "counter", "s", ("cpu.mode",), "Processor time that the process took")
MEMORY_USAGE: Final = Metric("process.memory.usage", "updown", "By", (), "Physical memory that the process holds")
THREAD_COUNT: Final = Metric("process.thread.count", "updown", "{thread}", (), "Threads of the process")
DESCRIPTOR_COUNT: Final = Metric(
    "process.unix.file_descriptor.count", "updown", "{file_descriptor}", (), "Open file descriptors of the process"
)
GC_COLLECTIONS: Final = Metric(
    "cpython.gc.collections", "counter", "{collection}", ("cpython.gc.generation",), "Garbage collections by generation"
)
LOOP_DELAY: Final = Metric(
    "python.event_loop.delay",
    "histogram",
    "s",
    (_LOOP,),
    "How long the event loop let callbacks wait, asked a few times a second from another thread",
)
LOOP_LAG: Final = Metric(
    "python.event_loop.lag",
    "gauge",
    "s",
    (_LOOP,),
    "How late the event loop is: its newest delay, or how long it is blocked by now",
)

PROCESS_METRICS: Final = (
    CPU_TIME,
    MEMORY_USAGE,
    THREAD_COUNT,
    DESCRIPTOR_COUNT,
    GC_COLLECTIONS,
    LOOP_DELAY,
    LOOP_LAG,
)

_LOCK: Final = new_lock()
_ACTIVE: Final[list[ProcessMetrics]] = []


class ProcessMetrics:
    """Shows the numbers of the process until it is stopped; also a `with` block. Made by `observe_process(...)`."""

    def __init__(self, watch: LoopWatch | None) -> None:
        self._watch = watch

    @property
    def loop(self) -> str | None:
        """The event loop that is watched, as it is called in the metrics; None: none, or not any more."""
        return None if self._watch is None or self._watch.over else self._watch.name

    def stop(self) -> None:
        """Show them no more. A second time it does nothing."""
        with _LOCK:
            _ACTIVE[:] = [other for other in _ACTIVE if other is not self]
        if self._watch is not None:
            self._watch.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<ProcessMetrics with {self.loop or 'no'} event loop>"

    def readings(self) -> Iterator[Reading]:
        watch = self._watch
        if watch is None or watch.over:
            return
        yield LOOP_DELAY, (watch.name,), distribution(watch.delays)
        lag = watch.lag()
        if lag is not None:
            yield LOOP_LAG, (watch.name,), lag


def observe_process(event_loop: AbstractEventLoop | Token | None = None, *, interval: Seconds = 0.5) -> ProcessMetrics:
    """Show what the process takes, to all exporters: resident memory, processor time, threads, open files, collections.

    Called where an event loop runs, or given one, also how late that is: a daemon thread asks it to answer every
    `interval` and measures how long the answer takes, as long as the loop is there. A loop that is blocked at this
    moment is seen at once.

    Args:
        event_loop: a loop of asyncio, or the token of a trio run. Default: what runs here, where something does.
        interval: seconds between two questions to it.

    Raises:
        ConfigurationError: a setting is wrong.

    Example:
        >>> from resilient import observe_process
        >>> numbers = observe_process()
        >>> numbers.stop()
    """
    seconds = Checker("observe_process").seconds("interval", interval)
    loop = loop_of(event_loop)
    if event_loop is not None and loop is None:
        refuse("observe_process", "event_loop", event_loop, "an event loop of asyncio, a token of trio, or None")
    with _LOCK:
        taken = {other.loop for other in _ACTIVE}
        watch = None
        if loop is not None:
            turn, name = 1, loop.name
            while name in taken:
                turn += 1
                name = f"{loop.name}#{turn}"
            watch = LoopWatch(name, loop, seconds)
        numbers = ProcessMetrics(watch)
        _ACTIVE.append(numbers)
    if watch is not None:
        watch.start()
    return numbers


class _Collections:
    """Garbage collections of this process: a child of a fork has inherited the numbers of its parent."""

    def __init__(self) -> None:
        self._inherited = [0, 0, 0]

    def counts(self) -> list[int]:
        stats: list[dict[str, Any]] = gc.get_stats()
        inherited = self._inherited + [0] * len(stats)
        return [int(one["collections"]) - before for one, before in zip(stats, inherited, strict=False)]

    def after_fork(self, now: float) -> None:
        stats: list[dict[str, Any]] = gc.get_stats()
        self._inherited = [int(one["collections"]) for one in stats]


def cpu_seconds() -> tuple[float, float]:
    """Processor time in the process itself and, on its behalf, in the system."""
    try:
        from resource import RUSAGE_SELF, getrusage
    except ImportError:
        times = os.times()
        return times.user, times.system
    usage = getrusage(RUSAGE_SELF)
    return usage.ru_utime, usage.ru_stime


def resident_bytes() -> int | None:
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError, AttributeError):
        return None


def thread_count() -> int:
    """Threads of the system where it tells, else those that Python knows."""
    try:
        with open("/proc/self/stat", "rb") as file:
            # The name of the program, in brackets, may hold anything.
            return int(file.read().rpartition(b")")[2].split()[17])
    except (OSError, ValueError, IndexError):
        return threading.active_count()


def descriptor_count() -> int | None:
    try:
        # Linux from 6.2 on says how many there are; a list of 10,000 takes milliseconds.
        return os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd")) - 1
    except OSError:
        return None


def _read() -> Iterator[Reading]:
    active = _ACTIVE[:]
    if not active:
        return
    user, system = cpu_seconds()
    yield CPU_TIME, ("user",), user
    yield CPU_TIME, ("system",), system
    for metric, value in (
        (MEMORY_USAGE, resident_bytes()),
        (THREAD_COUNT, thread_count()),
        (DESCRIPTOR_COUNT, descriptor_count()),
    ):
        if value is not None:
            yield metric, (), value
    for generation, count in enumerate(_COLLECTIONS.counts()):
        yield GC_COLLECTIONS, (str(generation),), count
    for numbers in active:
        yield from numbers.readings()


_COLLECTIONS: Final = _Collections()
renew_after_fork(_COLLECTIONS)
SOURCES.append(_read)
