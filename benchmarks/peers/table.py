"""Results for people: a table in the terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.peers.case import Case
from benchmarks.peers.results import Results, Row, all_rows


def shown_cost(value: float | None, unit: str) -> str:
    """Three digits, and a unit that fits."""
    if value is None:
        return ""
    if unit == "byte":
        return f"{value:,.0f} B"
    nanoseconds = value * 1e9
    if abs(nanoseconds) < 10_000:
        return f"{nanoseconds:,.0f} ns"
    if abs(nanoseconds) < 10_000_000:
        return f"{nanoseconds / 1e3:,.1f} µs"
    return f"{nanoseconds / 1e6:,.1f} ms"


def shown_value(row: Row) -> str:
    """What is held against the goal."""
    if row.goal is not None and row.goal.by == "difference":
        return "+" + shown_cost(row.value, row.case.unit) if row.value >= 0 else shown_cost(row.value, row.case.unit)
    return shown_cost(row.value, row.case.unit) if row.other is None else f"{row.value:.2f}"


def shown_goal(row: Row) -> str:
    if row.goal is None or row.limit is None:
        return ""
    if row.goal.by == "difference":
        return "≤ +" + shown_cost(row.limit, row.case.unit)
    return "≤ " + (shown_cost(row.limit, row.case.unit) if row.other is None else f"{row.limit:.2f}")


def verdict(row: Row) -> str:
    return {True: "met", False: "missed", None: ""}[row.met]


def table(results: Results, cases: Iterable[Case]) -> Table:
    made = Table(title=f"Overhead over the bare call, Python {results.python}", title_justify="left")
    made.add_column("case")
    made.add_column("ours", justify="right")
    made.add_column("against")
    made.add_column("theirs", justify="right")
    made.add_column("ratio", justify="right")
    made.add_column("goal", justify="right")
    made.add_column("")
    before: Case | None = None
    for row in all_rows(results, cases):
        first = row.case is not before
        if first and before is not None:
            made.add_section()
        before = row.case
        colour = {True: "green", False: "red", None: "dim"}[row.met]
        ours = shown_cost(row.cost, row.case.unit)
        if row.ours != "resilient":
            ours = f"{row.ours}: {ours}"
        made.add_row(
            row.case.title if first else "",
            ours,
            row.against,
            shown_cost(row.other, row.case.unit),
            shown_value(row),
            shown_goal(row),
            Text(verdict(row), style=colour),
            style="dim" if row.goal is None else "",
        )
    return made


def show(results: Results, cases: Iterable[Case], console: Console) -> None:
    cases = list(cases)
    if not console.is_terminal:
        # A file or a pipe has no width: lines are as long as they have to be, and are not coloured.
        console = Console(file=console.file, width=160, no_color=True, highlight=False)
    console.print(table(results, cases))
    rows = all_rows(results, cases)
    missed = [row for row in rows if row.met is False]
    met = sum(row.met is True for row in rows)
    console.print(f"{met} goals met, {len(missed)} missed. {results.disturbed:.0%} of the slices stayed disturbed.")
