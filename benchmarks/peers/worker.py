"""One of the fresh processes: all cases, one after the other, into a file."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pyperf

from benchmarks.peers import breakers, files, limiting, retries, scale, tracing
from benchmarks.peers.case import Bench, Case
from benchmarks.peers.measuring import Quiet, Rounds, measure

CASES: tuple[Case, ...] = (*breakers.CASES, *retries.CASES, *limiting.CASES, *tracing.CASES, *scale.CASES)

# Slices are shorter than the turn that a busy machine gives a process, so that most of them fit into one.
ROUNDS, FAST_ROUNDS = 61, 11
SLICE, FAST_SLICE = 0.0015, 0.001


def run(cases: Sequence[Case], output: Path, *, fast: bool) -> None:
    random = Random()
    # What changes how the others run comes last; the order of the rest is another one in each process.
    early = [case for case in cases if not case.last]
    random.shuffle(early)
    quiet = Quiet()
    quiet.warm_up()
    runs: dict[str, list[pyperf.Run]] = {}
    for case in [*early, *(case for case in cases if case.last)]:
        print(case.name, flush=True)
        if not case.last and "opentelemetry.trace" in sys.modules:
            raise SystemExit(f"OpenTelemetry has been imported before {case.name!r}, which is to run without")
        taken, disturbed = rounds_of(case, quiet, random, fast=fast)
        for candidate, values in taken.values.items():
            about: dict[str, float | str] = {"disturbed": disturbed, "candidate": candidate}
            runs[f"{case.name} {candidate}"] = [files.benchmark(case, candidate, values, about)]
    files.write(runs, output)


def rounds_of(case: Case, quiet: Quiet, random: Random, *, fast: bool) -> tuple[Rounds, float]:
    """The rounds, and which share of the slices somebody disturbed to the end."""
    rounds = case.rounds or ROUNDS
    seconds = case.slice_seconds or SLICE
    if fast:
        rounds = FAST_ROUNDS if case.rounds is None else min(case.rounds, max(3, case.rounds // 4))
        seconds = FAST_SLICE if case.slice_seconds is None else case.slice_seconds / 3
    with Bench(case) as timers:
        # What has been made so far is not gone through again by each collection of garbage.
        gc.collect()
        gc.freeze()
        try:
            if case.kind == "numbers":
                taken = Rounds()
                for name, number in timers.items():
                    for _ in range(rounds):
                        taken.add(name, number(1))
                return taken, 0.0
            before, disturbed = quiet.taken, quiet.disturbed
            taken = measure(
                timers, rounds=rounds, seconds=seconds, quiet=quiet, loops=case.fixed_loops, shuffle=random.shuffle
            )
            return taken, (quiet.disturbed - disturbed) / max(1, quiet.taken - before)
        finally:
            gc.unfreeze()
