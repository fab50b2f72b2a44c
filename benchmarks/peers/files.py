"""Measured rounds as a JSON file of pyperf.

It has every round of every process: `python -m pyperf stats`, `dump` and `metadata` read it, and whoever doubts a ratio
can compute it anew. Benchmarks are called "case | candidate"; a value is seconds (or bytes) a call, the bare call's own
time included.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyperf

from benchmarks.peers.case import Case
from benchmarks.peers.results import Processes, Results

BETWEEN = " | "
SMALLEST = 1e-12


def benchmark(case: Case, candidate: str, values: Sequence[float], metadata: Mapping[str, float | str]) -> pyperf.Run:
    """One process of one candidate."""
    about = {"name": case.name + BETWEEN + candidate, "unit": case.unit, **metadata}
    # Runs of pyperf hold nothing below or at 0; picoseconds are noise.
    return pyperf.Run([max(SMALLEST, round(value, 12)) for value in values], metadata=about, collect_metadata=True)


def write(runs: Mapping[str, list[pyperf.Run]], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    suite = pyperf.BenchmarkSuite([pyperf.Benchmark(of_one) for of_one in runs.values()])
    suite.dump(str(path), replace=True)


def merge(parts: Iterable[Path], path: Path) -> None:
    """The files of several processes as one."""
    first, *others = [pyperf.BenchmarkSuite.load(str(part)) for part in parts]
    for other in others:
        first.add_runs(other)
    path.parent.mkdir(parents=True, exist_ok=True)
    first.dump(str(path), replace=True)


def read(path: Path) -> Results:
    suite = pyperf.BenchmarkSuite.load(str(path))
    cases: dict[str, Processes] = {}
    shares: list[float] = []
    for one in suite.get_benchmarks():
        case, _, candidate = one.get_name().partition(BETWEEN)
        runs = one.get_runs()
        cases.setdefault(case, {})[candidate] = [run.values for run in runs]
        shares += [float(run.get_metadata().get("disturbed", 0.0)) for run in runs]
    metadata = suite.get_metadata()
    python = str(metadata.get("python_version", platform.python_version())).split()[0]
    model = str(metadata.get("cpu_model_name", metadata.get("platform", "unknown processor")))
    return Results(cases, ".".join(python.split(".")[:2]), model, sum(shares) / len(shares) if shares else 0.0)
