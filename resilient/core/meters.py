"""Counters and histograms: plain slots that the hot path bumps and exporters read.

With the GIL `meter.calls += 1` loses nothing as long as no call stands inside the statement, because threads change
over only at calls and at backward jumps. Without the GIL each counter is a `LockedNumber`, which the same statement
adds to under a lock; which of the two it is, is decided once, when a meter is made.
"""

from __future__ import annotations

from _thread import allocate_lock
from bisect import bisect_left
from collections.abc import Mapping
from typing import Final, NamedTuple, cast

from resilient.core.fork import new_rlock, renew_after_fork
from resilient.core.gil import GIL
from resilient.errors import RejectedError, TimeoutExceededError

DURATION_BOUNDS: Final = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.075,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
)
MAX_ERROR_TYPES: Final = 20
OTHER: Final = "_OTHER"
_FALLBACK: Final = ("fallback", None)


class _Durations:
    """The bounds of histograms of durations, which are to be the same in all of a process."""

    __slots__ = ("bounds", "in_use")

    def __init__(self) -> None:
        self.bounds: tuple[float, ...] = DURATION_BOUNDS
        self.in_use = False


DURATIONS: Final = _Durations()


class LockedNumber:
    """A number for `+=` and `-=` from threads that run at the same time."""

    __slots__ = ("_lock", "_value")

    def __init__(self) -> None:
        self._value: float = 0
        self._lock = allocate_lock()

    def __iadd__(self, other: float) -> LockedNumber:
        with self._lock:
            self._value += other
        return self

    def __isub__(self, other: float) -> LockedNumber:
        with self._lock:
            self._value -= other
        return self

    def __add__(self, other: float) -> float:
        return self._value + other

    __radd__ = __add__

    def __sub__(self, other: float) -> float:
        return self._value - other

    def __int__(self) -> int:
        return int(self._value)

    def __float__(self) -> float:
        return float(self._value)


def number() -> int:
    """A counter at zero, safe to bump on this build of Python."""
    return 0 if GIL else cast("int", LockedNumber())


class Exemplar(NamedTuple):
    """One measurement that a sampled span saw. `at` is the wall clock in nanoseconds."""

    value: float
    trace_id: int
    span_id: int
    at: int


class Histogram:
    """How often values fell into each bucket, and their sum. Bounds are inclusive upper limits.

    `exemplars` is empty, or has the newest of each bucket.
    """

    __slots__ = ("bounds", "counts", "exemplars", "sum")

    def __init__(self, bounds: tuple[float, ...] | None = None) -> None:
        if bounds is None:
            DURATIONS.in_use = True
            bounds = DURATIONS.bounds
        self.bounds = bounds
        size = len(bounds) + 1
        self.counts: list[int] = [0] * size if GIL else [number() for _ in range(size)]
        self.sum: float = number()
        self.exemplars: list[Exemplar | None] = []

    def observe(self, value: float) -> None:
        bucket = bisect_left(self.bounds, value)
        self.counts[bucket] += 1
        self.sum += value

    def exemplify(self, exemplar: Exemplar) -> None:
        """Keep this measurement as the example of its bucket."""
        if not self.exemplars:
            self.exemplars = [None] * len(self.counts)
        self.exemplars[bisect_left(self.bounds, exemplar.value)] = exemplar

    @property
    def count(self) -> int:
        return sum(self.counts) if GIL else sum(int(count) for count in self.counts)

    def quantile(self, share: float) -> float | None:
        """The upper bound of the bucket that holds this share of the values; None where there are none."""
        counts = [int(count) for count in self.counts]
        rank = share * sum(counts)
        seen = 0
        for bound, count in zip((*self.bounds, float("inf")), counts, strict=True):
            seen += count
            if count and seen >= rank:
                return bound
        return None


def error_type(error: BaseException) -> str:
    """The value of `error.type`: the qualified class name, bare for builtins."""
    cls = type(error)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def outcome_of(error: BaseException) -> str:
    if isinstance(error, TimeoutExceededError):
        return "timeout"
    if isinstance(error, RejectedError):
        return "rejected"
    return "failure" if isinstance(error, Exception) else "cancelled"


class Meter:
    """Base of all meters: counters and histograms in slots, which begin at zero in the child of a fork."""

    __slots__ = ()

    def after_fork(self, now: float) -> None:
        for cls in type(self).__mro__:
            for slot in cls.__dict__.get("__slots__", ()):
                value = getattr(self, slot, None)
                if isinstance(value, dict):
                    for key, counted in value.items():
                        value[key] = _at_zero(counted)
                elif isinstance(value, (int, float, LockedNumber, Histogram)):
                    setattr(self, slot, _at_zero(value))


def _at_zero(value: Histogram | LockedNumber | float) -> Histogram | float:
    if not isinstance(value, Histogram):
        return number()
    # In place: guarded functions hold it, and its buckets.
    value.counts[:] = [number() for _ in value.counts]
    value.sum = number()
    value.exemplars = []
    return value


