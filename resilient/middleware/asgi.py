"""Middlewares for ASGI applications: HTTP requests; websockets and lifespan pass through.

Each is a class that takes the application first, so that frameworks can add them by their own means as well:

    >>> from resilient.middleware.asgi import RequestId, standard
    >>> async def app(scope, receive, send):
    ...     ...
    >>> guarded = standard(app, limit=100)  # all of them, in their order
    >>> traced = RequestId(app)  # or one
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from resilient import context
from resilient.core.checks import Checker, Seconds
from resilient.core.clock import CLOCK
from resilient.errors import TimeoutExceededError
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
    log_alone,
    log_answered,
    log_late,
    mark_span,
    shown,
)
from resilient.policies.sheddable import Priority
from resilient.policies.timeout import timeout

if TYPE_CHECKING:
    from resilient.degradation import Degradation

__all__ = ["ErrorShield", "InboundDeadline", "LoadShedding", "RateLimit", "RequestId", "SecurityHeaders", "standard"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

# What headers of a response go out with.
_STARTS: Final = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})


class RequestId:
    """Gives each request an id: that of its headers, or a fresh one.

    The id is that of `resilient.context` while the request lasts, so it stands in log lines and goes out with
    `outbound_headers()`; it is an attribute of the current span (`resilience.request.id`), and in the response's
    `X-Request-ID`. Which ids are taken: `resilient.context.from_headers`. Websockets have one, too.

    Example:
        >>> from resilient.middleware.asgi import RequestId
        >>> async def app(scope, receive, send): ...
        >>> guarded = RequestId(app)
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        request_id = context.from_headers(_headers(scope, ID_HEADERS))
        mark_span(request_id)
        name, value = REQUEST_ID.lower().encode("latin-1"), request_id.encode("latin-1")

        async def send_with_id(message: Message) -> None:
            if message["type"] in _STARTS:
                others = [header for header in message.get("headers") or () if header[0].lower() != name]
                message = {**message, "headers": [*others, (name, value)]}
            await send(message)

        with context.bind(request_id=request_id):
            await self.app(scope, receive, send_with_id)


class ErrorShield:
    """Answers where the application raises: a status and the request id in JSON, and nothing of the error.

    504 for `TimeoutExceededError`; 503 for `RejectedError`, with `Retry-After` where the policy knows; 500 for all
    else. The whole error goes to the logger `resilient.middleware`. Where the response has begun, the error passes on,
    so that the server breaks it off; cancellation and its like always pass. What is raised after the client has left is
    logged, and goes no further.

    Example:
        >>> from resilient.middleware.asgi import ErrorShield
        >>> async def app(scope, receive, send): ...
        >>> guarded = ErrorShield(app)
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = context.request_id() or context.new_id()
        exchange = _Exchange(receive, send)
        try:
            await self.app(scope, exchange.receive, exchange.send)
        except Exception as error:
            request = shown(scope["method"], scope["path"])
            if exchange.gone:
                log_alone(error, request, request_id)
                return
            if exchange.begun:
                log_late(error, request, request_id)
                raise
            reply = answer_to(error, request_id)
            log_answered(error, reply.status, request, request_id)
            await _respond(scope, send, reply)


class InboundDeadline(BaseInboundDeadline[ASGIApp]):
    """Makes the time that the client is going to wait the deadline of the request: `current_deadline()`.

    Reads `X-Request-Timeout` and `grpc-timeout`, the shorter of the two. A request whose time is over already is
    answered with 504 and goes no further. Policies, and clients that are given `remaining()`, keep to the deadline; an
    application that does not is not interrupted, unless `enforce` is set.

    Args:
        app: the application.
        maximum: seconds that a client can ask for at most.
        default: seconds for requests without such a header, at most `maximum`; None: they have no deadline.
        enforce: cancel the application when the time is over, and answer with 504; where the response has begun,
            `TimeoutExceededError` passes on.

    Raises:
        ConfigurationError: a setting is wrong.

    Example:
        >>> from resilient.middleware.asgi import InboundDeadline
        >>> async def app(scope, receive, send): ...
        >>> guarded = InboundDeadline(app, maximum=30.0, default=10.0)
    """

    def __init__(
        self, app: ASGIApp, *, maximum: Seconds = 60.0, default: Seconds | None = None, enforce: bool = False
    ) -> None:
        super().__init__(app, maximum=maximum, default=default)
        Checker("InboundDeadline").instance("enforce", enforce, bool)
        self._enforce = enforce

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        seconds = self._seconds(_headers(scope, DEADLINE_HEADERS)) if scope["type"] == "http" else None
        if seconds is None:
            await self.app(scope, receive, send)
        elif seconds == 0:
            await _respond(scope, send, answer(504))
        elif self._enforce:
            await self._call_within(seconds, scope, receive, send)
        else:
            with Until(seconds):
                await self.app(scope, receive, send)

    async def _call_within(self, seconds: float, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = _Exchange(receive, send)
        over = CLOCK.now() + seconds
        try:
            async with timeout(seconds):
                await self.app(scope, receive, exchange.send)
        except TimeoutExceededError:
            # One of the application's own is for the application's error handling, and for ours.
            if exchange.begun or CLOCK.now() < over:
                raise
            await _respond(scope, send, answer(504))


class RateLimit(BaseRateLimit[ASGIApp, Scope]):
    """Lets each client make so many requests; others are answered with 429 and `Retry-After`.

    A client is an IPv4 address, or a /64 network of IPv6. The settings are those of `rate_limiter`, and so is what
    stands in metrics and in the registry.

    Args:
        app: the application.
        limit: requests of a client in a `period`, at least 1.
        period: seconds, above 0.
        burst: requests at once, at least 1. Default: `limit`.
        key: what stands for the client in the place of its address, from the scope; None lets the request pass.
        max_keys: so many clients are remembered; the one that has been away for longest goes.
        trusted_proxies: addresses and networks of peers whose `X-Forwarded-For` is believed; "unix" is a peer without
            an address. Default: nobody's.
        name: of the rate limiter; all who give it share its limits, and must give equal settings. Default:
            "http_clients" in metrics and the registry, where a later one without a name takes its place.
        registry: where the name is registered.

    Raises:
        ConfigurationError: a setting is wrong, or the name has other settings already.

    Example:
        >>> from resilient.middleware.asgi import RateLimit
        >>> async def app(scope, receive, send): ...
        >>> guarded = RateLimit(app, limit=100, period=60.0)
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            await self.app(scope, receive, send)
        else:
            await _respond(scope, send, refusal)

    def _origin(self, request: Scope) -> tuple[str, str | None]:
        client = request.get("client")
        return client[0] if client else "", _headers(request, (FORWARDED_FOR,)).get(FORWARDED_FOR)


