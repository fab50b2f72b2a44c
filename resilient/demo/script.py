"""What happens to the upstream, and when: the script of the outage, and the lot of every single request."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Final, Literal

Reach = Literal["open", "refused", "hanging"]

CALLS_PER_SECOND: Final = 40
WORKERS: Final = 12
ITEMS: Final = 100
ATTEMPT_TIMEOUT: Final = 0.25
RETRY_AFTER: Final = 1


@dataclass(frozen=True, slots=True)
class Health:
    """How a server behaves: shares are of all requests, `distance` is added to each answer, in seconds."""

    reach: Reach = "open"
    slow_share: float = 0.0
    failing_share: float = 0.0
    distance: float = 0.0

    @property
    def dead(self) -> bool:
        """Is every call in vain?"""
        return self.reach != "open"


@dataclass(frozen=True, slots=True)
class Stage:
    """One part of the run, from `start` to `end` in seconds."""

    name: str
    meaning: str
    health: Health
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Lot:
    """What one request gets: an answer after `latency` seconds, with a status."""

    status: int
    latency: float
    retry_after: int | None = None


@dataclass(frozen=True, slots=True)
class Pace:
    """The durations of a run. They shrink with it, as far as a busy machine allows."""

    seconds: float
    total_timeout: float
    patience: float
    plain_timeout: float
    open_duration: float
    memory: float
    window: float

    @classmethod
    def of(cls, seconds: float) -> Pace:
        scale = min(1.0, seconds / 30.0)
        return cls(
            seconds=seconds,
            total_timeout=max(1.2, round(2.0 * scale, 1)),
            patience=max(1.3, round(3.0 * scale, 1)),
            plain_timeout=max(1.5, round(5.0 * scale, 1)),
            open_duration=max(0.12, scale),
            memory=max(3.0, round(10.0 * scale, 1)),
            window=max(0.6, round(3.0 * scale, 1)),
        )


Act = tuple[str, str, Health, float]

OUTAGE: Final[tuple[Act, ...]] = (
    ("healthy", "answers within 60 ms", Health(), 0.135),
    ("slow", "a third of the answers take 1.5 to 3 s", Health(slow_share=0.35), 0.245),
    ("failing", "two of five answers are 503", Health(failing_share=0.4), 0.23),
    ("down", "refuses connections", Health(reach="refused"), 0.085),
    ("hung", "accepts connections, never answers", Health(reach="hanging"), 0.085),
    ("recovered", "answers within 60 ms again", Health(), 0.22),
)

REPLICA: Final[tuple[Act, ...]] = (("healthy", "answers within 110 ms", Health(distance=0.05), 1.0),)


class Script:
    """The stages of a run of so many seconds; `acts` are their names, meanings, health and shares of the run."""

    def __init__(self, seconds: float, seed: int, acts: tuple[Act, ...] = OUTAGE) -> None:
        self.seconds = seconds
        self.seed = seed
        self.stages = tuple(_stages(seconds, acts))

    def at(self, elapsed: float) -> Stage:
        """The stage at this instant; the last one goes on."""
        for stage in self.stages:
            if elapsed < stage.end:
                return stage
        return self.stages[-1]

    def arrivals(self) -> Iterator[float]:
        """When users come, in seconds from the start; the same for every client."""
        random = Random(f"{self.seed} arrivals")
        at = 0.0
        while (at := at + random.uniform(0.4, 1.6) / CALLS_PER_SECOND) < self.seconds:
            yield at

    def item(self, number: int) -> int:
        """What user `number` asks for; some items are asked for far more often than others."""
        return int(ITEMS * Random(f"{self.seed} item {number}").random() ** 2)

    def lot(self, health: Health, number: int, visit: int) -> Lot:
        """What request `number` gets at its nth visit: the same whichever client sends it."""
        random = Random(f"{self.seed} lot {number} {visit}")
        latency = random.uniform(0.01, 0.06) + health.distance
        chance, slowness, asks_to_wait = random.random(), random.uniform(1.5, 3.0), random.random() < 0.15
        if chance < health.failing_share:
            return Lot(503, latency, RETRY_AFTER if asks_to_wait else None)
        return Lot(200, slowness if chance < health.slow_share else latency)

    def recovery(self) -> float:
        """When the upstream is back for good."""
        return self.stages[-1].start


def _stages(seconds: float, acts: tuple[Act, ...]) -> Iterator[Stage]:
    start = share_so_far = 0.0
    for name, meaning, health, share in acts:
        share_so_far += share
        end = seconds * share_so_far
        yield Stage(name, meaning, health, start, end)
        start = end
