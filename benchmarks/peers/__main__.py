"""Measure what guarded calls cost here and in other libraries.

nox -s bench-3.11                                    # all of it, table, JSON, picture and page; some minutes
nox -s bench-3.11 -- --fast --only "breaker, sync"   # roughly, in seconds
python -m benchmarks.peers --from results.json       # the table of an earlier run
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.peers import files
from benchmarks.peers.case import Case
from benchmarks.peers.results import all_rows
from benchmarks.peers.table import show
from benchmarks.peers.worker import CASES, run

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "docs/images/benchmarks.svg"
PAGE = ROOT / "docs/performance.md"


def chosen(only: Sequence[str]) -> list[Case]:
    """Cases by name, or by a part of it."""
    if not only:
        return list(CASES)
    found = [case for case in CASES if any(part == case.name for part in only)]
    found = found or [case for case in CASES if any(part.lower() in case.name.lower() for part in only)]
    if not found:
        names = "\n  ".join(case.name for case in CASES)
        raise SystemExit(f"No case is called like {', '.join(only)}. There are:\n  {names}")
    return found


def measure(cases: Sequence[Case], output: Path, *, fast: bool, processes: int, console: Console) -> None:
    """One fresh process after the other; each says on its standard output which case it begins."""
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with tempfile.TemporaryDirectory() as folder, Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("starting", total=processes * len(cases))
        parts = [Path(folder) / f"{number}.json" for number in range(processes)]
        for number, part in enumerate(parts, 1):
            command = [sys.executable, "-m", "benchmarks.peers", "--worker", str(part), *(["--fast"] if fast else [])]
            for case in cases:
                command += ["--only", case.name]
            # String hashes decide how dicts and sets are laid out: let each process have its own.
            environment = {**os.environ, "PYTHONHASHSEED": str(number)}
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment) as process:
                assert process.stdout is not None
                for line in process.stdout:
                    description = f"process {number} of {processes}: {line.strip()}"
                    progress.update(bar, description=description)
                    if not console.is_terminal:
                        console.print(description, highlight=False)
                    progress.advance(bar)
            if process.returncode:
                raise SystemExit(process.returncode)
        files.merge(parts, output)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--fast", action="store_true", help="one process and few rounds: rough")
    add("--only", action="append", default=[], metavar="CASE", help="a case, or a part of its name; may be repeated")
    add("--list", action="store_true", help="the names of all cases")
    add("--processes", type=int, metavar="N", help="fresh processes, the best of which counts (default: 3)")
    add("--output", type=Path, metavar="JSON", help="keep every round, in the format of pyperf")
    add("--from", type=Path, dest="earlier", nargs="+", metavar="JSON", help="measure nothing; results of earlier runs")
    add("--picture", type=Path, nargs="?", const=PICTURE, metavar="SVG", help=f"draw them (default: {PICTURE.name})")
    add("--document", type=Path, nargs="?", const=PAGE, metavar="MD", help=f"write the table of {PAGE.name} anew")
    add("--strict", action="store_true", help="fail where a goal is missed")
    add("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.list:
        print("\n".join(case.name for case in CASES))
        return 0
    cases = chosen(options.only)
    if options.worker is not None:
        run(cases, options.worker, fast=options.fast)
        return 0
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory() as folder:
        paths: list[Path] = options.earlier or [options.output or Path(folder) / "results.json"]
        if not options.earlier:
            processes = options.processes or (1 if options.fast else 3)
            measure(cases, paths[0], fast=options.fast, processes=processes, console=Console(stderr=True))
        runs = [files.read(path) for path in paths]
    for one in runs:
        show(one, cases, console)
    if options.picture:
        from benchmarks.peers.picture import draw

        draw(runs, cases, options.picture)
    if options.document:
        from benchmarks.peers.document import document

        document(runs, cases, options.document)
    missed = any(row.met is False for one in runs for row in all_rows(one, cases))
    return 1 if options.strict and missed else 0


if __name__ == "__main__":
    sys.exit(main())
