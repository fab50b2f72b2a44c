"""What the ASGI and the WSGI middlewares have in common: settings and decisions, without a request of either kind."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from contextvars import Token
from logging import ERROR, INFO, Logger, NullHandler, getLogger, lastResort
from types import TracebackType
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from resilient import context, deadline
from resilient.core.checks import Checker, Seconds, contradiction, refuse
from resilient.core.clock import CLOCK
from resilient.core.deadline import DEADLINE, shorten_deadline
from resilient.errors import RateLimitedError, RejectedError
from resilient.middleware.answers import Answer, answer
from resilient.middleware.clients import Clients
from resilient.policies.rate_limiter import rate_limiter
from resilient.policies.sheddable import PRIORITIES, Priority
from resilient.registry import Registry, registry

if TYPE_CHECKING:
    from resilient.degradation import Degradation

App = TypeVar("App")
Request = TypeVar("Request")

LOGGER: Final[Logger] = getLogger("resilient.middleware")
REQUEST_ID: Final = context.REQUEST_ID
ID_HEADERS: Final = (context.REQUEST_ID, context.TRACEPARENT)
DEADLINE_HEADERS: Final = (deadline.REQUEST_TIMEOUT, deadline.GRPC_TIMEOUT)
FORWARDED_FOR: Final = "X-Forwarded-For"
CLIENTS: Final = "http_clients"
REQUESTS: Final = "http_requests"
SPAN_ATTRIBUTE: Final = "resilience.request.id"

HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Strict-Transport-Security": "max-age=31536000",
}
_HTTPS_ONLY: Final = "strict-transport-security"
_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", re.ASCII)
_VALUE: Final = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?", re.ASCII)

# A proxy or two may add a header of their own; nobody needs more.
_MOST_WISHES: Final = 8
_LONGEST_SHOWN: Final = 200
_LINE: Final = "%s [request %s] %s"


def mark_span(request_id: str) -> None:
    """Put the id on the current span, where OpenTelemetry has been imported."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return
    try:
        trace.get_current_span().set_attribute(SPAN_ATTRIBUTE, request_id)
    except Exception:  # noqa: BLE001 - another thread is only just importing it, or a span of somebody else's fails
        return


def log_answered(error: Exception, status: int, request: str, request_id: str) -> None:
    """Log an error that a client was told of by this status."""
    # What policies refuse they tell themselves, in lines that are limited. Under pressure there is one of these for
    # each request.
    _log(ERROR if status == 500 else INFO, f"answered with {status}", error, request, request_id)


def log_late(error: Exception, request: str, request_id: str) -> None:
    """Log an error that nobody can be told of: the response has begun."""
    _log(ERROR, "failed after its response had begun", error, request, request_id)


def log_alone(error: Exception, request: str, request_id: str) -> None:
    """Log an error that nobody waits for. Most often it says just that."""
    _log(INFO, "failed after its client had gone", error, request, request_id)


def shown(method: str, path: str) -> str:
    """A request for the log, on one line whatever was asked for."""
    return ascii(f"{method} {path}"[:_LONGEST_SHOWN])[1:-1]


def _log(level: int, words: str, error: Exception, request: str, request_id: str) -> None:
    values = request, request_id, words
    try:
        with context.bind(request_id=request_id):
            LOGGER.log(level, _LINE, *values, exc_info=error)
            if level >= ERROR and lastResort is not None and LOGGER.isEnabledFor(level) and _is_silenced():
                trace = type(error), error, error.__traceback__
                lastResort.handle(LOGGER.makeRecord(LOGGER.name, level, __file__, 0, _LINE, values, trace))
    except Exception:  # noqa: BLE001 - a filter of the application's own fails: no answer may fail for its log line
        return


def _is_silenced() -> bool:
    """Is the only handler of our lines the one that does nothing, by which those of policies are silent at first?

    An error that the server would have shown, had it not been caught here, must not be silent. (Without any handler,
    `logging` itself writes it to standard error.)
    """
    if LOGGER.handlers or not LOGGER.hasHandlers():
        return False
    logger: Logger | None = LOGGER
    while logger is not None:
        if not all(isinstance(handler, NullHandler) for handler in logger.handlers):
            return False
        logger = logger.parent if logger.propagate else None
    return True


class Until:
    """A block in which the deadline is at most this instant. May be entered again and again."""

    __slots__ = ("_at", "_token")

    def __init__(self, seconds: float) -> None:
        self._at = CLOCK.now() + seconds
        self._token: Token[float] | None = None

    def __enter__(self) -> None:
        self._token = shorten_deadline(self._at)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        token, self._token = self._token, None
        if token is not None:
            try:
                DEADLINE.reset(token)
            except ValueError:
                pass  # a request that was never ended is closed elsewhere: that context never had our deadline


