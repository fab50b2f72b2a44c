"""Several exporters at once: registered, flushed, and shut down within one deadline."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from resilient import ConfigurationError, Registry
from resilient.telemetry import exporters
from resilient.telemetry.collecting import Collector
from resilient.telemetry.exporters import register_exporter, registered, shutdown, unregister_exporter
from tests.forking import unmeasured


class Recording:
    """Says how it was shut down; `hold` keeps it from ending."""

    def __init__(self, name: str = "recording", *, hold: threading.Event | None = None) -> None:
        self.name = name
        self.given: list[float] = []
        self.error: Exception | None = None
        self._hold = hold

    def start(self, collector: Collector) -> None:
        self.collector = collector

    def flush(self, timeout: float) -> bool:
        return True

    def shutdown(self, timeout: float) -> None:
        self.given.append(timeout)
        if self._hold is not None:
            self._hold.wait(30)
        if self.error is not None:
            raise self.error


@pytest.fixture(autouse=True)
def _nothing_registered() -> Iterator[None]:
    yield
    exporters._active.clear()


@pytest.fixture
def held() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_an_exporter_is_given_the_registry_and_registered_once() -> None:
    private = Registry()
    exporter = register_exporter(Recording(), registry=private)
    assert register_exporter(exporter) is exporter
    assert exporter.collector.registry is private
    assert registered() == [exporter]


def test_what_is_no_exporter_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="exporter="):
        register_exporter(object())  # type: ignore[type-var]


def test_unregistering_shuts_down_once() -> None:
    exporter = register_exporter(Recording(), registry=Registry())
    assert unregister_exporter(exporter, timeout=3)
    assert not unregister_exporter(exporter)
    assert exporter.given == [3.0]


@pytest.mark.realtime
def test_one_that_hangs_takes_no_time_from_the_others(held: threading.Event) -> None:
    hanging = [register_exporter(Recording(hold=held), registry=Registry()) for _ in range(3)]
    quick = register_exporter(Recording(), registry=Registry())
    begun = time.monotonic()
    shutdown(timeout=0.3)
    assert time.monotonic() - begun < 0.8
    assert [exporter.given[0] for exporter in (*hanging, quick)] == pytest.approx([0.3] * 4, rel=0.1)
    assert registered() == []


def test_shutting_down_does_not_wait_longer_than_it_has_to() -> None:
    for _ in range(3):
        register_exporter(Recording(), registry=Registry())
    begun = time.monotonic()
    shutdown(timeout=60)
    assert time.monotonic() - begun < 10


def test_one_that_fails_to_shut_down_is_counted() -> None:
    broken = register_exporter(Recording("broken"), registry=Registry())
    broken.error = ValueError()
    other = register_exporter(Recording(), registry=Registry())
    before = exporters._failures["broken"]
    shutdown(timeout=5)
    assert exporters._failures["broken"] == before + 1
    assert other.given == pytest.approx([5.0], rel=0.01)


def test_a_second_shutdown_has_nothing_to_do() -> None:
    exporter = register_exporter(Recording(), registry=Registry())
    shutdown()
    shutdown()
    assert len(exporter.given) == 1


def test_without_threads_the_time_is_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    several = [register_exporter(Recording(), registry=Registry()) for _ in range(4)]
    monkeypatch.setattr(threading.Thread, "start", refuse)
    shutdown(timeout=8)
    shares = [exporter.given[0] for exporter in several]
    assert shares == pytest.approx([2.0, 8 / 3, 4.0, 8.0], rel=0.05)


def test_the_end_of_the_process_shuts_down_what_was_forgotten() -> None:
    program = (
        "import sys\nfrom resilient.telemetry.exporters import register_exporter\n"
        "class Own:\n    name = 'own'\n    def start(self, collector): pass\n    def flush(self, timeout): pass\n"
        "    def shutdown(self, timeout): print('shut down within', round(timeout, 1))\n"
        "register_exporter(Own())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "shut down within 2.0\n"


HOLDING = """
import os, threading
from resilient.telemetry import exporters
from tests.forking import unmeasured

def hold():
    exporters._lock.acquire()
    exporters._count_lock.acquire()
    held.set()
    threading.Event().wait(20)

exporters.count_failure("own")
held = threading.Event()
threading.Thread(target=hold, daemon=True).start()
held.wait()
"""


def printed(program: str) -> str:
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, env=unmeasured(), capture_output=True, text=True, timeout=15, check=True)
    return done.stdout.strip()


def test_a_child_counts_its_own_failures() -> None:
    shown = printed(
        HOLDING
        + """
child = os.fork()
if not child:
    exporters.count_failure("own")
    exporters.shutdown(timeout=0)
    os._exit(exporters._failures["own"])
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), exporters._failures["own"])
"""
    )
    assert shown == "1 1"


def test_an_exporter_that_hangs_in_its_start_does_not_hang_the_end() -> None:
    # The process ends, or this takes longer than it may.
    assert printed(HOLDING + "print('over')") == "over"