class CallMeter(Meter):
    """`resilience.call.*` of one pipeline: what its callers saw."""

    __slots__ = ("__weakref__", "_lock", "_of_class", "_raised", "_served", "started", "success")

    def __init__(self) -> None:
        renew_after_fork(self)
        self.started = number()
        self.success = Histogram()
        self._raised: dict[tuple[str, str | None], Histogram] = {}
        self._served: dict[tuple[str, str | None], Histogram] = {}
        # The same histograms, by what was raised: a look at the class is all that most errors need.
        self._of_class: dict[type[BaseException], Histogram] = {}
        self._lock = new_rlock()

    @property
    def active(self) -> int:
        """Calls under way."""
        return max(0, int(self.started) - sum(histogram.count for histogram in self.durations().values()))

    def expect_fallback(self) -> Histogram:
        """The histogram of calls that a fallback served; only pipelines that have one have this series."""
        return self._served.get(_FALLBACK) or self._served.setdefault(_FALLBACK, Histogram())

    def raised(self, error: BaseException, elapsed: float) -> Histogram:
        """Count a call that raised; gives the histogram that it went into."""
        histogram = self._of_class.get(type(error)) or self._histogram_of(error)
        histogram.observe(elapsed)
        return histogram

    def _histogram_of(self, error: BaseException) -> Histogram:
        outcome = outcome_of(error)
        key = outcome, None if outcome == "cancelled" else error_type(error)
        histogram = self._raised.get(key)
        if histogram is None:
            with self._lock:
                types = {kind for _, kind in self._raised if kind is not None and kind != OTHER}
                if key[1] is not None and key[1] not in types and len(types) >= MAX_ERROR_TYPES:
                    key = outcome, OTHER
                histogram = self._raised.setdefault(key, Histogram())
        # A program may make a class anew for each error, which must not be kept.
        if key[1] != OTHER and len(self._of_class) < 2 * MAX_ERROR_TYPES:
            self._of_class[type(error)] = histogram
        return histogram

    def durations(self) -> Mapping[tuple[str, str | None], Histogram]:
        """Histograms by outcome and `error.type`."""
        return {("success", None): self.success, **self._served, **self._raised}

    def snapshot(self) -> dict[str, object]:
        durations = self.durations()
        calls: dict[str, int] = dict.fromkeys(("success", "failure", "timeout", "rejected", "fallback", "cancelled"), 0)
        errors: dict[str, int] = {}
        for (outcome, kind), histogram in durations.items():
            count = histogram.count
            calls[outcome] += count
            if kind is not None:
                errors[kind] = errors.get(kind, 0) + count
        seconds = sum(float(histogram.sum) for histogram in durations.values())
        active = max(0, int(self.started) - sum(calls.values()))
        return {"calls": calls, "errors": errors, "active": active, "seconds": seconds}


class RetryMeter(Meter):
    """`resilience.retry.*` of one policy. Attempts follow from calls, so that a first try bumps one slot."""

    __slots__ = (
        "budget",
        "deadline",
        "exhausted",
        "first_try",
        "late",
        "not_retryable",
        "recovered",
        "retries",
        "waited",
    )

    def __init__(self) -> None:
        self.first_try = number()
        self.recovered = number()
        self.not_retryable = number()
        self.exhausted = number()
        self.budget = number()
        self.deadline = number()
        # Ended by the deadline as well, but only after a wait for an attempt that counts among the retries.
        self.late = number()
        self.retries = number()
        self.waited: float = number()

    def succeeded(self, attempts: int) -> None:
        if attempts == 1:
            self.first_try += 1
        else:
            self.recovered += 1

    def gave_up(self, result: str, *, late: bool) -> None:
        """Count a call under its `resilience.retry.result`; `late`: the deadline passed during a wait."""
        if late:
            self.late += 1
        elif result == "not_retryable":
            self.not_retryable += 1
        elif result == "budget":
            self.budget += 1
        elif result == "deadline":
            self.deadline += 1
        else:
            self.exhausted += 1

    def calls(self) -> dict[str, int]:
        """Calls by `resilience.retry.result`."""
        return {
            "first_try": int(self.first_try),
            "recovered": int(self.recovered),
            "not_retryable": int(self.not_retryable),
            "exhausted": int(self.exhausted),
            "budget": int(self.budget),
            "deadline": int(self.deadline) + int(self.late),
        }

    def attempts(self) -> dict[str, int]:
        """Attempts by `resilience.attempt.result`."""
        calls = self.calls()
        return {
            "success": calls["first_try"] + calls["recovered"],
            "retryable_failure": int(self.retries) + calls["exhausted"] + calls["budget"] + int(self.deadline),
            "failure": calls["not_retryable"],
        }


class CircuitBreakerMeter(Meter):
    """`resilience.circuit_breaker.calls` of one policy; a slow call that succeeds counts as slow only."""

    __slots__ = ("failure", "ignored", "rejected", "slow", "success")

    def __init__(self) -> None:
        self.success = number()
        self.failure = number()
        self.slow = number()
        self.ignored = number()
        self.rejected = number()

    def calls(self) -> dict[str, int]:
        """Calls by `resilience.circuit_breaker.result`."""
        return {
            "success": int(self.success),
            "failure": int(self.failure),
            "slow": int(self.slow),
            "ignored": int(self.ignored),
            "rejected": int(self.rejected),
        }


class TimeoutMeter(Meter):
    """`resilience.timeout.*` of one policy."""

    __slots__ = ("completed", "orphaned", "timed_out")

    def __init__(self) -> None:
        self.completed = number()
        self.timed_out = number()
        self.orphaned = number()

    def calls(self) -> dict[str, int]:
        """Calls by `resilience.timeout.result`."""
        return {"completed": int(self.completed), "timed_out": int(self.timed_out)}


class BulkheadMeter(Meter):
    """`resilience.bulkhead.*` of one policy. A call that is cancelled in the queue counts in none of them."""

    __slots__ = ("accepted", "queue", "queue_timeout", "queued", "rejected")

    def __init__(self) -> None:
        self.accepted = number()
        self.queued = number()
        self.rejected = number()
        self.queue_timeout = number()
        self.queue = Histogram()

    def calls(self) -> dict[str, int]:
        """Calls by `resilience.bulkhead.result`; "queued" are those that waited and got in."""
        return {
            "accepted": int(self.accepted),
            "queued": int(self.queued),
            "rejected": int(self.rejected),
            "queue_timeout": int(self.queue_timeout),
        }
