"""Ready-made signals for `Degradation.signal(name, read)`: each gives a number from 0 (all is well) to 1."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from resilient.core.checks import Checker, Seconds, refuse
from resilient.core.circuit_plan import CircuitState
from resilient.policies.bulkhead import Bulkhead
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.registry import Registry
from resilient.registry import registry as default_registry
from resilient.telemetry.loop_lag import LoopWatch, Token, loop_of

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable, Iterator

__all__ = ["EventLoopLag", "Memory", "bulkhead_fill", "event_loop_lag", "memory", "open_breakers"]

_OPEN: Final = (CircuitState.OPEN, CircuitState.FORCED_OPEN)


def open_breakers(*breakers: CircuitBreaker, registry: Registry = default_registry) -> Callable[[], float]:
    """The share of circuit breakers that are open: of these, or of all in the registry at the time.

    One whose break is over does not count: it waits for a call to try, which may never come while features are off.

    Raises:
        ConfigurationError: one of them is no circuit breaker.

    Example:
        >>> from resilient import circuit_breaker
        >>> from resilient.degradation.signals import open_breakers
        >>> read = open_breakers(circuit_breaker("payments"), circuit_breaker("orders"))
        >>> circuit_breaker("orders").trip()
        >>> read()
        0.5
    """
    Checker("open_breakers").instance("registry", registry, Registry)
    _check_all("open_breakers", breakers, CircuitBreaker)

    def read() -> float:
        every = breakers or registry.all(CircuitBreaker)
        return sum(map(_is_open, every)) / len(every) if every else 0.0

    return read


def _is_open(breaker: CircuitBreaker) -> bool:
    return breaker.state in _OPEN and breaker.snapshot()["retry_after"] != 0


def bulkhead_fill(*bulkheads: Bulkhead, registry: Registry = default_registry) -> Callable[[], float]:
    """How full the fullest bulkhead is, its queue included: of these, or of all in the registry at the time.

    Raises:
        ConfigurationError: one of them is no bulkhead.
    """
    Checker("bulkhead_fill").instance("registry", registry, Registry)
    _check_all("bulkhead_fill", bulkheads, Bulkhead)

    def read() -> float:
        fullest = 0.0
        for bulkhead in bulkheads or registry.all(Bulkhead):
            usage = bulkhead.usage()
            room = usage.limit + usage.max_queue
            if room:
                fullest = max(fullest, (usage.in_flight + usage.queued) / room)
        return fullest

    return read


def _check_all(what: str, policies: tuple[object, ...], kind: type) -> None:
    for policy in policies:
        if not isinstance(policy, kind):
            refuse(what, "policies", policy, f"policies of the kind {kind.__name__}")


class EventLoopLag:
    """How late an event loop is, as a share of `limit`; made by `event_loop_lag(...)`."""

    def __init__(self, watch: LoopWatch, limit: float) -> None:
        self._watch = watch
        self._limit = limit

    def __call__(self) -> float:
        if self._watch.over:
            raise RuntimeError("the event loop is over")
        return (self._watch.lag() or 0.0) / self._limit

    def stop(self) -> None:
        """End the thread; the signal is ignored from then on."""
        self._watch.stop()


def event_loop_lag(
    event_loop: AbstractEventLoop | Token | None = None, *, limit: Seconds = 0.5, interval: Seconds = 0.25
) -> EventLoopLag:
    """How late an event loop is: 1 where callbacks wait `limit` seconds. A loop that is blocked now is seen, too.

    A daemon thread asks the loop, as long as that is there.

    Args:
        event_loop: a loop of asyncio, or the token of a trio run. Default: what runs here.
        limit: seconds of lag that count as 1.
        interval: seconds between two questions to the loop.

    Raises:
        ConfigurationError: a setting is wrong, or no loop runs here and none is given.
    """
    check = Checker("event_loop_lag")
    most, every = check.seconds("limit", limit), check.seconds("interval", interval)
    loop = loop_of(event_loop)
    if loop is None:
        refuse(check.policy, "event_loop", event_loop, "an event loop of asyncio, a token of trio, or None inside one")
    watch = LoopWatch(loop.name, loop, every)
    watch.start()
    return EventLoopLag(watch, most)


class Memory:
    """How much of the memory that the process may use is in use; made by `memory(...)`."""

    def __init__(self, limit: int | None, root: Path = Path("/")) -> None:
        self._limit = limit
        self._root = root
        self._groups = [] if limit is not None else list(_groups(root))

    def __call__(self) -> float:
        if self._limit is not None:
            return _resident(self._root) / self._limit
        shares = [share for group in self._groups if (share := group.share()) is not None]
        return max([*shares, _share_of_machine(self._root)])


def memory(limit: int | None = None) -> Memory:
    """How much of the memory is in use that the process may use. Linux only: elsewhere the signal is ignored.

    Args:
        limit: bytes; the process's resident memory is compared with it. Default: the limits of the control groups
            around the process, as containers have them (versions 1 and 2), and the memory of the machine; of these the
            one that is nearest. Caches that the system can drop at once don't count.

    Raises:
        ConfigurationError: `limit` is no whole number of at least 1.
    """
    Checker("memory").optional_whole("limit", limit)
    return Memory(limit)


class _Group:
    """A control group that may have a limit; the files are read each time, because limits can be moved."""

    def __init__(self, limit: Path, usage: Path, stat: Path, cache: bytes) -> None:
        self._limit = limit
        self._usage = usage
        self._stat = stat
        self._cache = cache

    def exists(self) -> bool:
        return self._limit.is_file() and self._usage.is_file()

    def share(self) -> float | None:
        """None where there is no limit. Version 1 then has one beyond all memory, and the share is next to none."""
        limit = self._limit.read_bytes().strip()
        if limit in (b"max", b"0"):
            return None
        return max(0, int(self._usage.read_bytes()) - self._droppable()) / int(limit)

    def _droppable(self) -> int:
        try:
            for line in self._stat.read_bytes().splitlines():
                key, _, value = line.partition(b" ")
                if key == self._cache:
                    return int(value)
        except OSError:
            pass
        return 0


def _groups(root: Path) -> Iterator[_Group]:
    """Those around this process, from its own outwards. In a container its own may be shown as the outermost."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    mounted = root / "sys/fs/cgroup"
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            base, names = mounted, ("memory.max", "memory.current", b"inactive_file")
        elif "memory" in controllers.split(","):
            base = mounted / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", b"total_inactive_file")
        else:
            continue
        inside = Path(path.lstrip("/"))
        for folder in (inside, *inside.parents):
            place = base / folder
            group = _Group(place / names[0], place / names[1], place / "memory.stat", names[2])
            if group.exists():
                yield group


def _share_of_machine(root: Path) -> float:
    values = {}
    for line in (root / "proc/meminfo").read_bytes().splitlines():
        key, _, value = line.partition(b":")
        if key in (b"MemTotal", b"MemAvailable"):
            values[key] = int(value.split()[0])
    return 1 - values[b"MemAvailable"] / values[b"MemTotal"]


def _resident(root: Path) -> int:
    return int((root / "proc/self/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
