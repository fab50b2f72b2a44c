"""Change the code in small ways, one at a time, and see whether the tests notice.

    nox -s mutation -- --sample 400 --seed 1                    # a random sample, spread over all files
    nox -s mutation -- --all --module core/circuit.py           # every mutant of one file

What was killed stays killed while its module is as it is: a second run with the same --work goes on from there, and
tries again what survived. Exits with 1 below --fail-under.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path

from tools.mutation.mutants import Mutant, change, equivalents, find, key_of
from tools.mutation.suite import ROOT, Suite

LEAST = 4
"""So many mutants of each file at least, in a sample."""


@dataclass
class Verdict:
    mutant: Mutant
    outcome: str
    by: str
    diff: str


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    suite = Suite(options.work)
    modules = options.module or sorted(
        path.relative_to(ROOT / "resilient").as_posix()
        for folder in ("core", "policies")
        for path in (ROOT / "resilient" / folder).glob("*.py")
    )
    found = {module: find(module, suite.source(module)) for module in modules}
    total = sum(map(len, found.values()))
    chosen = [mutant for mutants in found.values() for mutant in mutants]
    what = f"all {total} mutants"
    if not options.all:
        chosen = sample(found, options.sample, options.seed)
        what = f"a random sample of {len(chosen)} of {total} mutants, seed {options.seed}"
    print(f"{what}, of {len(modules)} files", flush=True)
    print(f"the tests pass on the code as it is, measured in {suite.measure():.0f} s", flush=True)
    verdicts = judge(suite, chosen, options.work / "verdicts.jsonl", time.perf_counter() + options.minutes * 60)
    if len(verdicts) < len(chosen):
        what += f"; time was up after {len(verdicts)}"
    score = report(verdicts, found, what)
    return 0 if score >= options.fail_under else 1


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.mutation", description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, default=200, metavar="N", help="so many mutants, drawn at random (200)")
    parser.add_argument("--seed", type=int, default=1, help="which sample (1)")
    parser.add_argument("--all", action="store_true", help="every mutant; takes hours")
    parser.add_argument("--module", action="append", metavar="core/circuit.py", help="only this file; may be repeated")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no mutant after so many minutes")
    parser.add_argument("--work", type=Path, required=True, help="folder for the copy of the tree and the verdicts")
    parser.add_argument("--fail-under", type=float, default=90.0, metavar="PERCENT", help="the score to reach (90)")
    options = parser.parse_args(arguments)
    options.work = options.work.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    return options


def sample(found: dict[str, list[Mutant]], size: int, seed: int) -> list[Mutant]:
    """As many of each file as its share of all mutants, but at least LEAST."""
    total = sum(map(len, found.values()))
    chosen = []
    for mutants in found.values():
        share = max(LEAST, round(size * len(mutants) / total))
        # Drawn by a hash, so that a mutant more or less leaves the rest of the sample as it is.
        drawn = sorted(mutants, key=lambda one: hashlib.sha256(f"{seed} {one.place}".encode()).digest())
        chosen += sorted(drawn[:share], key=lambda one: one.line)
    return chosen


def judge(suite: Suite, chosen: list[Mutant], kept: Path, until: float) -> list[Verdict]:
    """First each mutant before the tests of its own module, then those that survive before all others."""
    known, reasons = load(kept), equivalents()
    verdicts: dict[str, Verdict] = {}
    with kept.open("a") as file:
        for own in (True, False):
            left = chosen if own else [one.mutant for one in verdicts.values() if one.outcome == "survived"]
            for number, mutant in enumerate(left, 1):
                source = suite.source(mutant.file)
                mutated = mutant.apply(source)
                if mutated is None:
                    continue
                key = hashlib.sha256(f"{mutant.place}\n{source}".encode()).hexdigest()
                before, after = change(source, mutated)
                if (reason := reasons.get(key_of(mutant.file, mutant.function, before, after))) is not None:
                    outcome, by = "equivalent", reason
                elif key in known:
                    outcome, by = known[key]
                elif time.perf_counter() > until:
                    break
                else:
                    outcome, by = suite.judge(mutant, mutated, own=own)
                    entry = {"key": key, "outcome": outcome, "by": by, "change": [mutant.place, before, after]}
                    file.write(json.dumps(entry) + "\n")
                    file.flush()
                verdicts[mutant.place] = Verdict(mutant, outcome, by, diff_of(mutant.file, source, mutated))
                tests = "its own tests" if own else "all others"
                print(f"{tests} {number}/{len(left)} {mutant.file}:{mutant.line} {outcome} {by}", flush=True)
                if outcome == "survived":
                    print(verdicts[mutant.place].diff, flush=True)
    return list(verdicts.values())


def diff_of(file: str, before: str, after: str) -> str:
    return "\n".join(unified_diff(before.splitlines(), after.splitlines(), file, file, n=1, lineterm=""))


def load(kept: Path) -> dict[str, tuple[str, str]]:
    """Verdicts of earlier runs, but for the survivors: tests may have come that kill them."""
    if not kept.exists():
        return {}
    earlier = [json.loads(line) for line in kept.read_text().splitlines()]
    return {one["key"]: (one["outcome"], one["by"]) for one in earlier if one["outcome"] != "survived"}


def report(verdicts: Iterable[Verdict], found: dict[str, list[Mutant]], what: str) -> float:
    by_file: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        by_file[verdict.mutant.file].append(verdict)
    print("\nsurvivors:")
    for verdict in (one for each in by_file.values() for one in each if one.outcome == "survived"):
        print(f"\n{verdict.mutant.file}:{verdict.mutant.line} in {verdict.mutant.function}\n{verdict.diff}")
    columns = f"{'all':>6}{'judged':>8}{'killed':>8}{'stuck':>7}{'equivalent':>12}{'survived':>10}"
    print(f"\n{what}\n{'file':<40}{columns}   score")
    everything: list[Verdict] = []
    for file, each in by_file.items():
        print(row(file, len(found[file]), each))
        everything += each
    print(row("all", sum(map(len, found.values())), everything))
    return score_of(everything)


def row(name: str, total: int, verdicts: list[Verdict]) -> str:
    stuck, equivalent, survived = (count(verdicts, outcome) for outcome in ("stuck", "equivalent", "survived"))
    killed = len(verdicts) - equivalent - survived
    figures = f"{total:>6}{len(verdicts):>8}{killed:>8}{stuck:>7}{equivalent:>12}{survived:>10}"
    return f"{name:<40}{figures}{score_of(verdicts):>7.1f}%"


def score_of(verdicts: list[Verdict]) -> float:
    """Killed, of those that are not equivalent."""
    counted = [verdict for verdict in verdicts if verdict.outcome != "equivalent"]
    return 100.0 * (1 - count(counted, "survived") / len(counted)) if counted else 100.0


def count(verdicts: list[Verdict], outcome: str) -> int:
    return sum(verdict.outcome == outcome for verdict in verdicts)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
