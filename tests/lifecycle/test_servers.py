"""SIGTERM under load, with real servers: readiness goes first, no request is lost, and it ends in time."""

from __future__ import annotations

import http.client
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.forking import unmeasured
from tests.receivers.process import reserved_ports

ROOT = Path(__file__).parents[2]
APP = "tests.lifecycle.served"

pytestmark = pytest.mark.realtime

GUNICORN = ["-m", "gunicorn", "-b", "127.0.0.1:{port}", "-c", "tests/lifecycle/gunicorn_conf.py", "--graceful-timeout"]
SERVERS = {
    "uvicorn": ["-m", "uvicorn", "--port", "{port}", "--log-level", "warning", f"{APP}:asgi"],
    "hypercorn": ["-m", "hypercorn", "--workers", "0", "-b", "127.0.0.1:{port}", f"{APP}:asgi"],
    "gunicorn": [*GUNICORN, "20", "-k", "gthread", "--threads", "8", f"{APP}:wsgi"],
    "gunicorn preload": [*GUNICORN, "20", "-k", "gthread", "--threads", "8", "--preload", f"{APP}:wsgi"],
    "gunicorn sync": [*GUNICORN, "20", "-w", "2", f"{APP}:wsgi"],
}


def get(port: int, path: str) -> int | str:
    """The status, or `refused`, or `lost`: the server had the request and gave no answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.connect()
    except OSError:
        return "refused"
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return "lost"
    finally:
        connection.close()


@dataclass
class Load:
    """Clients behind a load balancer, which stops to send where readiness is gone."""

    port: int
    answers: Counter[int | str] = field(default_factory=Counter)
    readiness: list[tuple[float, int | str]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)
    sent: int = 0

    def balance(self) -> None:
        while not self.ended.is_set():
            self.readiness.append((time.monotonic(), get(self.port, "/ready")))
            time.sleep(0.02)

    def send(self) -> None:
        # One more after readiness has gone: what was on its way when the load balancer heard of it.
        while not self.ended.is_set():
            ready = not self.readiness or self.readiness[-1][1] == 200
            self.sent += 1
            self.answers[get(self.port, "/work")] += 1
            if not ready:
                return


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM there")
@pytest.mark.parametrize("server", SERVERS)
def test_sigterm_under_load_loses_no_request(server: str, tmp_path: Path) -> None:
    with reserved_ports(1) as (port,):
        pass
    diary = tmp_path / "diary"
    command = [sys.executable, *(part.format(port=port) for part in SERVERS[server])]
    environment = {**unmeasured(), "DIARY": str(diary), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    load = Load(port)
    clients = [threading.Thread(target=load.balance), *(threading.Thread(target=load.send) for _ in range(4))]
    try:
        until = time.monotonic() + 20
        while get(port, "/ready") != 200:
            assert time.monotonic() < until, "it did not start"
            assert process.poll() is None, "it did not stay"
            time.sleep(0.05)
        for client in clients:
            client.start()
        time.sleep(1.0)
        process.send_signal(signal.SIGTERM)
        asked = time.monotonic()
        process.wait(timeout=20)
        took = time.monotonic() - asked
    finally:
        load.ended.set()
        if process.poll() is None:
            process.kill()
        for client in clients:
            if client.ident is not None:
                client.join()
        errors = process.communicate()[1]

    assert load.answers["lost"] == 0, errors
    assert load.sent == load.answers[200] + load.answers["refused"]
    assert load.answers[200] > 8
    statuses = [status for _, status in load.readiness]
    gone, closed = statuses.index(503), statuses.index("refused")
    assert gone < closed, "readiness goes before the socket closes"
    assert load.readiness[closed][0] - load.readiness[gone][0] > 0.5, "and the server goes on serving meanwhile"
    assert took < 10.0
    lines = diary.read_text().splitlines()
    workers = lines.count("pool closed")
    assert sorted(lines) == sorted(["goodbye with 0 in flight", "hanging", "pool closed"] * workers)
    if workers == 1:
        assert lines == ["goodbye with 0 in flight", "hanging", "pool closed"]
