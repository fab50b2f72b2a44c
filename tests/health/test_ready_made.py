"""Ready-made checks against the real thing, where there is one on this machine."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trio

from resilient import ConfigurationError
from resilient.health import Check
from resilient.health.ready_made import disk_space, event_loop_lag, http, redis, sqlalchemy, tcp
from resilient.testing import FakeClock


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status = int(self.path.partition("?")[0].strip("/") or 200)
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/503")
        self.end_headers()

    def log_message(self, *args: object) -> None: ...


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        yield httpd.server_port
        httpd.shutdown()
        thread.join()


@pytest.fixture
def nobody() -> Iterator[int]:
    """A port at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


class TestTcp:
    def test_a_connection_is_made(self, server: int) -> None:
        assert Check("db", tcp("127.0.0.1", server)).run().passed

    def test_nobody_listens(self, nobody: int) -> None:
        error = Check("db", tcp("127.0.0.1", nobody)).run().error
        assert error is not None
        assert error.startswith("ConnectionRefusedError")

    @pytest.mark.parametrize("host, port", [("", 1), (None, 1), ("db", 0), ("db", 65536), ("db", "5432")])
    def test_a_wrong_place_is_refused(self, host: Any, port: Any) -> None:
        with pytest.raises(ConfigurationError):
            tcp(host, port)


