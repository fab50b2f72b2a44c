"""OTLP from the prefork workers of a real gunicorn: each for itself, and nothing twice."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.forking import unmeasured
from tests.receivers.otlp import DataPoint, OtlpReceiver
from tests.receivers.process import eventually, fetch

pytestmark = [pytest.mark.realtime, pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")]

ROOT = Path(__file__).parents[2]
APPLICATION = """
import os
from resilient import OTLPExporter, circuit_breaker, register_exporter

register_exporter(OTLPExporter(os.environ["RECEIVER"], interval=0.3))

@circuit_breaker("orders")
def answer():
    return str(os.getpid()).encode()

answer()  # at the import: in the master with --preload, else in each worker

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [answer()]
"""


def newest(points: list[DataPoint]) -> dict[str, float]:
    """The last total of successes of each instance."""
    found: dict[str, float] = {}
    for point in points:
        if point.attributes.get("resilience.circuit_breaker.result") == "success":
            found[str(point.resource["service.instance.id"])] = float(point.value or 0)
    return found


@pytest.mark.parametrize("arguments", [(), ("--preload",)], ids=["", "preload"])
def test_workers_export_each_for_themselves_and_nothing_is_counted_twice(
    arguments: tuple[str, ...], tmp_path: Path, otlp: OtlpReceiver
) -> None:
    (tmp_path / "shop.py").write_text(APPLICATION)
    log = tmp_path / "log"
    command = [sys.executable, "-m", "gunicorn", "-b", "127.0.0.1:0", "-w", "4", "--no-control-socket", *arguments]
    environment = {**unmeasured(), "RECEIVER": otlp.grpc_endpoint, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    with log.open("wb") as output:
        master = subprocess.Popen(
            [*command, "shop:app"], cwd=tmp_path, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        found = eventually(lambda: re.search(r"Listening at: (http://[\d.:]+)", log.read_text()), timeout=10.0)
        assert found is not None
        eventually(lambda: log.read_text().count("Booting worker") >= 4, timeout=10.0)
        with ThreadPoolExecutor(8) as pool:
            served = set(pool.map(lambda _: int(fetch(found[1])), range(160)))
        imports = 1 if arguments else 4
        eventually(
            lambda: sum(newest(otlp.data_points("resilience.circuit_breaker.calls")).values()) == 160 + imports,
            timeout=15.0,
        )
    finally:
        master.terminate()
        master.wait(15.0)

    last = newest(otlp.data_points("resilience.circuit_breaker.calls"))
    assert sum(last.values()) == 160 + imports, "and the exports of the end add nothing"
    assert len([count for count in last.values() if count]) >= len(served)
    assert "Traceback" not in log.read_text()
