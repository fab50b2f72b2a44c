"""Frames and reports made by hand."""

from __future__ import annotations

from dataclasses import replace

from resilient.core.clock import CLOCK
from resilient.demo.frame import Frame, News, Side
from resilient.demo.guards import Ask, guard
from resilient.demo.http import Answer
from resilient.demo.report import Report, SideReport
from resilient.demo.rows import Row, Snapshot
from resilient.demo.script import Pace, Script
from resilient.demo.users import MARKS, Bin, Tally
from resilient.registry import Registry

SCRIPT = Script(30.0, seed=7)
TALLY = Tally(answered=38, from_memory=4, default=2, failed=1, gave_up=3, wasted=4.5, p50=0.025, p99=1.25)


def side(**changes: object) -> Side:
    bins = tuple(Bin(20, 20) for _ in range(MARKS // 2)) + tuple(Bin() for _ in range(MARKS // 2))
    plain = Side(bins=bins, recent=TALLY, last_second=TALLY, waiting=5, busy=12)
    return replace(plain, **changes)  # type: ignore[arg-type]


def frame(elapsed: float = 15.0, **changes: object) -> Frame:
    plain = Frame(
        elapsed=elapsed,
        script=SCRIPT,
        stage=SCRIPT.at(elapsed),
        guarded=side(),
        unguarded=side(),
        breaker="half_open",
        failing=0.35,
        retries=112,
        rows=[Row(f"policy {number}", f"{number} calls") for number in range(11)]
        + [Row("circuit breaker", "open 0.8 s, 100 % fail", "bad")],
        news=[News(12.0, "circuit breaker opened: 12 failures in a row (ConnectionRefusedError)", "bad")],
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def snapshot() -> Snapshot:
    """What the registry tells of the demo's policies before the first call."""
    registry = Registry()
    guarded(fine, fine, registry)
    return registry.snapshot()


async def fine(item: int, user: int) -> Answer:
    return Answer(f"{item} in stock", CLOCK.now())


async def refused(item: int, user: int) -> Answer:
    raise ConnectionRefusedError


def guarded(primary: Ask, replica: Ask, registry: Registry) -> Ask:
    return guard(primary, replica, Pace.of(30.0), 7, registry)


def side_report(**changes: object) -> SideReport:
    bins = tuple(Bin(20, 20) for _ in range(MARKS))
    plain = SideReport(users=48, tally=TALLY, unfinished=0, attempts=60, in_vain=10, to_replica=0, bins=bins)
    return replace(plain, **changes)  # type: ignore[arg-type]


def report(**changes: object) -> Report:
    plain = Report(
        script=SCRIPT,
        pace=Pace.of(30.0),
        elapsed=30.0,
        interrupted=False,
        guarded=side_report(),
        unguarded=side_report(),
        snapshot=snapshot(),
        news=(News(12.0, "circuit breaker opened: 12 failures in a row", "bad"),),
        closed_after=0.7,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]
