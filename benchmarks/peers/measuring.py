"""How overheads are measured on a machine that does other things as well.

A *round* times every candidate once, in a shuffled order, so that whatever changes slowly changes for all of them. Each
*slice* (many calls of one candidate) stands between two *spins*: a fixed piece of work that takes longer only where
somebody else has the processor. A slice with a slow spin beside it, or in which the process was taken off its
processor, is measured again, a few times at most.

The overhead of a candidate is the median over rounds of its time minus that of the bare call in the same round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from resource import RUSAGE_SELF, getrusage
from statistics import median
from time import perf_counter

Timer = Callable[[int], float]
"""Seconds for so many calls."""

SPIN_LOOPS = 4_000
TOLERATED = 1.12
"""A spin may take so much longer than the fastest one seen."""
REPEATS = 4
PATIENCE = 1.0
"""So many repetitions a slice, on average: on a machine that is never quiet more would only take longer."""


def spin() -> float:
    """Seconds for a fixed piece of work."""
    turns = range(SPIN_LOOPS)
    total = 0
    started = perf_counter()
    for turn in turns:
        total += turn
    return perf_counter() - started


def lost() -> tuple[int, float]:
    """How often the process had to leave its processor, and the seconds of wall clock that it has not computed."""
    usage = getrusage(RUSAGE_SELF)
    return usage.ru_nivcsw, perf_counter() - usage.ru_utime - usage.ru_stime


@dataclass
class Quiet:
    """Tells whether the processor was ours. `taken` counts slices, `disturbed` those that stayed so."""

    spin: Callable[[], float] = spin
    lost: Callable[[], tuple[int, float]] = lost
    fastest: float = float("inf")
    taken: int = 0
    disturbed: int = 0
    repeated: int = 0

    def warm_up(self, spins: int = 500) -> None:
        for _ in range(spins):
            self.look()

    def look(self) -> float:
        taken = self.spin()
        self.fastest = min(self.fastest, taken)
        return taken

    def slices(self, timers: Sequence[tuple[str, Timer, int]]) -> Iterator[tuple[str, float]]:
        """Seconds a call of each timer in turn; of a slice taken several times, that of the quietest try."""
        before = self.look()
        for name, timer, loops in timers:
            best = quietest = float("inf")
            for _ in range(REPEATS + 1):
                switches, idle = self.lost()
                seconds = timer(loops)
                switches_after, idle_after = self.lost()
                after = self.look()
                noise = max(before, after) / self.fastest
                if switches_after > switches and seconds > 0:
                    noise += max(0.0, idle_after - idle) / seconds
                before = after
                if noise < quietest:
                    best, quietest = seconds / loops, noise
                if quietest <= TOLERATED or self.repeated >= self.taken * PATIENCE + REPEATS:
                    break
                self.repeated += 1
            self.taken += 1
            self.disturbed += quietest > TOLERATED
            yield name, best


def calibrate(timer: Timer, seconds: float, most: int = 1 << 24) -> int:
    """So many calls take about so long. Runs them, so that what is made on first use is there afterwards."""
    loops = 1
    while True:
        # The best of three: one that was interrupted would make all slices too short.
        taken = min(timer(loops) for _ in range(3))
        if taken >= seconds / 4 or loops >= most:
            break
        loops *= 2
    return max(1, min(most, round(loops * seconds / taken) if taken else loops))


@dataclass
class Rounds:
    """Seconds a call by candidate; values at the same place are of the same round."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, seconds: float) -> None:
        self.values.setdefault(name, []).append(seconds)


def measure(
    timers: Mapping[str, Timer],
    *,
    rounds: int,
    seconds: float,
    quiet: Quiet,
    loops: int | None = None,
    shuffle: Callable[[list[tuple[str, Timer, int]]], None] | None = None,
) -> Rounds:
    """Rounds of slices that take about `seconds` each, or are so many `loops`."""
    prepared = [(name, timer, loops or calibrate(timer, seconds)) for name, timer in timers.items()]
    mix = shuffle or Random().shuffle
    taken = Rounds()
    for _ in range(rounds):
        mix(prepared)
        for name, cost in quiet.slices(prepared):
            taken.add(name, cost)
    return taken


def overhead(candidate: Sequence[float], bare: Sequence[float] | None) -> float:
    """The median of paired rounds; without a bare call, of the candidate's own time."""
    if bare is None:
        return median(candidate)
    return median(one - other for one, other in zip(candidate, bare, strict=True))


def best_overhead(candidate: Sequence[Sequence[float]], bare: Sequence[Sequence[float]] | None) -> float:
    """The lowest of several processes, each with rounds of its own."""
    if bare is None:
        return min(overhead(rounds, None) for rounds in candidate)
    return min(overhead(rounds, others) for rounds, others in zip(candidate, bare, strict=True))
