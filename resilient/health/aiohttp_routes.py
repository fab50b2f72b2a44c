"""The health app for aiohttp, which speaks neither ASGI nor WSGI."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import Any

from resilient.health.health import Health
from resilient.health.prefixes import below, checked_prefix
from resilient.health.responses import Request, headers_of, refusal


def add_routes(app: Any, health: Health, *, prefix: str = "/health") -> None:
    """Answer all below `prefix` in an aiohttp application.

    Raises:
        ConfigurationError: the prefix is no path.
    """
    web: Any = import_module("aiohttp.web")
    mounted = checked_prefix("add_routes", prefix)

    async def answer(incoming: Any) -> Any:
        request = Request(
            incoming.method,
            below(mounted, incoming.path) or "/",
            headers_of(incoming.headers.items()),
            peer=incoming.remote,
        )
        response = None
        limit = health.body_limit(request)
        if limit:
            body = b""
            while len(body) <= limit and (chunk := await incoming.content.read(limit + 1 - len(body))):
                body += chunk
            if len(body) > limit:
                response = refusal(request, 413, f"a body of {limit} bytes at most")
            request = replace(request, body=body)
        if response is None:
            response = await health.respond_async(request)
        return web.Response(status=response.status, headers=dict(response.headers), body=response.body)

    app.router.add_route("*", mounted + "/{path:.*}", answer)
    if mounted:
        app.router.add_route("*", mounted, answer)
