"""A pytest plugin for the runs of `tools.mutation`: a sign of life for each test, and which file of tests reaches what.

It reads what to do from the environment, and imports nothing of the package before it measures what is imported.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import Phase, settings

LIFE = "RESILIENT_MUTATION_LIFE"
"""A file descriptor: a line for each test that begins."""
REACH = "RESILIENT_MUTATION_REACH"
"""A file: the seconds of each file of tests, and the lines that it reaches."""

MEMORY = 4 << 30


class SignsOfLife:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        os.write(self._descriptor, f"{nodeid.replace(' ', '_')}\n".encode())


class Reach:
    """What a file of tests runs while it is collected and while its tests run; not what others import before."""

    def __init__(self, path: Path) -> None:
        import coverage

        self._path = path
        for folder in ("core", "policies"):
            for module in sorted(Path("resilient", folder).glob("*.py")):
                importlib.import_module(f"resilient.{folder}.{module.stem}")
        self._measuring = coverage.Coverage(
            data_file=None, source=["resilient/core", "resilient/policies"], config_file=False
        )
        self._measuring.start()
        self._seconds: dict[str, float] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self, collector: pytest.Collector) -> Iterator[None]:
        if isinstance(collector, pytest.Module):
            self._measuring.switch_context(collector.nodeid)
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        file = item.nodeid.partition("::")[0]
        self._measuring.switch_context(file)
        begun = time.perf_counter()
        try:
            return (yield)
        finally:
            self._seconds[file] = self._seconds.get(file, 0.0) + time.perf_counter() - begun

    def pytest_unconfigure(self) -> None:
        self._measuring.stop()
        data = self._measuring.get_data()
        reached: dict[str, dict[str, list[str]]] = {}
        for measured in data.measured_files():
            by_line = data.contexts_by_lineno(measured)
            reached[Path(measured).relative_to(Path("resilient").resolve()).as_posix()] = {
                str(line): [context for context in contexts if context] for line, contexts in by_line.items()
            }
        self._path.write_text(json.dumps({"seconds": self._seconds, "reached": reached}))


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if LIFE in os.environ:
        # The tests' own profile, but: that an example fails is enough, and the next run shall find it again.
        phases = (Phase.explicit, Phase.generate)
        settings.register_profile("mutation", phases=phases, derandomize=True, database=None)
        settings.load_profile("mutation")
        # A shell lets what it starts in the background ignore Ctrl-C, and tests interrupt themselves.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # A mutant may loop over something that grows.
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        config.pluginmanager.register(SignsOfLife(int(os.environ[LIFE])))
    if REACH in os.environ:
        config.pluginmanager.register(Reach(Path(os.environ[REACH])))
