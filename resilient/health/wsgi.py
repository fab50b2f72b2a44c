"""The health app for servers and frameworks that speak WSGI; depends on none of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from resilient.health.prefixes import below, checked_prefix
from resilient.health.responses import Request, Response, headers_of, refusal

if TYPE_CHECKING:
    from resilient.health.health import Health

Environ = dict[str, Any]
WSGIApp = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]


def wsgi_app(health: Health, application: WSGIApp | None, prefix: str) -> WSGIApp:
    """What `Health.wsgi` gives."""
    mounted = checked_prefix("Health.wsgi", prefix)

    def app(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        # Bytes, which the server hands over as if they were Latin-1.
        path = str(environ.get("PATH_INFO") or "/").encode("latin-1", "replace").decode("utf-8", "replace")
        if application is not None:
            rest = below(mounted, path)
            if rest is None:
                return application(environ, start_response)
            path = rest
        response = _answer(health, environ, path)
        status = HTTPStatus(response.status)
        start_response(f"{status.value} {status.phrase}", list(response.headers))
        return [response.body]

    return app


def _answer(health: Health, environ: Environ, path: str) -> Response:
    headers = headers_of(
        (name[5:].replace("_", "-"), str(value)) for name, value in environ.items() if name.startswith("HTTP_")
    )
    request = Request(environ["REQUEST_METHOD"], path, headers, peer=environ.get("REMOTE_ADDR"))
    limit = health.body_limit(request)
    if limit:
        body = _read(environ, limit)
        if body is None:
            return refusal(request, 400, "Content-Length is no number")
        if len(body) > limit:
            return refusal(request, 413, f"a body of {limit} bytes at most")
        request = replace(request, body=body)
    return health.respond(request)


def _read(environ: Environ, limit: int) -> bytes | None:
    """The body, or a little more than `limit` of it; None: nobody can tell how long it is."""
    stated = environ.get("CONTENT_LENGTH") or ""
    if not stated:
        # A server that ends the input where the body ends says so; elsewhere one would wait for ever.
        ends = environ.get("wsgi.input_terminated")
        body: bytes = environ["wsgi.input"].read(limit + 1) if ends else b""
        return body
    if not (stated.isascii() and stated.isdigit()):
        return None
    body = environ["wsgi.input"].read(min(int(stated), limit + 1))
    return body
