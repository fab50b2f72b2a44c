"""`resilient status` and `resilient wait`, against a real service on loopback."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest

from resilient import Registry, bulkhead, circuit_breaker
from resilient.cli import main
from resilient.cli.overview import Line, duration, headline, lines
from resilient.cli.status import text
from resilient.health import Health
from tests.cli.test_cli import COMMAND, environment, in_terminal

pytestmark = pytest.mark.realtime


class Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None: ...


@contextmanager
def served(app: Any) -> Iterator[str]:
    with make_server("127.0.0.1", 0, app, handler_class=Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def shop(*, database: bool = True) -> Health:
    registry = Registry()
    circuit_breaker("payments", registry=registry).trip()
    bulkhead("files", max_concurrent=3, registry=registry)
    health = Health(service="shop", version="1.4.2", token="open-sesame", registry=registry)

    @health.check("database")
    def ask() -> None:
        if not database:
            raise ConnectionError("no route to host")

    return health


def test_a_stranger_sees_how_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with served(shop().wsgi()) as url:
        assert main(["status", url]) == 0
    shown = capsys.readouterr().out
    assert "degraded" in shown.splitlines()[0]
    assert "database" in shown
    assert "payments" not in shown


def test_with_the_token_all_of_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESILIENT_TOKEN", "open-sesame")
    with served(shop().wsgi()) as url:
        assert main(["status", url]) == 0
    shown = capsys.readouterr().out
    first, reason, *rest = shown.splitlines()
    assert first == "shop 1.4.2: degraded"
    assert reason == "  circuit breaker payments: open"
    assert [line for line in rest if line and not line.startswith(" ")] == [
        "checks",
        "circuit breakers",
        "bulkheads",
        "system",
    ]
    assert any(line.split()[:2] == ["payments", "open"] for line in rest)
    assert any(line.split()[:4] == ["files", "0", "of", "3"] for line in rest)


def test_an_unhealthy_service_ends_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    with served(shop(database=False).wsgi()) as url:
        assert main(["status", url, "--token", "open-sesame"]) == 1
    assert "ConnectionError: no route to host" in capsys.readouterr().out


def test_as_json_it_is_what_came(capsys: pytest.CaptureFixture[str]) -> None:
    with served(shop().wsgi()) as url:
        assert main(["status", url, "--json", "--token", "open-sesame"]) == 0
    assert json.loads(capsys.readouterr().out)["circuit_breakers"] == {"payments": "open"}


def nothing_there(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/html")])
    return [b"<h1>it works</h1>"]


def missing(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("404 Not Found", [("Content-Type", "text/plain")])
    return [b""]


@pytest.mark.parametrize("app, reason", [(nothing_there, "can't read"), (missing, "answered 404 Not Found")])
def test_where_there_is_nothing_to_show_it_says_so(app: Any, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    with served(app) as url:
        assert main(["status", url]) == 3
    assert reason in capsys.readouterr().err


def test_a_service_that_is_down_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert main(["status", f"http://127.0.0.1:{closed.getsockname()[1]}"]) == 3
    error = capsys.readouterr().err
    assert error.startswith("resilient status: can't read http://127.0.0.1")
    assert error.count("\n") == 1


def test_in_a_terminal_it_is_coloured_unless_no_color_is_set() -> None:
    with served(shop().wsgi()) as url:
        _, coloured = in_terminal("status", url, "--token", "open-sesame")
        _, plain = in_terminal("status", url, "--token", "open-sesame", NO_COLOR="1")
    assert "\x1b[1;31mopen" in coloured
    assert "\x1b[1;31m" not in plain
    assert "open" in plain


@pytest.mark.parametrize("output", ["pipe", "terminal"])
def test_watching_goes_on_until_ctrl_c(output: str) -> None:
    asked = threading.Semaphore(0)
    application = shop().wsgi()

    def counting(environ: dict[str, Any], start_response: Any) -> Any:
        asked.release()
        return application(environ, start_response)

    with served(counting) as url:
        command = [*COMMAND, "status", url, "--watch", "0.05"]
        ours, theirs = os.openpty() if output == "terminal" else os.pipe()
        shown: list[bytes] = []

        # Somebody has to read on: a program whose terminal takes nothing any more can't even say goodbye.
        def read() -> None:
            try:
                while chunk := os.read(ours, 65536):
                    shown.append(chunk)
            except OSError:
                pass  # so a terminal tells that nobody is at its other end any more

        it = subprocess.Popen(
            command, env=environment(TERM="xterm-256color"), stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        reader = threading.Thread(target=read)
        reader.start()
        try:
            for _ in range(3):
                assert asked.acquire(timeout=30)
            it.send_signal(signal.SIGINT)
            assert it.wait(30) == 130
        finally:
            it.kill()
            it.wait()
            reader.join()
            os.close(ours)
        assert b"degraded" in b"".join(shown)


def test_wait_ends_once_all_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    with served(shop().wsgi()) as url, socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        threading.Timer(0.3, listener.listen).start()
        assert main(["wait", f"{url}/live", f"tcp://127.0.0.1:{port}", "--timeout", "20"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.split("s  ", 1)[1].split(":")[0] for line in told][:1] == ["http"]
    assert sum(line.endswith("is there") for line in told) == 2
    assert any("waiting for" in line for line in told)


def test_wait_ends_with_1_and_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"tcp://127.0.0.1:{closed.getsockname()[1]}"
        begun = time.monotonic()
        assert main(["wait", url, "--timeout", "0.3", "--quiet"]) == 1
    assert time.monotonic() - begun < 10
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"resilient wait: {url} is missing after 0.")


@pytest.mark.parametrize(
    "arguments",
    [
        ("status",),
        ("status", "shop"),
        ("status", "http://shop", "--watch", "0"),
        ("wait",),
        ("wait", "http://shop", "--timeout", "soon"),
        ("wait", "ftp://shop"),
        ("demo", "--prometheus", "http"),
        ("demo", "--otlp", "nonsense://x"),
    ],
)
def test_wrong_arguments_are_told_in_a_line(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "resilient", *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_what_a_service_leaves_out_is_left_out() -> None:
    assert text({"status": "healthy"}) == "service: healthy"
    assert lines({"status": "healthy", "checks": {}, "system": None}) == []
    assert headline({"status": "degraded", "service": "shop", "version": None}) == "shop: degraded"


def test_a_full_bulkhead_and_a_level_catch_the_eye() -> None:
    shown = lines(
        {
            "bulkheads": {"files": {"in_flight": 3, "limit": 3, "queued": 1, "max_queue": 5, "rejected": 7}},
            "degradation": {"upstream": "reduced"},
        }
    )
    assert shown == [
        Line("bulkheads", "files", "3 of 3", "warn", "7 refused, 1 of 5 places in the queue taken"),
        Line("degradation", "upstream", "reduced", "warn"),
    ]


@pytest.mark.parametrize(
    "seconds, shown", [(0.42, "0.4 s"), (61, "1 min 1 s"), (3600, "1 h 0 min"), (3 * 86400 + 4 * 3600, "3 d 4 h")]
)
def test_durations_have_two_units(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown
