"""Middlewares for WSGI applications, the twins of those in `resilient.middleware.asgi`.

Each is a class that takes the application first:

    >>> from resilient.middleware.wsgi import RequestId, standard
    >>> def app(environ, start_response):
    ...     start_response("200 OK", [])
    ...     return [b"done"]
    >>> guarded = standard(app, limit=100)  # all of them, in their order
    >>> traced = RequestId(app)  # or one
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from resilient import context
from resilient.core.checks import Seconds
from resilient.middleware.answers import Answer, answer, answer_to
from resilient.middleware.rules import (
    DEADLINE_HEADERS,
    FORWARDED_FOR,
    ID_HEADERS,
    REQUEST_ID,
    BaseInboundDeadline,
    BaseLoadShedding,
    BaseRateLimit,
    BaseSecurityHeaders,
    Until,
    log_answered,
    log_late,
    mark_span,
    shown,
)
from resilient.policies.sheddable import Priority

if TYPE_CHECKING:
    from resilient.degradation import Degradation

__all__ = ["ErrorShield", "InboundDeadline", "LoadShedding", "RateLimit", "RequestId", "SecurityHeaders", "standard"]

Headers = list[tuple[str, str]]
ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]
Write = Callable[[bytes], object]


class RequestId:
    """Gives each request an id: that of its headers, or a fresh one.

    The id is that of `resilient.context` while code of the request runs, so it stands in log lines and goes out with
    `outbound_headers()`; it is an attribute of the current span (`resilience.request.id`), and in the response's
    `X-Request-ID`. Which ids are taken: `resilient.context.from_headers`.

    Example:
        >>> from resilient.middleware.wsgi import RequestId
        >>> def app(environ, start_response): ...
        >>> guarded = RequestId(app)
    """

    def __init__(self, app: WSGIApplication) -> None:
        self.app = app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request_id = context.from_headers(_headers(environ, ID_HEADERS))
        mark_span(request_id)

        def start_with_id(status: str, headers: Headers, exc_info: ExcInfo | None = None) -> Write:
            others = [header for header in headers if header[0].lower() != REQUEST_ID.lower()]
            return _start(start_response, status, [*others, (REQUEST_ID, request_id)], exc_info)

        bound = _Bound({"request_id": request_id})
        with bound:
            body = self.app(environ, start_with_id)
        return _within(bound, body, environ)


class ErrorShield:
    """Answers where the application raises: a status and the request id in JSON, and nothing of the error.

    504 for `TimeoutExceededError`; 503 for `RejectedError`, with `Retry-After` where the policy knows; 500 for all
    else. The whole error goes to the logger `resilient.middleware`. Where the response has begun, the error passes on,
    so that the server breaks it off; `SystemExit` and its like always pass.

    Example:
        >>> from resilient.middleware.wsgi import ErrorShield
        >>> def app(environ, start_response): ...
        >>> guarded = ErrorShield(app)
    """

    def __init__(self, app: WSGIApplication) -> None:
        self.app = app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request_id = context.request_id() or context.new_id()

        def reply_to(error: Exception) -> list[bytes]:
            request = shown(environ["REQUEST_METHOD"], environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", ""))
            reply = answer_to(error, request_id)
            try:
                # Only the server knows whether the response has begun: then it raises the error again.
                parts = _respond(environ, start_response, reply, sys.exc_info())
            except BaseException:
                log_late(error, request, request_id)
                raise
            log_answered(error, reply.status, request, request_id)
            return parts

        try:
            body = self.app(environ, start_response)
        except Exception as error:  # noqa: BLE001 - the client is told, and the log
            return reply_to(error)
        return body if _runs_no_code(body, environ) else _Shielded(body, reply_to)


class InboundDeadline(BaseInboundDeadline[WSGIApplication]):
    """Makes the time that the client is going to wait the deadline of the request: `current_deadline()`.

    Reads `X-Request-Timeout` and `grpc-timeout`, the shorter of the two. A request whose time is over already is
    answered with 504 and goes no further. Policies, and clients that are given `remaining()`, keep to the deadline; an
    application that does not is not interrupted.

    Args:
        app: the application.
        maximum: seconds that a client can ask for at most.
        default: seconds for requests without such a header, at most `maximum`; None: they have no deadline.

    Raises:
        ConfigurationError: a setting is wrong.

    Example:
        >>> from resilient.middleware.wsgi import InboundDeadline
        >>> def app(environ, start_response): ...
        >>> guarded = InboundDeadline(app, maximum=30.0, default=10.0)
    """

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        seconds = self._seconds(_headers(environ, DEADLINE_HEADERS))
        if seconds is None:
            return self.app(environ, start_response)
        if seconds == 0:
            return _respond(environ, start_response, answer(504))
        until = Until(seconds)
        with until:
            body = self.app(environ, start_response)
        return _within(until, body, environ)


class RateLimit(BaseRateLimit[WSGIApplication, WSGIEnvironment]):
    """Lets each client make so many requests; others are answered with 429 and `Retry-After`.

    A client is an IPv4 address, or a /64 network of IPv6. The settings are those of `rate_limiter`, and so is what
    stands in metrics and in the registry.

    Args:
        app: the application.
        limit: requests of a client in a `period`, at least 1.
        period: seconds, above 0.
        burst: requests at once, at least 1. Default: `limit`.
        key: what stands for the client in the place of its address, from the environ; None lets the request pass.
        max_keys: so many clients are remembered; the one that has been away for longest goes.
        trusted_proxies: addresses and networks of peers whose `X-Forwarded-For` is believed; "unix" is a peer without
            an address. Default: nobody's.
        name: of the rate limiter; all who give it share its limits, and must give equal settings. Default:
            "http_clients" in metrics and the registry, where a later one without a name takes its place.
        registry: where the name is registered.

    Raises:
        ConfigurationError: a setting is wrong, or the name has other settings already.

    Example:
        >>> from resilient.middleware.wsgi import RateLimit
        >>> def app(environ, start_response): ...
        >>> guarded = RateLimit(app, limit=100, period=60.0)
    """

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        refusal = self._refusal(environ)
        return self.app(environ, start_response) if refusal is None else _respond(environ, start_response, refusal)

    def _origin(self, request: WSGIEnvironment) -> tuple[str, str | None]:
        return request.get("REMOTE_ADDR") or "", _headers(request, (FORWARDED_FOR,)).get(FORWARDED_FOR)


class LoadShedding(BaseLoadShedding[WSGIApplication, WSGIEnvironment]):
    """Answers with 503 and `Retry-After` what a service under pressure has no room for, the least important first.

    Args:
        app: the application.
        degradation: whose level decides; which priorities go when is said at `Degradation.sheddable`.
        priority: the priority of a request, from its environ: "critical", "standard", "best_effort" or "bulk".
            Default, and where it gives None: "standard".
        retry_after: seconds after which a client may come back.
        name: of the policies behind it, one for each priority: "name.bulk". Default: "http_requests", as with
            `RateLimit`.

    Raises:
        ConfigurationError: a setting is wrong, or a name has other settings already.

    Example:
        >>> from resilient.degradation import Degradation
        >>> from resilient.middleware.wsgi import LoadShedding
        >>> def app(environ, start_response): ...
        >>> guarded = LoadShedding(app, degradation=Degradation())
    """

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        refusal = self._refusal(environ)
        return self.app(environ, start_response) if refusal is None else _respond(environ, start_response, refusal)


class SecurityHeaders(BaseSecurityHeaders[WSGIApplication]):
    """Adds the headers that an API should answer with; what the application sets itself stays as it is.

    `X-Content-Type-Options: nosniff`, `X-Frame-Options: DENY`, `Referrer-Policy: no-referrer`,
    `Content-Security-Policy: default-src 'none'; frame-ancestors 'none'`, and over https
    `Strict-Transport-Security: max-age=31536000`.

    Args:
        app: the application.
        headers: others, or other values; None leaves one out.

    Raises:
        ConfigurationError: what is no name or value of a header.

    Example:
        >>> from resilient.middleware.wsgi import SecurityHeaders
        >>> def app(environ, start_response): ...
        >>> guarded = SecurityHeaders(app, headers={"X-Frame-Options": None})
    """

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        scheme = environ.get("wsgi.url_scheme", "http")

        def start_with_headers(status: str, headers: Headers, exc_info: ExcInfo | None = None) -> Write:
            missing = self._missing({name.lower() for name, _ in headers}, scheme)
            return _start(start_response, status, [*headers, *missing], exc_info)

        return self.app(environ, start_with_headers)


def standard(
    app: WSGIApplication,
    *,
    limit: int | None = None,
    period: Seconds = 1.0,
    burst: int | None = None,
    key: Callable[[WSGIEnvironment], Hashable | None] | None = None,
    trusted_proxies: Iterable[str] = (),
    degradation: Degradation | None = None,
    priority: Callable[[WSGIEnvironment], Priority | None] | None = None,
    maximum: Seconds = 60.0,
    default: Seconds | None = None,
    headers: Mapping[str, str | None] | None = None,
) -> WSGIApplication:
    """All middlewares around an application, in the order in which they need each other.

    Outermost first: `RequestId`, `SecurityHeaders`, `ErrorShield`, `RateLimit`, `LoadShedding`, `InboundDeadline`.

    Args:
        app: the application.
        limit: of `RateLimit`, as `period`, `burst`, `key` and `trusted_proxies`. Default: no such limit.
        degradation: of `LoadShedding`, as `priority`. Default: nothing is shed.
        maximum: of `InboundDeadline`, as `default`.
        headers: of `SecurityHeaders`.

    Raises:
        ConfigurationError: a setting is wrong.

    Example:
        >>> from resilient.middleware.wsgi import standard
        >>> def app(environ, start_response): ...
        >>> guarded = standard(app, limit=100, default=10.0)
    """
    app = InboundDeadline(app, maximum=maximum, default=default)
    if degradation is not None:
        app = LoadShedding(app, degradation=degradation, priority=priority)
    if limit is not None:
        app = RateLimit(app, limit=limit, period=period, burst=burst, key=key, trusted_proxies=trusted_proxies)
    return RequestId(SecurityHeaders(ErrorShield(app), headers=headers))


class _Body:
    """The body of an application's, as the iterable that the server goes through and closes."""

    __slots__ = ("_body", "_parts")

    def __init__(self, body: Iterable[bytes]) -> None:
        self._body: Any = body
        self._parts: Iterator[bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        # Not before: making the iterator may already run code of the application's.
        if self._parts is None:
            self._parts = iter(self._body)
        return next(self._parts)

    def close(self) -> None:
        close = getattr(self._body, "close", None)
        if close is not None:
            close()


class _BodyWithin(_Body):
    """With a block around each of its steps: between them other code runs on the thread."""

    __slots__ = ("_block",)

    def __init__(self, block: AbstractContextManager[object], body: Iterable[bytes]) -> None:
        super().__init__(body)
        self._block = block

    def __next__(self) -> bytes:
        with self._block:
            return super().__next__()

    def close(self) -> None:
        with self._block:
            super().close()


class _Shielded(_Body):
    """Where a step raises, it goes on with what `reply_to` gives, if the server still takes that."""

    __slots__ = ("_reply_to",)

    def __init__(self, body: Iterable[bytes], reply_to: Callable[[Exception], list[bytes]]) -> None:
        super().__init__(body)
        self._reply_to = reply_to

    def __next__(self) -> bytes:
        try:
            return super().__next__()
        except StopIteration:
            raise
        except Exception as error:  # noqa: BLE001 - the client is told, and the log
            self._parts = iter(self._reply_to(error))
            return next(self._parts, b"")


class _Bound:
    """A block in which fields are bound to the context; what is bound inside is there when it is entered again."""

    __slots__ = ("_binding", "_fields")

    def __init__(self, fields: Mapping[str, object]) -> None:
        self._fields = fields
        self._binding: context.Binding | None = None

    def __enter__(self) -> None:
        self._binding = context.Binding(self._fields)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        binding, self._binding = self._binding, None
        if binding is not None:
            self._fields = context.bound()
            binding.unbind()


def _within(block: AbstractContextManager[object], body: Iterable[bytes], environ: WSGIEnvironment) -> Iterable[bytes]:
    return body if _runs_no_code(body, environ) else _BodyWithin(block, body)


def _runs_no_code(body: Iterable[bytes], environ: WSGIEnvironment) -> bool:
    """Is it of a kind that servers know, and handle better as it is? There is nothing of the application's to run."""
    if type(body) in (list, tuple):
        return True
    wrapper = environ.get("wsgi.file_wrapper")
    return isinstance(wrapper, type) and isinstance(body, wrapper)


def _headers(environ: WSGIEnvironment, names: Sequence[str]) -> dict[str, str]:
    keys = {name: "HTTP_" + name.upper().replace("-", "_") for name in names}
    return {name: environ[key] for name, key in keys.items() if key in environ}


def _start(start_response: StartResponse, status: str, headers: Headers, exc_info: ExcInfo | None) -> Write:
    if exc_info is None:
        return start_response(status, headers)
    return start_response(status, headers, exc_info)


def _respond(
    environ: WSGIEnvironment, start_response: StartResponse, reply: Answer, exc_info: ExcInfo | None = None
) -> list[bytes]:
    _start(start_response, reply.status_line, list(reply.headers), exc_info)
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [reply.body]
