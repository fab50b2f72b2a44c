"""The health app for servers and frameworks that speak ASGI 3; depends on none of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from resilient.health.prefixes import below, checked_prefix
from resilient.health.responses import Request, Response, headers_of, refusal

if TYPE_CHECKING:
    from resilient.health.health import Health

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


def asgi_app(health: Health, application: ASGIApp | None, prefix: str) -> ASGIApp:
    """What `Health.asgi` gives."""
    mounted = checked_prefix("Health.asgi", prefix)

    async def app(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        kind = scope["type"]
        path = _path_of(scope) if kind in ("http", "websocket") else None
        if application is not None:
            path = None if path is None else below(mounted, path)
            if kind != "http" or path is None:
                await application(scope, receive, send)
                return
        if kind == "http" and path is not None:
            await _answer(health, scope, path, receive, send)
        elif kind == "lifespan":
            await _live(receive, send)
        elif kind == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})

    return app


async def _answer(health: Health, scope: MutableMapping[str, Any], path: str, receive: Receive, send: Send) -> None:
    client = scope.get("client")
    headers = headers_of((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
    request = Request(scope["method"], path, headers, peer=client[0] if client else None)
    limit = health.body_limit(request)
    response: Response | None = None
    if limit:
        body = await _read(receive, limit)
        if body is None:
            return
        if len(body) > limit:
            response = refusal(request, 413, f"a body of {limit} bytes at most")
        request = replace(request, body=body)
    if response is None:
        response = await health.respond_async(request)
    raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.headers]
    await send({"type": "http.response.start", "status": response.status, "headers": raw})
    await send({"type": "http.response.body", "body": response.body})


async def _read(receive: Receive, limit: int) -> bytes | None:
    """The body, or a little more than `limit` of it; None: the client has gone."""
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        chunk: bytes = message.get("body", b"")
        chunks.append(chunk)
        size += len(chunk)
        if size > limit or not message.get("more_body", False):
            return b"".join(chunks)


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def _path_of(scope: MutableMapping[str, Any]) -> str:
    """The path below the mount. Servers and frameworks put `root_path` before it; old ones don't."""
    path: str = scope["path"]
    root = str(scope.get("root_path") or "").rstrip("/")
    rest = below(root, path) if root else None
    return path if rest is None else rest