class LoadShedding(BaseLoadShedding[ASGIApp, Scope]):
    """Answers with 503 and `Retry-After` what a service under pressure has no room for, the least important first.

    Args:
        app: the application.
        degradation: whose level decides; which priorities go when is said at `Degradation.sheddable`.
        priority: the priority of a request, from its scope: "critical", "standard", "best_effort" or "bulk".
            Default, and where it gives None: "standard".
        retry_after: seconds after which a client may come back.
        name: of the policies behind it, one for each priority: "name.bulk". Default: "http_requests", as with
            `RateLimit`.

    Raises:
        ConfigurationError: a setting is wrong, or a name has other settings already.

    Example:
        >>> from resilient.degradation import Degradation
        >>> from resilient.middleware.asgi import LoadShedding
        >>> async def app(scope, receive, send): ...
        >>> guarded = LoadShedding(app, degradation=Degradation())
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            await self.app(scope, receive, send)
        else:
            await _respond(scope, send, refusal)


class SecurityHeaders(BaseSecurityHeaders[ASGIApp]):
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
        >>> from resilient.middleware.asgi import SecurityHeaders
        >>> async def app(scope, receive, send): ...
        >>> guarded = SecurityHeaders(app, headers={"X-Frame-Options": None})
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scheme = scope.get("scheme", "http")

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                theirs: list[tuple[bytes, bytes]] = list(message.get("headers") or [])
                present = {name.decode("latin-1").lower() for name, _ in theirs}
                message = {**message, "headers": [*theirs, *_encoded(self._missing(present, scheme))]}
            await send(message)

        await self.app(scope, receive, send_with_headers)


def standard(
    app: ASGIApp,
    *,
    limit: int | None = None,
    period: Seconds = 1.0,
    burst: int | None = None,
    key: Callable[[Scope], Hashable | None] | None = None,
    trusted_proxies: Iterable[str] = (),
    degradation: Degradation | None = None,
    priority: Callable[[Scope], Priority | None] | None = None,
    maximum: Seconds = 60.0,
    default: Seconds | None = None,
    enforce: bool = False,
    headers: Mapping[str, str | None] | None = None,
) -> ASGIApp:
    """All middlewares around an application, in the order in which they need each other.

    Outermost first: `RequestId`, `SecurityHeaders`, `ErrorShield`, `RateLimit`, `LoadShedding`, `InboundDeadline`.

    Args:
        app: the application.
        limit: of `RateLimit`, as `period`, `burst`, `key` and `trusted_proxies`. Default: no such limit.
        degradation: of `LoadShedding`, as `priority`. Default: nothing is shed.
        maximum: of `InboundDeadline`, as `default` and `enforce`.
        headers: of `SecurityHeaders`.

    Raises:
        ConfigurationError: a setting is wrong.

    Example:
        >>> from resilient.middleware.asgi import standard
        >>> async def app(scope, receive, send): ...
        >>> guarded = standard(app, limit=100, default=10.0)
    """
    app = InboundDeadline(app, maximum=maximum, default=default, enforce=enforce)
    if degradation is not None:
        app = LoadShedding(app, degradation=degradation, priority=priority)
    if limit is not None:
        app = RateLimit(app, limit=limit, period=period, burst=burst, key=key, trusted_proxies=trusted_proxies)
    return RequestId(SecurityHeaders(ErrorShield(app), headers=headers))


class _Exchange:
    """Watches what passes between server and application.

    Attributes:
        begun: the status has gone out: there can be no other.
        gone: the application has been told that the client has left.
    """

    __slots__ = ("_receive", "_send", "begun", "gone")

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self.begun = self.gone = False

    async def receive(self) -> Message:
        message = await self._receive()
        self.gone = self.gone or message["type"] == "http.disconnect"
        return message

    async def send(self, message: Message) -> None:
        # Before, not after: a start that the server has refused, or was cancelled in, may have gone out all the same.
        self.begun = self.begun or message["type"] == "http.response.start"
        try:
            await self._send(message)
        except OSError:
            self.gone = True
            raise


def _headers(scope: Scope, names: Sequence[str]) -> dict[str, str]:
    """These headers of the request, as WSGI has them: several of one name are joined by commas."""
    wanted = {name.lower().encode("latin-1"): name for name in names}
    found: dict[str, str] = {}
    for raw, value in scope["headers"]:
        name = wanted.get(raw.lower())
        if name is not None:
            text = value.decode("latin-1")
            found[name] = f"{found[name]},{text}" if name in found else text
    return found


def _encoded(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]


async def _respond(scope: Scope, send: Send, reply: Answer) -> None:
    await send({"type": "http.response.start", "status": reply.status, "headers": _encoded(reply.headers)})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else reply.body})