class BaseInboundDeadline(Generic[App]):
    """Settings of `InboundDeadline`."""

    def __init__(self, app: App, *, maximum: Seconds = 60.0, default: Seconds | None = None) -> None:
        check = Checker("InboundDeadline")
        self.app = app
        self._maximum = check.seconds("maximum", maximum)
        self._default = check.optional_seconds("default", default)
        if self._default is not None and self._default > self._maximum:
            contradiction(check.policy, "default and maximum", (default, maximum), "default is at most maximum")

    def _seconds(self, told: Mapping[str, str]) -> float | None:
        """The time that the client gives; where headers came several times, the shortest."""
        wishes = [
            deadline.from_headers({name: wish}, maximum=self._maximum)
            for name, value in told.items()
            for wish in value.split(",", _MOST_WISHES)
        ]
        return min((wish for wish in wishes if wish is not None), default=self._default)


class BaseRateLimit(Generic[App, Request]):
    """Settings of `RateLimit`."""

    def __init__(
        self,
        app: App,
        *,
        limit: int,
        period: Seconds = 1.0,
        burst: int | None = None,
        key: Callable[[Request], Hashable | None] | None = None,
        max_keys: int = 10_000,
        trusted_proxies: Iterable[str] = (),
        name: str | None = None,
        registry: Registry = registry,
    ) -> None:
        check = Checker("RateLimit")
        self.app = app
        self._key = check.optional_function("key", key, "a plain function of the request")
        self._clients = Clients(check.policy, trusted_proxies)
        self._limiter = rate_limiter(
            name, limit=limit, period=period, burst=burst, key=_itself, max_keys=max_keys, registry=registry
        )
        if name is None:
            self._limiter.claim(CLIENTS)

    def _refusal(self, request: Request) -> Answer | None:
        client = self._clients.key(*self._origin(request)) if self._key is None else self._key(request)
        if client is None:
            return None
        try:
            self._limiter.call(_itself, client)
        except RateLimitedError as refusal:
            return answer(429, retry_after=refusal.retry_after)
        return None

    def _origin(self, request: Request) -> tuple[str, str | None]:
        """The peer, and its `X-Forwarded-For`."""
        raise NotImplementedError  # ASGI and WSGI each have their own


class BaseLoadShedding(Generic[App, Request]):
    """Settings of `LoadShedding`."""

    def __init__(
        self,
        app: App,
        *,
        degradation: Degradation,
        priority: Callable[[Request], Priority | None] | None = None,
        retry_after: Seconds = 10.0,
        name: str | None = None,
    ) -> None:
        check = Checker("LoadShedding")
        if not callable(getattr(degradation, "sheddable", None)):
            refuse(check.policy, "degradation", degradation, "a Degradation")
        self.app = app
        self._priority = check.optional_function("priority", priority, "a plain function of the request")
        self._retry_after = check.seconds("retry_after", retry_after)
        self._policies = {
            known: degradation.sheddable(priority=known, name=None if name is None else f"{name}.{known}")
            for known in PRIORITIES
        }
        if name is None:
            for known, policy in self._policies.items():
                policy.claim(f"{REQUESTS}.{known}")

    def _refusal(self, request: Request) -> Answer | None:
        priority = None if self._priority is None else self._priority(request)
        policy = self._policies.get(priority or "standard")
        if policy is None:
            raise LookupError(f"LoadShedding: no priority {priority!r}; there are: {', '.join(self._policies)}")
        try:
            policy.call(_nothing)
        except RejectedError:
            return answer(503, retry_after=self._retry_after)
        return None


class BaseSecurityHeaders(Generic[App]):
    """Settings of `SecurityHeaders`."""

    def __init__(self, app: App, *, headers: Mapping[str, str | None] | None = None) -> None:
        check = Checker("SecurityHeaders")
        self.app = app
        wanted: dict[str, tuple[str, str | None]] = {name.lower(): (name, value) for name, value in HEADERS.items()}
        for name, value in (headers or {}).items():
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                refuse(check.policy, "headers", name, "names of headers")
            if value is not None and (not isinstance(value, str) or not _VALUE.fullmatch(value)):
                refuse(
                    check.policy, f"headers[{name!r}]", value, "printable ASCII on one line, or None to leave it out"
                )
            wanted[name.lower()] = name, value
        self._headers = {lower: (name, value) for lower, (name, value) in wanted.items() if value is not None}

    def _missing(self, present: Collection[str], scheme: str) -> list[tuple[str, str]]:
        """The headers to add beside those, given by their names in small letters."""
        return [
            header
            for lower, header in self._headers.items()
            if lower not in present and (lower != _HTTPS_ONLY or scheme == "https")
        ]


def _itself(client: Hashable) -> Hashable:
    return client


def _nothing() -> None: ...
