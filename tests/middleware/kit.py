"""Servers made by hand, strict about their protocol, and one way to ask applications of either kind."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import trio

from resilient.middleware import asgi, wsgi

Pairs = Sequence[tuple[str, str]]


@dataclass
class Reply:
    """What a client got."""

    status: int
    pairs: list[tuple[str, str]]
    body: bytes = b""
    chunks: list[bytes] = field(default_factory=list)

    @property
    def headers(self) -> dict[str, str]:
        names = [name.lower() for name, _ in self.pairs]
        assert len(set(names)) == len(names), f"a header came twice: {self.pairs}"
        return {name.lower(): value for name, value in self.pairs}

    def json(self) -> Any:
        return json.loads(self.body)


class ASGIServer:
    """One connection: takes messages in the one order that the specification allows."""

    def __init__(self, incoming: Iterable[dict[str, Any]] = ()) -> None:
        self.incoming = list(incoming) or [{"type": "http.request", "body": b"", "more_body": False}]
        self.sent: list[Any] = []
        self.reply: Reply | None = None
        self.complete = False

    async def receive(self) -> Any:
        return self.incoming.pop(0) if self.incoming else {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)
        if message["type"] == "http.response.start":
            assert self.reply is None, "started twice"
            pairs = [
                (bytes(name).decode("latin-1"), bytes(value).decode("latin-1")) for name, value in message["headers"]
            ]
            assert all(name == name.lower() for name, _ in pairs)
            self.reply = Reply(message["status"], pairs)
        elif message["type"] == "http.response.body":
            assert self.reply is not None, "a body without a start"
            assert not self.complete, "a body after the last"
            self.reply.chunks.append(message.get("body", b""))
            self.reply.body = b"".join(self.reply.chunks)
            self.complete = not message.get("more_body", False)

    async def ask(self, app: Any, scope: dict[str, Any]) -> Reply:
        await app(scope, self.receive, self.send)
        assert self.reply is not None, "no answer"
        assert self.complete, "half an answer"
        return self.reply


def http_scope(
    method: str = "GET", path: str = "/", headers: Pairs = (), client: str | None = "192.0.2.1", scheme: str = "http"
) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": scheme,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers],
        "client": None if client is None else (client, 50000),
        "server": ("127.0.0.1", 80),
    }


class WSGIServer:
    """One request, as PEP 3333 has it: the head goes out with the first bytes."""

    def __init__(self) -> None:
        self.head: tuple[str, list[tuple[str, str]]] | None = None
        self.head_sent = False
        self.chunks: list[bytes] = []
        self.between: Callable[[], object] = lambda: None

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None, /) -> Any:
        if exc_info is not None:
            if self.head_sent:
                raise exc_info[1].with_traceback(exc_info[2])
        else:
            assert self.head is None, "started twice"
        assert type(headers) is list
        self.head = status, headers
        return self.write

    def write(self, data: bytes) -> None:
        assert self.head is not None, "a body without a start"
        if data:
            self.head_sent = True
            self.chunks.append(data)

    def ask(self, app: Any, environ: dict[str, Any]) -> Reply:
        body = app(environ, self.start_response)
        self.between()
        try:
            for chunk in body:
                self.between()
                self.write(chunk)
        finally:
            if hasattr(body, "close"):
                body.close()
            self.between()
        assert self.head is not None, "no answer"
        status, headers = self.head
        return Reply(int(status[:3]), headers, b"".join(self.chunks), self.chunks)


def http_environ(
    method: str = "GET", path: str = "/", headers: Pairs = (), client: str | None = "192.0.2.1", scheme: str = "http"
) -> dict[str, Any]:
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": client or "",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scheme,
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in headers:
        key = "HTTP_" + name.upper().replace("-", "_")
        environ[key] = f"{environ[key]},{value}" if key in environ else value
    return environ


@dataclass
class Twin:
    """One of the two kinds of applications, and a way to run it."""

    name: str
    module: ModuleType

    def app(self, handle: Callable[[], object] = lambda: None, *, headers: Pairs = (), status: str = "200 OK") -> Any:
        """An application that runs `handle` and answers with what that gives, as text."""
        raise NotImplementedError

    def ask(self, app: Any, method: str = "GET", path: str = "/", headers: Pairs = (), **more: Any) -> Reply:
        raise NotImplementedError


def asgi_app(handle: Callable[[], object], headers: Pairs = (), status: str = "200 OK") -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = str(handle()).encode()
        raw = [(name.lower().encode(), value.encode()) for name, value in headers]
        await send({"type": "http.response.start", "status": int(status[:3]), "headers": raw})
        await send({"type": "http.response.body", "body": body})

    return app


class ASGITwin(Twin):
    def __init__(self, name: str, run: Callable[[Callable[[], Awaitable[Any]]], Any]) -> None:
        super().__init__(name, asgi)
        self.run = run

    def app(self, handle: Callable[[], object] = lambda: None, *, headers: Pairs = (), status: str = "200 OK") -> Any:
        return asgi_app(handle, headers, status)

    def ask(self, app: Any, method: str = "GET", path: str = "/", headers: Pairs = (), **more: Any) -> Reply:
        scope = http_scope(method, path, headers, **more)
        reply: Reply = self.run(lambda: ASGIServer().ask(app, scope))
        return reply


class WSGITwin(Twin):
    def __init__(self, name: str, lazy: bool) -> None:
        super().__init__(name, wsgi)
        self.lazy = lazy

    def app(self, handle: Callable[[], object] = lambda: None, *, headers: Pairs = (), status: str = "200 OK") -> Any:
        def app(environ: Any, start_response: Any) -> Iterable[bytes]:
            body = str(handle()).encode()
            start_response(status, list(headers))
            return [body]

        def lazy_app(environ: Any, start_response: Any) -> Iterator[bytes]:
            yield from app(environ, start_response)

        return lazy_app if self.lazy else app

    def ask(self, app: Any, method: str = "GET", path: str = "/", headers: Pairs = (), **more: Any) -> Reply:
        return WSGIServer().ask(app, http_environ(method, path, headers, **more))


def on_asyncio(main: Callable[[], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        return await main()

    return asyncio.run(run())


def on_trio(main: Callable[[], Awaitable[Any]]) -> Any:
    return trio.run(main)


TWINS: list[Twin] = [
    ASGITwin("asgi on asyncio", on_asyncio),
    ASGITwin("asgi on trio", on_trio),
    WSGITwin("wsgi", lazy=False),
    WSGITwin("wsgi, from a generator", lazy=True),
]
LOOPS = [on_asyncio, on_trio]
