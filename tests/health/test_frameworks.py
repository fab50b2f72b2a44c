"""The same answers in real frameworks, by real servers, over real HTTP."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.health.apps import TOKEN

pytestmark = pytest.mark.realtime

ROOT = Path(__file__).parents[2]
APPS = "tests.health.apps"
GUNICORN = ["-m", "gunicorn", "--worker-class", "gthread", "--threads", "32", "--no-control-socket"]
SERVERS = {
    "fastapi": ["-m", "uvicorn", "--factory", f"{APPS}:fastapi_app", "--port", "{port}", "--log-level", "warning"],
    "starlette": ["-m", "uvicorn", "--factory", f"{APPS}:starlette_app", "--port", "{port}", "--log-level", "warning"],
    "flask": [*GUNICORN, "--bind", "127.0.0.1:{port}", f"{APPS}:flask_app()"],
    "django": [*GUNICORN, "--bind", "127.0.0.1:{port}", f"{APPS}:django_app()"],
    "aiohttp": ["-m", "aiohttp.web", "-H", "127.0.0.1", "-P", "{port}", f"{APPS}:aiohttp_app"],
}
NEEDED = {"fastapi": "uvicorn", "starlette": "uvicorn", "flask": "gunicorn", "django": "gunicorn", "aiohttp": "aiohttp"}
PATIENCE = 20.0


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    def __init__(self, port: int) -> None:
        self.port = port

    def ask(
        self, path: str, method: str = "GET", *, token: str | None = None, body: bytes | None = None, **more: str
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        headers = {**more, **({} if token is None else {"Authorization": f"Bearer {token}"})}
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return Answer(
                response.status, {key.lower(): value for key, value in response.getheaders()}, response.read()
            )
        finally:
            connection.close()


@contextmanager
def serving(command: list[str]) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, *(part.format(port=port) for part in command)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        until = time.monotonic() + PATIENCE
        while True:
            assert process.poll() is None, process.communicate()[0].decode()
            try:
                socket.create_connection(("127.0.0.1", port), 1.0).close()
                break
            except OSError:
                assert time.monotonic() < until
                time.sleep(0.02)
        yield Server(port)
    finally:
        process.terminate()
        try:
            process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    for module in (request.param, NEEDED[request.param]):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    with serving(SERVERS[request.param]) as server:
        yield server


def test_the_service_itself_is_still_there(server: Server) -> None:
    assert b"the service itself" in server.ask("/").body


def test_probes_answer_below_the_prefix(server: Server) -> None:
    for path, keys in (
        ("/health/live", ["status", "timestamp", "uptime_seconds"]),
        ("/health/ready", ["status", "timestamp", "checks"]),
        ("/health/startup", ["status", "timestamp", "checks"]),
        ("/health/", ["status", "timestamp", "checks"]),
    ):
        answer = server.ask(path)
        assert answer.status == 200
        assert list(answer.json) == keys
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["content-type"] == "application/json"
    assert server.ask("/health/ready").json["checks"] == {
        "sync": {"status": "healthy"},
        "async": {"status": "healthy"},
        "broken": {"status": "unhealthy"},
    }


def test_a_head_has_no_body(server: Server) -> None:
    get, head = server.ask("/health/startup"), server.ask("/health/startup", "HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == str(len(get.body))


def test_details_are_for_those_with_a_token(server: Server) -> None:
    assert server.ask("/health/", token="wrong").json.keys() == {"status", "timestamp", "checks"}
    shown = server.ask("/health/", token=TOKEN).json
    assert (shown["service"], shown["circuit_breakers"]) == ("shop", {"payments": "closed"})
    assert shown["checks"]["broken"]["error"] == "ConnectionError: postgres://[redacted]@db refused"
    assert server.ask("/health/", Accept="application/health+json").json["status"] == "warn"


def test_other_methods_and_paths_are_refused(server: Server) -> None:
    answer = server.ask("/health/live", "POST", body=b"x" * 2**20)
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
    assert server.ask("/health/nothing").json == {"error": "not found"}
    assert server.ask("/health/admin/policies").status == 401


def test_two_hundred_probes_at_once_run_each_check_once(server: Server) -> None:
    with ThreadPoolExecutor(50) as pool:
        statuses = set(pool.map(lambda _: server.ask("/health/ready").status, range(200)))

    assert statuses == {200}
    checks = server.ask("/health/ready", token=TOKEN).json["checks"]
    assert (checks["sync"]["details"]["runs"], checks["async"]["details"]["runs"]) == (1, 1)


def test_policies_are_changed_by_holders_of_a_token(server: Server) -> None:
    path = "/health/admin/circuit_breaker/payments/"
    assert server.ask(path + "trip", "POST", body=b'{"duration": 600}').status == 401
    answer = server.ask(path + "trip", "POST", body=b'{"duration": 600}', token=TOKEN)
    assert (answer.status, answer.json["from"], answer.json["to"]) == (200, "closed", "open")
    ready = server.ask("/health/ready", token=TOKEN)
    assert (ready.status, "circuit breaker payments: open" in ready.json["reasons"]) == (200, True)
    assert server.ask(path + "reset", "POST", token=TOKEN).json["to"] == "closed"
    assert server.ask(path + "trip", "POST", body=b" " * 70_000, token=TOKEN).status == 413
    (newest, *_) = server.ask("/health/admin/events", token=TOKEN).json["events"]
    assert newest["data"]["to"] == "closed"
