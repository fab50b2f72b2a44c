"""Requests and answers without a server: what the ASGI and the WSGI app have in common."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from hmac import compare_digest
from typing import Final

from resilient.core.checks import refuse

JSON: Final = "application/json"
HEALTH_JSON: Final = "application/health+json"
READING: Final = ("GET", "HEAD")


@dataclass(frozen=True, slots=True)
class Request:
    """What came in.

    Attributes:
        method: in capitals.
        path: decoded, without the prefix under which the app is mounted; it begins with a slash.
        headers: by name in small letters; several of one name are joined by commas.
        body: empty where nobody is going to read it.
        peer: the address that it came from, where the server tells.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""
    peer: str | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """What goes out. `body` is what a GET gets; HEAD gets all but that."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


def headers_of(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in pairs:
        lower = name.lower()
        headers[lower] = f"{headers[lower]}, {value}" if lower in headers else value
    return headers


def answer(
    request: Request,
    status: int,
    payload: Mapping[str, object],
    *,
    media: str = JSON,
    more: tuple[tuple[str, str], ...] = (),
) -> Response:
    """A JSON object as the answer to this request."""
    body = json.dumps(payload, default=str).encode()
    headers = (
        ("Content-Type", media),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
        *more,
    )
    return Response(status, headers, b"" if request.method == "HEAD" else body)


def refusal(request: Request, status: int, error: str, *more: tuple[str, str]) -> Response:
    """An error as the answer to this request."""
    return answer(request, status, {"error": error}, more=more)


def not_found(request: Request) -> Response:
    return refusal(request, 404, "not found")


def wrong_method(request: Request, allowed: Iterable[str]) -> Response:
    return refusal(request, 405, "method not allowed", ("Allow", ", ".join(allowed)))


def timestamp() -> str:
    """The instant of now, for people: ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def wants_health_json(request: Request) -> bool:
    """Is `application/health+json` asked for by its name?"""
    for part in request.headers.get("accept", "").split(","):
        media, *parameters = (piece.strip().lower() for piece in part.split(";"))
        if media == HEALTH_JSON:
            return not any(
                parameter.replace(" ", "") in ("q=0", "q=0.0", "q=0.00", "q=0.000") for parameter in parameters
            )
    return False


class Tokens:
    """Bearer tokens, by the names of those who have them; kept as hashes, and compared in constant time."""

    __slots__ = ("_digests",)

    def __init__(self, setting: str, token: str | Mapping[str, str] | None) -> None:
        named = {} if token is None else {"": token} if isinstance(token, str) else token
        allowed = "a string that is not empty, names with such strings, or None"
        if not isinstance(named, Mapping):
            refuse("Health", setting, "a token that is not shown", allowed)
        self._digests: dict[str, bytes] = {}
        for name, secret in named.items():
            if (
                not isinstance(name, str)
                or not isinstance(secret, str)
                or not secret.strip()
                or secret != secret.strip()
            ):
                refuse("Health", setting, "a token that is not shown", allowed + "; no blanks around them")
            self._digests[name] = _digest(secret.encode())

    def __bool__(self) -> bool:
        return bool(self._digests)

    def holder(self, request: Request) -> str | None:
        """The name of the one whose token comes with the request ("" for the only one); None: a stranger."""
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        # Headers are bytes, which both kinds of servers hand over as if they were Latin-1.
        digest = _digest(given.strip().encode("latin-1", "replace"))
        holder = None
        for name, known in self._digests.items():
            if compare_digest(digest, known):
                holder = name
        return holder if scheme.lower() == "bearer" else None


def _digest(secret: bytes) -> bytes:
    return sha256(secret).digest()
