"""Asking the apps, without a server."""

from __future__ import annotations

import asyncio
import io
import json
from dataclasses import dataclass
from typing import Any, Protocol

import trio

from resilient.health import Health


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Face(Protocol):
    """One way to ask."""

    name: str

    def ask(
        self,
        health: Health,
        path: str,
        *,
        method: str = "GET",
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        token: str | None = None,
        root: str = "",
    ) -> Answer: ...


def with_token(headers: dict[str, str] | None, token: str | None) -> dict[str, str]:
    return {**(headers or {}), **({} if token is None else {"Authorization": f"Bearer {token}"})}


async def ask_asgi(
    app: Any, path: str, method: str = "GET", headers: dict[str, str] | None = None, body: bytes = b"", root: str = ""
) -> Answer:
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "method": method,
        "path": root + path,
        "root_path": root,
        "headers": [(key.lower().encode("latin-1"), value.encode("latin-1")) for key, value in (headers or {}).items()],
        "client": ("192.0.2.7", 4711),
    }
    chunks = [body[start : start + 16384] for start in range(0, len(body), 16384)] or [b""]
    incoming = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    incoming[-1]["more_body"] = False
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return incoming.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    start, *rest = sent
    assert start["type"] == "http.response.start"
    assert [message["type"] for message in rest] == ["http.response.body"]
    shown = {key.decode(): value.decode() for key, value in start["headers"]}
    return Answer(start["status"], shown, rest[0]["body"])


def ask_wsgi(
    app: Any, path: str, method: str = "GET", headers: dict[str, str] | None = None, body: bytes = b"", root: str = ""
) -> Answer:
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": root,
        "PATH_INFO": path.encode().decode("latin-1"),
        "REMOTE_ADDR": "192.0.2.7",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
        **{f"HTTP_{key.upper().replace('-', '_')}": value for key, value in (headers or {}).items()},
    }
    started: list[tuple[str, list[tuple[str, str]]]] = []
    content = b"".join(app(environ, lambda status, found: started.append((status, found))))
    ((status, found),) = started
    return Answer(int(status.partition(" ")[0]), {key.lower(): value for key, value in found}, content)


class Wsgi:
    name = "wsgi"

    def ask(
        self,
        health: Health,
        path: str,
        *,
        method: str = "GET",
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        token: str | None = None,
        root: str = "",
    ) -> Answer:
        return ask_wsgi(health.wsgi(), path, method, with_token(headers, token), body, root)


class Asgi:
    def __init__(self, loop: str) -> None:
        self.name = f"asgi on {loop}"
        self._loop = loop

    def ask(
        self,
        health: Health,
        path: str,
        *,
        method: str = "GET",
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        token: str | None = None,
        root: str = "",
    ) -> Answer:
        async def main() -> Answer:
            return await ask_asgi(health.asgi(), path, method, with_token(headers, token), body, root)

        return asyncio.run(main()) if self._loop == "asyncio" else trio.run(main)


FACES: list[Face] = [Wsgi(), Asgi("asyncio"), Asgi("trio")]
