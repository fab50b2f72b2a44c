"""Real servers and frameworks: uvicorn with Starlette, gunicorn with Flask."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection, IncompleteRead, RemoteDisconnected
from pathlib import Path
from typing import Any

import pytest

from tests.receivers.process import HOST, eventually, reserved_ports, running

pytestmark = pytest.mark.realtime

ROOT = Path(__file__).parents[2]

COMMON = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from resilient import CircuitOpenError, context, current_deadline

def seen():
    deadline = current_deadline()
    return {{"id": context.request_id(), "left": deadline and round(deadline.remaining(), 1)}}

def parts(last):
    for number in range(3):
        yield f"{{context.request_id()}}-{{number}} "
    if last:
        raise ValueError("hunter2")

afterwards = []
"""

STARLETTE = (
    COMMON
    + """
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route
from resilient.middleware.asgi import standard

async def show(request): return JSONResponse(seen(), background=BackgroundTask(lambda: afterwards.append(seen()["id"])))
async def fail(request): raise ValueError("hunter2")
async def busy(request): raise CircuitOpenError("open", retry_after=2.5)
async def stream(request): return StreamingResponse(parts(False))
async def broken(request): return StreamingResponse(parts(True))
async def after(request): return JSONResponse(afterwards)

paths = {"/": show, "/fail": fail, "/busy": busy, "/stream": stream, "/broken": broken, "/after": after}
app = Starlette(routes=[Route(path, do, methods=["GET", "POST"]) for path, do in paths.items()])
app.add_middleware(standard, limit=1, period=3600, key=lambda scope: dict(scope["headers"]).get(b"x-client"))
"""
)

FLASK = (
    COMMON
    + """
from flask import Flask, Response
from resilient.middleware.wsgi import standard

app = Flask("app")
app.config["PROPAGATE_EXCEPTIONS"] = True
both = {"methods": ["GET", "POST"]}

@app.route("/", **both)
def show(): return seen()
@app.route("/fail", **both)
def fail(): raise ValueError("hunter2")
@app.route("/busy", **both)
def busy(): raise CircuitOpenError("open", retry_after=2.5)
@app.route("/stream", **both)
def stream(): return Response(parts(False))
@app.route("/broken", **both)
def broken(): return Response(parts(True))

app.wsgi_app = standard(app.wsgi_app, limit=1, period=3600, key=lambda environ: environ.get("HTTP_X_CLIENT"))
"""
)


@dataclass
class Service:
    name: str
    port: int
    output: Path

    def ask(self, path: str = "/", method: str = "GET", body: bytes | None = None, **headers: str) -> Any:
        connection = HTTPConnection(HOST, self.port, timeout=10)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, {"X-Request-ID": "r-17", **named})
            answer = connection.getresponse()
            return answer.status, dict(answer.headers.items()), answer.read()
        finally:
            connection.close()


@pytest.fixture(scope="module", params=["uvicorn and Starlette", "gunicorn and Flask"])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    uvicorn = request.param.startswith("uvicorn")
    (folder / "service.py").write_text(STARLETTE if uvicorn else FLASK)
    with reserved_ports(1) as (port,):
        command = [sys.executable, "-m", "uvicorn", "service:app", "--host", HOST, "--port", str(port)]
        if not uvicorn:
            command = [sys.executable, "-m", "gunicorn", "service:app", "--bind", f"{HOST}:{port}", "--threads", "4"]
        with running(command, folder, f"http://{HOST}:{port}/"):
            yield Service(request.param, port, folder / "output")


def lower(headers: dict[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def test_id_and_deadline_reach_the_handler_and_the_id_the_client(service: Service) -> None:
    status, headers, body = service.ask(X_Request_Timeout="5", grpc_timeout="9S")
    assert status == 200
    assert json.loads(body) in ({"id": "r-17", "left": 5.0}, {"id": "r-17", "left": 4.9})
    assert lower(headers)["x-request-id"] == "r-17"
    assert lower(headers)["x-frame-options"] == "DENY"
    assert "strict-transport-security" not in lower(headers)


def test_an_error_is_json_outside_and_whole_in_the_log(service: Service) -> None:
    status, headers, body = service.ask("/fail")
    assert status == 500
    assert json.loads(body) == {"status": 500, "error": "internal_error", "request_id": "r-17"}
    assert lower(headers)["x-request-id"] == "r-17"
    told = eventually(service.output.read_text, lambda text: "hunter2" in text)
    assert "GET /fail [request r-17] answered with 500" in told
    assert 'raise ValueError("hunter2")' in told


def test_refusals_of_policies_and_of_the_middlewares(service: Service) -> None:
    status, headers, _ = service.ask("/busy")
    assert (status, lower(headers)["retry-after"]) == (503, "3")
    assert service.ask(X_Request_Timeout="0")[0] == 504
    assert service.ask(X_Client="anna")[0] == 200
    status, headers, _ = service.ask(X_Client="anna")
    assert status == 429
    assert 3590 <= int(lower(headers)["retry-after"]) <= 3600
    assert service.ask(method="POST", body=b"x" * 1_000_000, X_Client="anna")[0] == 429


def test_a_stream_runs_in_its_request(service: Service) -> None:
    assert service.ask("/stream")[2] == b"r-17-0 r-17-1 r-17-2 "


def test_a_stream_that_fails_is_broken_off_and_not_mended(service: Service) -> None:
    with pytest.raises((IncompleteRead, RemoteDisconnected)) as raised:
        service.ask("/broken")
    assert "internal_error" not in str(getattr(raised.value, "partial", b""))
    told = eventually(service.output.read_text, lambda text: "/broken [request r-17]" in text)
    assert "GET /broken [request r-17] failed after its response had begun" in told


def test_a_connection_goes_on_after_answers_without_a_body(service: Service) -> None:
    connection = HTTPConnection(HOST, service.port, timeout=10)
    try:
        for method, path, expected in (
            ("HEAD", "/fail", 500),
            ("GET", "/", 200),
            ("HEAD", "/", 200),
            ("GET", "/", 200),
        ):
            connection.request(method, path, headers={"X-Request-ID": "r-17"})
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status in (expected, 405)
            assert (method == "HEAD") == (body == b"")
    finally:
        connection.close()


def test_background_tasks_belong_to_their_request(service: Service) -> None:
    if "Flask" in service.name:
        pytest.skip("WSGI has no such thing")
    service.ask(X_Request_ID="r-background")
    eventually(lambda: json.loads(service.ask("/after")[2]), lambda ids: "r-background" in ids, timeout=5)
