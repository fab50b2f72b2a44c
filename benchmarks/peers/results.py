"""What comes of measured rounds: overheads, ratios, and whether the goals are met."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from benchmarks.peers.case import BARE, OURS, Case, Goal
from benchmarks.peers.measuring import best_overhead

Processes = dict[str, list[tuple[float, ...]]]
"""For each candidate the rounds of each process."""


@dataclass(frozen=True)
class Row:
    """Ours against one candidate, as overheads. `value` is what is held against `limit`: a ratio, or what it is of."""

    case: Case
    ours: str
    against: str
    cost: float
    other: float | None
    value: float
    goal: Goal | None
    limit: float | None

    @property
    def met(self) -> bool | None:
        """None where there is no goal."""
        return None if self.limit is None else self.value <= self.limit


@dataclass(frozen=True)
class Results:
    """All that one file holds."""

    cases: Mapping[str, Processes]
    python: str
    machine: str
    disturbed: float

    def overheads(self, case: Case) -> dict[str, float]:
        """By candidate, the lowest of all processes."""
        processes = self.cases.get(case.name, {})
        bare = processes.get(BARE)
        return {name: best_overhead(rounds, bare) for name, rounds in processes.items() if name != BARE}


def rows_of(case: Case, overheads: Mapping[str, float], python: str) -> list[Row]:
    """Goals first, then whoever else has the feature, the fastest first."""
    rows: list[Row] = []
    named: set[tuple[str, str]] = set()
    for goal in case.all_goals():
        rivals = [name for name in goal.against if name in overheads]
        if goal.ours not in overheads or (goal.against and not rivals):
            continue
        cost, limit = overheads[goal.ours], goal.limit(python)
        if not rivals:
            rows.append(Row(case, goal.ours, "", cost, None, cost, goal, limit))
            continue
        fastest = min(rivals, key=lambda name: overheads[name])
        named.add((goal.ours, fastest))
        other = overheads[fastest]
        value = cost - other if goal.by == "difference" else cost / other
        rows.append(Row(case, goal.ours, fastest, cost, other, value, goal, limit))
    if OURS in overheads:
        for name in sorted(overheads, key=lambda name: overheads[name]):
            if name != OURS and (OURS, name) not in named:
                cost, other = overheads[OURS], overheads[name]
                rows.append(Row(case, OURS, name, cost, other, cost / other, None, None))
    return rows


def all_rows(results: Results, cases: Iterable[Case]) -> list[Row]:
    return [row for case in cases for row in rows_of(case, results.overheads(case), results.python)]
