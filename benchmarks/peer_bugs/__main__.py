"""Runs every scenario in a process of its own and prints who is right where."""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.peer_bugs import features
from benchmarks.peer_bugs.tables import LIBRARIES, OURS, PEERS, Row, Verdict, aligned, version

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "comparison.md"
SECONDS = 120

SCENARIOS = {
    "Circuit breaker": (
        "half_open_stampede",
        "cancelled_probe",
        "cancelled_calls",
        "keyboard_interrupt",
        "late_result",
        "lock_across_call",
        "stored_exception",
    ),
    "Whatever is guarded": (
        "async_unprotected",
        "async_in_disguise",
        "generator_unprotected",
        "error_replaced",
        "pickled_error",
        "wall_clock",
    ),
    "Retry": ("retry_cancellation", "shared_retry", "sleeps_past_deadline", "backoff_overflow"),
    "Timeout": (
        "lost_context",
        "shared_timeout",
        "own_timeout_error",
        "cancelling_left",
        "late_on_threads",
        "starved_timeouts",
        "permit_outlived",
    ),
    "Bulkhead, rate limiter": ("leaked_permits", "two_loops", "limiter_burst", "two_processes"),
}


def rows_of(scenario: str) -> list[Row]:
    command = [sys.executable, "-W", "ignore", "-m", f"benchmarks.peer_bugs.{scenario}", "--json"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)
    if ran.returncode:
        raise SystemExit(f"{scenario} did not run to its end:\n{ran.stderr}")
    return [Row(row["peer"], row["form"], row["happened"], Verdict(row["verdict"])) for row in json.loads(ran.stdout)]


def worst(rows: list[Row], library: str) -> str:
    verdicts = {row.verdict for row in rows if row.peer == library}
    return next((str(verdict) for verdict in reversed(Verdict) if verdict in verdicts), "")


def markdown(table: list[list[str]]) -> Iterator[str]:
    head, *lines = table
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for line in lines:
        yield f"| {' | '.join(line)} |"


def words(scenario: str) -> tuple[str, str, str]:
    """Its title, what the title means in short, and the rest, out of the docstring."""
    doc = importlib.import_module(f"benchmarks.peer_bugs.{scenario}").__doc__ or ""
    first, _, rest = doc.strip().partition("\n\n")
    title, _, short = " ".join(first.split()).partition(": ")
    return title, short, " ".join(rest.split())


def matrix(seen: dict[str, list[Row]], scenarios: tuple[str, ...]) -> list[list[str]]:
    """The scenarios of a group against the libraries that they are about."""
    there = [library for library in LIBRARIES if any(worst(seen[scenario], library) for scenario in scenarios)]
    table = [["", *there]]
    for scenario in scenarios:
        cells = [worst(seen[scenario], library) for library in there]
        title = words(scenario)[0]
        table.append([f"[{title}](#{anchor(title)})", *(emphasised(cell) for cell in cells)])
    return table


def emphasised(verdict: str) -> str:
    return f"**{verdict}**" if verdict == Verdict.WRONG else verdict


def overview(seen: dict[str, list[Row]]) -> Iterator[str]:
    yield f"On CPython {platform.python_version()}, with"
    yield ", ".join(f"{library} {version(library)}" for library in PEERS) + "."
    for group, scenarios in SCENARIOS.items():
        yield ""
        yield f"### {group}"
        yield ""
        yield from markdown(matrix(seen, scenarios))


def details(seen: dict[str, list[Row]]) -> Iterator[str]:
    for number, (scenario, rows) in enumerate(seen.items()):
        title, short, rest = words(scenario)
        if number:
            yield ""
        yield f"({anchor(title)})="
        yield f"### {title}"
        yield ""
        yield f"{short[0].upper()}{short[1:]} {rest}"
        yield ""
        yield f"`python -m benchmarks.peer_bugs.{scenario}`"
        yield ""
        table = [["library", "used as", "what happened", ""]]
        table += [[row.peer, row.form, row.happened, emphasised(row.verdict)] for row in rows]
        yield from markdown(table)


def offered() -> Iterator[str]:
    for number, (group, table) in enumerate(features.tables()):
        if number:
            yield ""
        yield f"### Offered: {group[0].lower()}{group[1:]}"
        yield ""
        yield from markdown(table)


def anchor(title: str) -> str:
    kept = "".join(letter for letter in title.lower() if letter.isalnum() or letter in " -")
    return "bug-" + kept.replace(" ", "-")


def between(text: str, name: str, lines: list[str]) -> str:
    begin, end = f"<!-- begin: {name} -->\n", f"<!-- end: {name} -->"
    head, found, rest = text.partition(begin)
    _, found_too, tail = rest.partition(end)
    if not found or not found_too:
        raise SystemExit(f"{PAGE} has no place for {name}: {begin.strip()} ... {end}")
    return f"{head}{begin}\n" + "\n".join(lines) + f"\n\n{end}{tail}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peer_bugs", description=__doc__)
    parser.add_argument("--document", action="store_true", help=f"rewrite the tables in {PAGE.relative_to(ROOT)}")
    parser.add_argument("--verbose", action="store_true", help="also what happened, not only the matrix")
    options = parser.parse_args()
    missing = [library for library in PEERS if version(library) is None]
    if missing:
        print(f"not installed: {', '.join(missing)}", file=sys.stderr)
        if options.document:
            raise SystemExit("the page is written with all libraries: pip install -e . --group peers")
    seen = {scenario: rows_of(scenario) for scenarios in SCENARIOS.values() for scenario in scenarios}
    for scenario, rows in seen.items():
        if options.verbose:
            print(f"\n{words(scenario)[0]}")
            print(*aligned([[row.peer, row.form, row.happened, row.verdict] for row in rows]), sep="\n")
    short = {Verdict.RIGHT: "right", Verdict.WRONG: "WRONG", Verdict.DOCUMENTED: "documented"}
    for group, scenarios in SCENARIOS.items():
        there = [library for library in LIBRARIES if any(worst(seen[scenario], library) for scenario in scenarios)]
        table = [[group, *there]]
        for scenario in scenarios:
            cells = [worst(seen[scenario], library) for library in there]
            table.append([scenario, *(short[Verdict(cell)] if cell else "" for cell in cells)])
        print()
        print(*aligned(table), sep="\n")
    if options.document:
        text = between(PAGE.read_text(), "features", list(offered()))
        text = between(text, "bugs", list(overview(seen)))
        PAGE.write_text(between(text, "bugs one by one", list(details(seen))))
        print(f"\nwritten to {PAGE.relative_to(ROOT)}")
    if any(worst(rows, OURS) == Verdict.WRONG for rows in seen.values()):
        raise SystemExit("ours is wrong; see above")


if __name__ == "__main__":
    main()
