"""Metrics of several processes: forked children, and the workers of a real gunicorn."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.forking import unmeasured
from tests.receivers.process import HOST, eventually, fetch, reserved_ports
from tests.telemetry.prometheus_kit import POLICY, accepted_calls, series_of, value

pytestmark = [pytest.mark.realtime, pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")]

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "metrics"
    folder.mkdir()
    return folder


def run(program: str, folder: Path, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program, *arguments],
        env={**unmeasured(), "PROMETHEUS_MULTIPROC_DIR": str(folder), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60.0,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


# A number of our own stands for the meters of policies: what sets it to 0 in the child runs before or after our hook.
FORKING = """
import os, sys, time
from resilient import Registry
from resilient.telemetry.catalogue import Metric
from resilient.telemetry.collecting import SOURCES
from resilient.telemetry.exporters import register_exporter

count = 0
def read():
    yield Metric("resilience.test.counts", "counter", "1", (), "Counts."), (), count
SOURCES.append(read)

def zero():
    global count
    if order == "after":
        time.sleep(0.2)
    count = 0

order = sys.argv[1]
if order == "before":
    os.register_at_fork(after_in_child=zero)
from resilient.telemetry.prometheus import PrometheusExporter
exporter = register_exporter(PrometheusExporter(), registry=Registry())
if order == "after":
    os.register_at_fork(after_in_child=zero)

count = 5
exporter.flush(5)
count += 1
child = os.fork()
count += 10 if child else 3  # fewer than the parent has written before
if not child:
    # In the child a thread of its own writes, and nothing else: _exit runs no hooks.
    time.sleep(2.5)
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize("order", ["before", "after"])
def test_a_forked_child_reports_what_it_has_counted_itself(order: str, folder: Path) -> None:
    run(FORKING, folder, order)
    assert value(folder, "resilience_test_counts_total") == 19
    assert len(list(folder.glob("counter_*.db"))) == 2


# Without our hook a child inherits prometheus_client's lock in one fork of a few, and hangs in its first inc().
HAMMERING = """
import os, sys, threading
from prometheus_client import Counter
from resilient import Registry
from resilient.telemetry.exporters import register_exporter
from resilient.telemetry.prometheus import PrometheusExporter
registry = Registry()
theirs = Counter("theirs", "Theirs.")
for number in range(20):
    registry.call_meter(f"p{number}")
exporter = register_exporter(PrometheusExporter(), registry=registry)
def hammer():
    while True:
        for number in range(20):
            registry.call_meter(f"p{number}").success.observe(0.5)
        exporter.flush(5)
threading.Thread(target=hammer, daemon=True).start()
sys.setswitchinterval(1e-5)
for _ in range(30):
    child = os.fork()
    if not child:
        import signal
        signal.alarm(5)
        theirs.inc()
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        sys.exit(f"a child ended with {status}")
"""


def test_a_fork_in_the_middle_of_writing_leaves_no_lock_held(folder: Path) -> None:
    run(HAMMERING, folder)
    assert value_of_theirs(folder) == 30


def value_of_theirs(folder: Path) -> float:
    collector = MultiProcessCollector(None, path=str(folder))  # type: ignore[no-untyped-call]
    return series_of(collector.collect())["theirs_total", ()]


STOPPED = """
import os, sys, threading
from resilient import Registry
from resilient.telemetry.exporters import register_exporter, unregister_exporter
from resilient.telemetry.prometheus import PrometheusExporter
exporter = register_exporter(PrometheusExporter(), registry=Registry())
flusher = exporter._flusher
unregister_exporter(exporter)
child = os.fork()
if not child:
    os._exit(threading.active_count() - 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_after_the_end_a_fork_begins_nothing(folder: Path) -> None:
    run(STOPPED, folder)


EXITING = """
from resilient import Registry, bulkhead
from resilient.telemetry.exporters import register_exporter
from resilient.telemetry.prometheus import PrometheusExporter
registry = Registry()
limit = bulkhead("files", registry=registry)
register_exporter(PrometheusExporter(), registry=registry)
limit.call(len, "")
"""


def test_what_was_counted_last_is_written_at_exit(folder: Path) -> None:
    run(EXITING, folder)
    assert accepted_calls(folder) == 1
    assert value(folder, "resilience_bulkhead_limit", **{POLICY: "files"}) in (None, 0)


APPLICATION = """
import os
from resilient import circuit_breaker, pipeline, retry, timeout
from resilient.telemetry.exporters import register_exporter
from resilient.telemetry.prometheus import PrometheusExporter
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.multiprocess import MultiProcessCollector

