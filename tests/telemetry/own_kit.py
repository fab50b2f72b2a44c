"""What the tests of an application's own metrics share."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from resilient import Registry
from resilient.telemetry import app_settings
from resilient.telemetry.collecting import Attributes, Collector, Family, Value
from tests.forking import unmeasured

ROOT = Path(__file__).parents[2]


@contextmanager
def no_metrics_of_others() -> Iterator[None]:
    """A block in which there are no metrics of the application's but its own."""
    before = dict(app_settings._INSTRUMENTS)
    app_settings._INSTRUMENTS.clear()
    try:
        yield
    finally:
        app_settings._INSTRUMENTS.clear()
        app_settings._INSTRUMENTS.update(before)


def families() -> dict[str, Family]:
    return {family.metric.name: family for family in Collector(Registry()).collect()}


def series(name: str) -> dict[Attributes, Value]:
    """What is exported of a metric."""
    family = families().get(name)
    return {} if family is None else family.series


def on_eight_threads(work: Callable[[], object]) -> None:
    """Eight threads that the interpreter switches between at every chance."""
    threads = [threading.Thread(target=work) for _ in range(8)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)


def run(program: str) -> str:
    """What a program of its own prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env=unmeasured(),
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.strip()