class TestHttp:
    @pytest.mark.parametrize("status", [200, 204, 299])
    def test_2xx_passes(self, server: int, status: int) -> None:
        report = Check("api", http(f"http://127.0.0.1:{server}/{status}")).run()
        assert report.passed
        assert report.details == {"http_status": status}

    @pytest.mark.parametrize("status, shown", [(404, 404), (500, 500), (302, 503)])
    def test_anything_else_fails(self, server: int, status: int, shown: int) -> None:
        report = Check("api", http(f"http://127.0.0.1:{server}/{status}?token=x")).run()
        assert report.error == f"ConnectionError: HTTP {shown}"

    def test_nobody_listens(self, nobody: int) -> None:
        assert not Check("api", http(f"http://127.0.0.1:{nobody}/")).run().passed

    def test_what_speaks_no_http_fails(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:

            def talk() -> None:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(1000)
                    connection.sendall(b"SSH-2.0-x\r\n")

            thread = threading.Thread(target=talk)
            thread.start()
            report = Check("api", http(f"http://127.0.0.1:{listener.getsockname()[1]}/")).run()
            thread.join()
        assert report.error == "ConnectionError: no HTTP: BadStatusLine"

    @pytest.mark.parametrize("url", ["ftp://db", "file:///etc/passwd", "db:80", "", None, "http://"])
    def test_another_kind_of_url_is_refused_and_not_shown(self, url: Any) -> None:
        with pytest.raises(ConfigurationError) as caught:
            http(url)
        assert "passwd" not in str(caught.value)


class TestSqlalchemy:
    def test_an_engine_tells_of_its_pool(self, tmp_path: Path) -> None:
        alchemy = pytest.importorskip("sqlalchemy")
        engine = alchemy.create_engine(f"sqlite:///{tmp_path}/shop.db", poolclass=alchemy.QueuePool, pool_size=3)
        with engine.connect():
            report = Check("db", sqlalchemy(engine)).run()
        engine.dispose()

        assert report.passed
        assert report.details is not None
        assert report.details["pool_size"] == 3
        assert report.details["pool_in_use"] == 1

    def test_a_pool_that_tells_nothing_is_none(self) -> None:
        alchemy = pytest.importorskip("sqlalchemy")
        engine = alchemy.create_engine("sqlite://", poolclass=alchemy.NullPool)
        report = Check("db", sqlalchemy(engine)).run()
        assert report.passed
        assert not report.details

    def test_a_statement_that_fails_fails(self) -> None:
        alchemy = pytest.importorskip("sqlalchemy")
        engine = alchemy.create_engine("sqlite://", poolclass=alchemy.NullPool)
        error = Check("db", sqlalchemy(engine, statement="SELECT x FROM y")).run().error
        assert error is not None
        assert "no such table" in error

    def test_an_async_engine_is_awaited(self) -> None:
        class Connection:
            async def __aenter__(self) -> Connection:
                return self

            async def __aexit__(self, *failed: object) -> None: ...

            async def exec_driver_sql(self, statement: str) -> None:
                said.append(statement)

        class Pool:
            def checkedout(self) -> int:
                return 1

        class Engine:
            sync_engine = object()
            pool = Pool()

            def connect(self) -> Connection:
                return Connection()

        said: list[str] = []
        report = asyncio.run(Check("db", sqlalchemy(Engine())).run_async())
        assert said == ["SELECT 1"]
        assert report.details == {"pool_in_use": 1}


class RedisServer:
    """Answers PING, as Redis does, and OK to all that clients say before."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.talk, args=(connection,), daemon=True).start()

    def talk(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines:
            while line := lines.readline():
                words = []
                for _ in range(int(line[1:])):
                    size = int(lines.readline()[1:])
                    words.append(lines.read(size + 2)[:-2].upper())
                connection.sendall(b"+PONG\r\n" if words[0] == b"PING" else b"+OK\r\n")


class TestRedis:
    @pytest.fixture
    def server(self) -> Iterator[RedisServer]:
        server = RedisServer()
        yield server
        server.listener.close()

    def test_a_client_is_asked(self, server: RedisServer) -> None:
        client = pytest.importorskip("redis").Redis(port=server.port, protocol=2)
        assert Check("cache", redis(client)).run().passed
        client.close()

    def test_an_async_client_is_awaited(self, server: RedisServer) -> None:
        asynchronous = pytest.importorskip("redis.asyncio")

        async def main() -> bool:
            client = asynchronous.Redis(port=server.port, protocol=2)
            report = await Check("cache", redis(client)).run_async()
            await client.aclose()
            return report.passed

        assert asyncio.run(main())

    def test_nobody_there_fails(self, nobody: int) -> None:
        library = pytest.importorskip("redis")
        client = library.Redis(port=nobody, retry=None)
        assert not Check("cache", redis(client)).run().passed


class TestDiskSpace:
    def test_what_is_free_is_told(self, tmp_path: Path) -> None:
        report = Check("disk", disk_space(tmp_path, 1)).run()
        assert report.passed
        assert report.details is not None
        assert report.details["total_bytes"] == shutil.disk_usage(tmp_path).total

    @pytest.mark.parametrize("least, passes", [(1000, True), (1001, False), (0.1, True), (0.101, False)])
    def test_bytes_or_a_share(self, monkeypatch: pytest.MonkeyPatch, least: float, passes: bool) -> None:
        usage = shutil._ntuple_diskusage(10_000, 9_000, 1_000)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
        assert Check("disk", disk_space("/", least)).run().passed is passes

    @pytest.mark.parametrize("least", [0, -1, True, "1G", float("inf"), float("nan")])
    def test_no_number_is_refused(self, least: Any) -> None:
        with pytest.raises(ConfigurationError):
            disk_space("/", least)


class TestEventLoopLag:
    def test_a_loop_that_is_on_time_passes(self, clock: FakeClock) -> None:
        check = Check("loop", event_loop_lag(0.1), ttl=0)
        assert asyncio.run(check.run_async()).details == {"lag_ms": 0.0}
        assert trio.run(check.run_async).passed

    def test_one_that_is_late_fails(self, clock: FakeClock) -> None:
        async def main() -> str | None:
            asyncio.get_running_loop().call_soon(lambda: asyncio.get_running_loop().call_soon(clock.advance, 0.25))
            return (await Check("loop", event_loop_lag(0.1)).run_async()).error

        assert asyncio.run(main()) == "TimeoutError: woken 250 ms late, 100 ms are allowed"


def test_importing_it_imports_nothing_that_it_asks() -> None:
    heavy = ("asyncio", "sqlalchemy", "redis", "urllib.request", "http.client", "shutil")
    program = f"import sys, resilient.health; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() in ("[]", "['shutil']")