register_exporter(PrometheusExporter(port=int(os.environ["METRICS"])))
orders = pipeline("orders", retry(on=ConnectionError, attempts=2, backoff=[0.0]), circuit_breaker(), timeout(5.0))
shown = CollectorRegistry()
MultiProcessCollector(shown)
metrics = make_wsgi_app(shown)

def flaky(failures):
    if failures:
        failures.pop()
        raise ConnectionError
    return str(os.getpid()).encode()

orders.call(flaky, [])  # before the fork, with --preload

def app(environ, start_response):
    if environ["PATH_INFO"] == "/metrics":
        return metrics(environ, start_response)
    body = orders.call(flaky, [0] if environ["PATH_INFO"] == "/flaky" else [])
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [body]
"""
SETTINGS = """
from prometheus_client.multiprocess import mark_process_dead
bind = "127.0.0.1:0"
workers = 4
def child_exit(server, worker):
    mark_process_dead(worker.pid)
"""


@contextmanager
def gunicorn(home: Path, folder: Path, port: int, *arguments: str) -> Iterator[tuple[str, Callable[[], int]]]:
    """The application under a real gunicorn, with metrics at `port`, too: its URL, and how often it was imported."""
    (home / "shop.py").write_text(APPLICATION)
    (home / "settings.py").write_text(SETTINGS)
    log = home / "log"
    command = [sys.executable, "-m", "gunicorn", "-c", "settings.py", "--no-control-socket", *arguments, "shop:app"]
    environment = {
        **unmeasured(),
        "PROMETHEUS_MULTIPROC_DIR": str(folder),
        "PYTHONPATH": f"{ROOT}{os.pathsep}{home}",
        "METRICS": str(port),
    }

    def booted() -> int:
        return log.read_text().count("Booting worker")

    with log.open("wb") as output:
        master = subprocess.Popen(command, cwd=home, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        found = eventually(lambda: re.search(r"Listening at: (http://[\d.:]+)", log.read_text()), timeout=10.0)
        assert found is not None
        eventually(lambda: booted() >= 4, timeout=10.0)
        yield found[1], lambda: 1 if "--preload" in arguments else booted()
    except BaseException as error:
        error.add_note(log.read_text()[-4000:])
        raise
    finally:
        master.terminate()
        master.wait(10.0)


@pytest.mark.parametrize("arguments", [(), ("--preload",)], ids=["", "preload"])
def test_sums_of_gunicorn_workers_are_exact_after_a_burst_and_after_a_restart(
    arguments: tuple[str, ...], tmp_path: Path, folder: Path
) -> None:
    def burst(url: str) -> set[int]:
        paths = ["/", "/", "/", "/flaky"] * 40
        with ThreadPoolExecutor(8) as pool:
            return set(pool.map(lambda path: int(fetch(url + path)), paths))

    def check(url: str, bursts: int) -> None:
        chosen = {
            (sample.name, sample.labels["resilience_retry_result"])
            if "resilience_retry_result" in sample.labels
            else (sample.name, ""): sample.value
            for family in parse_text(fetch(url + "/metrics").decode())
            for sample in family.samples
            if sample.name in wanted and sample.labels.get("resilience_outcome", "success") == "success"
        }
        assert {key: number for key, number in chosen.items() if number} == {
            ("resilience_retry_calls_total", "first_try"): 120 * bursts + imports(),
            ("resilience_retry_calls_total", "recovered"): 40 * bursts,
            ("resilience_call_duration_seconds_count", ""): 160 * bursts + imports(),
        }

    wanted = {"resilience_retry_calls_total", "resilience_call_duration_seconds_count"}
    with reserved_ports(1) as (port,), gunicorn(tmp_path, folder, port, *arguments) as (url, imports):
        pids = burst(url)
        assert len(pids) > 1
        eventually(lambda: holds(check, url, 1), timeout=10.0)
        stopped = next(iter(pids))
        os.kill(stopped, signal.SIGTERM)
        eventually(lambda: not Path(f"/proc/{stopped}").exists(), timeout=10.0)
        eventually(lambda: holds(check, url, 1), timeout=10.0)  # the worker in its place has made its first call
        burst(url)
        eventually(lambda: holds(check, url, 2), timeout=10.0)
        time.sleep(1.2)  # one more round of all flushers, which may add nothing
        eventually(lambda: holds(check, url, 2), timeout=10.0)
        check(f"http://{HOST}:{port}", 2)  # in whichever process it is now
    assert not [file for file in folder.glob("gauge_live*") if str(stopped) in file.name]


def holds(check: Callable[..., None], *arguments: Any) -> bool:
    try:
        check(*arguments)
    except AssertionError:
        return False
    except HTTPError as error:
        # prometheus_client opens the file of a new worker before it gives it a size, and can't read it in between.
        if error.code != 500:
            raise
        return False
    return True
