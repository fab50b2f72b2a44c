"""One moment of the run, as plain values: all that a view may show."""

from __future__ import annotations

from dataclasses import dataclass

from resilient.core.events import Event
from resilient.demo.rows import Row, Tone
from resilient.demo.script import Script, Stage
from resilient.demo.users import Bin, Tally


@dataclass(frozen=True, slots=True)
class Side:
    """One client: its users so far, those of the last seconds, and those of the last second."""

    bins: tuple[Bin, ...]
    recent: Tally
    last_second: Tally
    waiting: int
    busy: int


@dataclass(frozen=True, slots=True)
class News:
    """Something to tell, at so many seconds from the start. What is minor is left out where there is little room."""

    at: float
    text: str
    tone: Tone = "calm"
    minor: bool = False


@dataclass(frozen=True, slots=True)
class Frame:
    """Everything at one instant. `retries` is a total of the guarded client's."""

    elapsed: float
    script: Script
    stage: Stage
    guarded: Side
    unguarded: Side
    breaker: str
    failing: float | None
    retries: int
    rows: list[Row]
    news: list[News]


def news_of(event: Event, started: float) -> News:
    """What a change of the circuit breaker's state is in words."""
    after = str(event.data["to"])
    at = event.at - started
    if after == "open":
        cause = f" ({event.data['last_error']})" if event.data["last_error"] else ""
        return News(at, f"circuit breaker opened: {event.data['reason']}{cause}", "bad")
    if after == "half_open":
        return News(at, "circuit breaker half-open: the next calls are probes", "warn", minor=True)
    return News(at, f"circuit breaker {after.replace('_', '-')}: {event.data['reason']}", "good")


def news_of_stage(stage: Stage) -> News:
    return News(stage.start, f"upstream {stage.name}: {stage.meaning}", tone_of(stage))


def tone_of(stage: Stage) -> Tone:
    if stage.health.dead:
        return "bad"
    return "warn" if stage.health.slow_share or stage.health.failing_share else "good"
