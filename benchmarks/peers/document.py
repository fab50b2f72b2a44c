"""The tables of the page about performance, between two marks in its text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.peers.case import OURS, Case
from benchmarks.peers.results import Results, Row, all_rows
from benchmarks.peers.table import shown_cost, shown_goal, shown_value

BEGIN = "<!-- figures: begin; `python -m benchmarks.peers --document` writes what follows -->"
END = "<!-- figures: end -->"


def document(runs: Sequence[Results], cases: Sequence[Case], path: Path) -> None:
    """Write the tables anew; all else on the page stays."""
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{path} has no place for the tables: {BEGIN} ... {END}")
    path.write_text(f"{before}{BEGIN}\n\n{tables(runs, cases)}\n{END}{after}", encoding="utf-8")


def tables(runs: Sequence[Results], cases: Sequence[Case]) -> str:
    first = runs[0]
    lines = [
        f"Measured on {first.machine}; {first.disturbed:.0%} of the slices stayed disturbed.",
        "",
        *goals(runs, cases),
        "",
        f"Everybody else who has the feature, on Python {first.python}, and what ours costs of that:",
        "",
        *others(first, cases),
    ]
    return "\n".join(lines) + "\n"


def key(row: Row) -> tuple[str, str, str]:
    goal = row.goal
    return row.case.name, row.ours, "" if goal is None else " or ".join(goal.against)


def goals(runs: Sequence[Results], cases: Sequence[Case]) -> list[str]:
    """A line a goal, a column a version of Python."""
    columns = [{key(row): row for row in all_rows(run, cases) if row.goal is not None} for run in runs]
    order = list(dict.fromkeys(name for column in columns for name in column))
    lines = [
        "| case | against | goal | " + " | ".join(f"Python {run.python}" for run in runs) + " |",
        "|---|---|---|" + "---|" * len(runs),
    ]
    for name in order:
        found = [column.get(name) for column in columns]
        limits = list(dict.fromkeys(shown_goal(row) or "no goal" for row in found if row is not None))
        row = next(row for row in found if row is not None)
        title = row.case.title + ("" if row.ours == OURS else f": {row.ours}")
        cells = ["" if one is None else cell(one) for one in found]
        lines.append(f"| {title} | {name[2]} | {' / '.join(limits)} | {' | '.join(cells)} |")
    return lines


def cell(row: Row) -> str:
    """What is held against the goal, and where it comes from; in bold where the goal is missed."""
    value = shown_value(row)
    if row.met is False:
        value = f"**{value}**"
    if row.other is None:
        return value
    return f"{value} ({shown_cost(row.cost, row.case.unit)} : {shown_cost(row.other, row.case.unit)})"


def others(results: Results, cases: Iterable[Case]) -> list[str]:
    lines = ["| case | ours | others |", "|---|---|---|"]
    for case in cases:
        rows = [row for row in all_rows(results, [case]) if row.goal is None and row.ours == OURS]
        if rows:
            told = ", ".join(f"{row.against} {shown_cost(row.other, case.unit)} ({row.value:.2f})" for row in rows)
            lines.append(f"| {case.title} | {shown_cost(rows[0].cost, case.unit)} | {told} |")
    return lines
