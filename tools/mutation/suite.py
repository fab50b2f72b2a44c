"""The tests that a mutant is held to, in a copy of the tree: first those of its module, then all that reach it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Final

from tools.mutation.mutants import Mutant
from tools.mutation.recorder import LIFE, REACH

ROOT: Final = Path(__file__).parents[2]
TESTS: Final = (
    "tests/core/test_*.py",
    "tests/policies/test_*.py",
    "tests/behaviour/test_*.py",
    "tests/test_*.py",
    # What policies tell of themselves.
    "tests/telemetry/test_spans*.py",
    "tests/telemetry/test_logs.py",
)

# The longest test takes 5 s. One that goes on for so long waits for good if it hardly uses the processor, and loops if
# that is all it does; in between the machine is busy, and it gets more time.
STUCK_AFTER: Final = 20.0
_IDLE, _LOOPING, _BUSY_AFTER = 2.0, 12.0, 120.0
_NOT_COPIED: Final = shutil.ignore_patterns(".*", "__pycache__", "_build", "dist", "build", "*.egg-info")
# What other processes run is not measured, so these files are held to reach every line.
_OTHER_PROCESSES: Final = re.compile(r"subprocess|os\.fork|multiprocessing")
# They check types, or the text of the documentation.
_LEFT_OUT: Final = {"tests/test_typing.py"}


class Suite:
    """A copy of the tree, with what is known of its tests."""

    def __init__(self, work: Path) -> None:
        self._copy = work / "tree"
        shutil.rmtree(self._copy, ignore_errors=True)
        shutil.copytree(ROOT, self._copy, ignore=_NOT_COPIED)
        files = sorted(
            path.relative_to(self._copy).as_posix() for pattern in TESTS for path in self._copy.glob(pattern)
        )
        self._files = [file for file in files if file not in _LEFT_OUT]
        self._everywhere = {file for file in self._files if _OTHER_PROCESSES.search((self._copy / file).read_text())}
        self._looking: set[str] = set()
        self._seconds: dict[str, float] = {}
        self._reached: dict[str, dict[str, list[str]]] = {}
        self._measured = work / "reach.json"
        self._test = ""

    def source(self, file: str) -> str:
        return (self._copy / "resilient" / file).read_text()

    def measure(self) -> float:
        """Run every test once on the code as it is, and take down what each file of tests reaches.

        While the code is the same, only of those that have changed since the last time.
        """
        begun = time.perf_counter()
        code, tests = self._state()
        known = json.loads(self._measured.read_text()) if self._measured.exists() else {}
        if known.get("code") == code:
            changed = [file for file in self._files if known["tests"].get(file) != tests[file]]
            self._seconds = known["seconds"]
            self._reached = {
                module: {line: [file for file in files if file not in changed] for line, files in lines.items()}
                for module, lines in known["reached"].items()
            }
        else:
            changed = self._files
        if changed:
            self._measure(changed)
            state = {"code": code, "tests": tests, "seconds": self._seconds, "reached": self._reached}
            self._measured.write_text(json.dumps(state))
        running = {file for lines in self._reached.values() for files in lines.values() for file in files}
        self._looking = set(self._files) - running
        return time.perf_counter() - begun

    def _measure(self, files: list[str]) -> None:
        reach = self._copy / "reach.json"
        if self._run(files, {REACH: str(reach)}, stuck_after=120.0) != "survived":
            # Measuring is slow: what fails of it passes on its own, or is broken.
            failed = sorted(set(re.findall(r"^(?:FAILED|ERROR) (\S+?)::", self._output(), re.MULTILINE)))
            print(f"while it was measured something failed in {', '.join(failed)}; once more", flush=True)
            if not failed or self._run(failed, {}) != "survived":
                raise SystemExit(f"the tests fail on the code as it is: {self._output()[-3000:]}")
        measured = json.loads(reach.read_text())
        self._seconds.update(measured["seconds"])
        for module, lines in measured["reached"].items():
            for line, files in lines.items():
                self._reached.setdefault(module, {}).setdefault(line, []).extend(files)

    def judge(self, mutant: Mutant, mutated: str, *, own: bool) -> tuple[str, str]:
        """What the module's own tests make of a mutant, or else all others, and which test it was.

        "failed", "stuck" (no test ended it) and "crashed" (pytest did not even start) are killed; or "survived".
        """
        path = self._copy / "resilient" / mutant.file
        original, stat = path.read_text(), path.stat()
        path.write_text(mutated)
        try:
            files = self._split(mutant)[0 if own else 1]
            outcome = self._run(files, {}) if files else "survived"
            if outcome == "survived":
                return outcome, ""
            killer = re.search(r"^(?:FAILED|ERROR) (\S+)", self._output(), re.MULTILINE)
            return outcome, killer[1] if killer else self._test
        finally:
            path.write_text(original)
            # The compiled file in the cache is good again.
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    def _state(self) -> tuple[str, dict[str, str]]:
        """A hash of the code, with what tests share, and one of each file of tests."""
        hashes = {
            path.relative_to(self._copy).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for folder in ("resilient", "tests")
            for path in sorted((self._copy / folder).rglob("*.py"))
        }
        tests = {file: hashes.pop(file) for file in self._files}
        shared = {file: one for file, one in hashes.items() if not Path(file).name.startswith("test_")}
        return hashlib.sha256(json.dumps(shared).encode()).hexdigest(), tests

    def _split(self, mutant: Mutant) -> tuple[list[str], list[str]]:
        """The module's own files of tests, and all others that reach the mutant; the quick ones first."""
        reaching = self._reaching(mutant)
        folder, stem = Path(mutant.file).parts[0], Path(mutant.file).stem
        own = [file for file in reaching if Path(file).parts[1] == folder and _is_named_after(Path(file).stem, stem)]
        if not own:
            # Of a module without tests of its own: those that reach most of it.
            lines = self._reached.get(mutant.file, {})
            share = Counter(file for files in lines.values() for file in files)
            own = sorted(reaching, key=lambda file: -share[file])[:4]
        by_cost = sorted(reaching, key=lambda file: self._seconds.get(file, 0.0))
        return [file for file in by_cost if file in own], [file for file in by_cost if file not in own]

    def _reaching(self, mutant: Mutant) -> set[str]:
        lines = self._reached.get(mutant.file, {})
        files: set[str] = set()
        if mutant.lines is not None:
            files = {file for line in mutant.lines for file in lines.get(str(line), ())}
        if not files:
            # Made at import: whoever runs anything of this module may see it, and who only looks at it.
            files = {file for files in lines.values() for file in files} | self._looking
        return files | self._everywhere

    def _run(self, files: list[str], env: dict[str, str], stuck_after: float = STUCK_AFTER) -> str:
        life, end = os.pipe()
        environment = {
            **os.environ,
            "PYTHONPATH": str(self._copy),
            "PYTHONDONTWRITEBYTECODE": "1" if not env else "",
            LIFE: str(end),
            **env,
        }
        options = [
            "--maxfail=20" if REACH in env else "-x",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "tools.mutation.recorder",
            "--tb=line",
        ]
        with (self._copy / "output.txt").open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "pytest", *options, *files],
                cwd=self._copy,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[end],
                start_new_session=True,
            )
        os.close(end)
        self._test = ""
        seen, used = time.perf_counter(), 0.0
        try:
            while process.poll() is None:
                if select.select([life], [], [], 0.1)[0]:
                    begun = os.read(life, 1 << 16).decode().split()
                    if not begun:
                        process.wait(stuck_after)
                        break
                    self._test = begun[-1]
                    seen, used = time.perf_counter(), _processor_time(process.pid)
                elif (silent := time.perf_counter() - seen) > stuck_after:
                    in_this_test = _processor_time(process.pid) - used
                    if silent > _BUSY_AFTER or not _IDLE < in_this_test < _LOOPING:
                        return "stuck"
        except subprocess.TimeoutExpired:
            return "stuck"
        finally:
            os.close(life)
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
        return {0: "survived", 1: "failed"}.get(process.returncode, "crashed")

    def _output(self) -> str:
        return (self._copy / "output.txt").read_text(errors="replace")


def _is_named_after(test: str, module: str) -> bool:
    return test == f"test_{module}" or test.startswith(f"test_{module}_")


def _processor_time(process: int) -> float:
    """Seconds that a process has used; endless where the system does not tell, so that only the clock counts."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("inf")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
