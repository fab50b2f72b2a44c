"""A request or correlation id, and other fields, bound to the current context and to the log lines written in it.

    >>> from resilient import context
    >>> with context.bind(request_id=context.from_headers({"X-Request-ID": "r-17"}), tenant="acme"):
    ...     context.request_id(), context.headers()
    ('r-17', {'X-Request-ID': 'r-17'})

Bound fields also show in what the application writes through structlog, where it has imported that and merges its
context variables.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from contextvars import ContextVar, Token
from types import MappingProxyType, TracebackType
from typing import Any, Final, Self

from resilient.core.checks import refuse

__all__ = ["Binding", "bind", "bound", "from_headers", "headers", "new_id", "request_id"]

REQUEST_ID: Final = "X-Request-ID"
TRACEPARENT: Final = "traceparent"

# What goes into log lines and outbound headers as it came in: nothing that ends a line, a field or a header.
_ID: Final = re.compile(r"[A-Za-z0-9._:+/=@-]{1,128}", re.ASCII)
_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?", re.ASCII)

_BOUND: Final[ContextVar[Mapping[str, object]]] = ContextVar("resilient_context", default=MappingProxyType({}))


class Binding:
    """What `bind` made: as a block, it ends with the block."""

    __slots__ = ("_shown", "_token")

    def __init__(self, fields: Mapping[str, object]) -> None:
        self._token: Token[Mapping[str, object]] | None = _BOUND.set(MappingProxyType({**_BOUND.get(), **fields}))
        structlog = _structlog_contextvars()
        self._shown: Mapping[str, Token[Any]] = {} if structlog is None else structlog.bind_contextvars(**fields)

    def unbind(self) -> None:
        """Put back what was bound before. A second time, or in another context, it does nothing."""
        token, self._token = self._token, None
        if token is None:
            return
        inside = _BOUND.get()
        try:
            _BOUND.reset(token)
            structlog = _structlog_contextvars()
            if structlog is not None:
                structlog.reset_contextvars(**self._shown)
                self._put_back(structlog, inside, _BOUND.get())
        except ValueError:
            # Left in another context than entered (a generator closed elsewhere): there is nothing to put back here.
            return

    def _put_back(self, structlog: Any, inside: Mapping[str, object], outside: Mapping[str, object]) -> None:
        """For structlog, too: what was bound plainly inside of this ends with it."""
        structlog.unbind_contextvars(*(key for key in inside if key not in outside and key not in self._shown))
        again = {
            key: value for key, value in outside.items() if inside.get(key) is not value and key not in self._shown
        }
        structlog.bind_contextvars(**again)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        self.unbind()


def bind(*, request_id: str | None = None, **fields: object) -> Binding:
    """Bind a request id and other fields to the current context, beside what is bound already.

    Called plainly, it holds until the context ends (a task's, a thread's); as a `with` block, until the block ends.

    Args:
        request_id: 1 to 128 letters, digits and `._:+/=@-`; None leaves the id as it is.
        fields: whatever is to stand in each log line. Fields whose names look secret are redacted there.

    Raises:
        ConfigurationError: an id of another form. Ids from outside go through `from_headers`, which never raises.

    Example:
        >>> from resilient import context
        >>> with context.bind(request_id="r-17", tenant="acme"):
        ...     dict(context.bound())
        {'request_id': 'r-17', 'tenant': 'acme'}
    """
    if request_id is None:
        return Binding(fields)
    if not isinstance(request_id, str) or _ID.fullmatch(request_id) is None:
        refuse("bind", "request_id", request_id, "1 to 128 letters, digits and ._:+/=@-")
    return Binding({"request_id": request_id, **fields})


def bound() -> Mapping[str, object]:
    """All that is bound to the current context, the request id under `request_id`.

    Example:
        >>> from resilient import context
        >>> with context.bind(tenant="acme"):
        ...     context.bound()["tenant"]
        'acme'
    """
    return _BOUND.get()


def request_id() -> str | None:
    """The id bound to the current context, or None.

    Example:
        >>> from resilient import context
        >>> with context.bind(request_id="r-17"):
        ...     context.request_id()
        'r-17'
    """
    value = _BOUND.get().get("request_id")
    return value if isinstance(value, str) else None


def new_id() -> str:
    """A fresh random id of 32 hexadecimal digits.

    Example:
        >>> from resilient import context
        >>> len(context.new_id())
        32
    """
    return os.urandom(16).hex()


def from_headers(headers: Mapping[str, str]) -> str:
    """The id of a request that came in: `X-Request-ID`, else the trace id of `traceparent`, else a fresh one.

    An `X-Request-ID` that is too long, or holds other characters than an id may, gives a fresh id. Names are compared
    without regard to case. Formats: `bind`, and the W3C Trace Context recommendation.

    Example:
        >>> from resilient.context import from_headers
        >>> from_headers({"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"})
        '4bf92f3577b34da6a3ce929d0e0e4736'
    """
    trace_id = None
    for name, value in headers.items():
        lower = name.lower()
        if lower == REQUEST_ID.lower():
            wanted = value.strip()
            return wanted if _ID.fullmatch(wanted) else new_id()
        if lower == TRACEPARENT:
            trace_id = _trace_id(value.strip())
    return trace_id or new_id()


def headers() -> dict[str, str]:
    """Headers that hand the current id on to the next service; empty where none is bound.

    Example:
        >>> from resilient import context
        >>> with context.bind(request_id="r-17"):
        ...     context.headers()
        {'X-Request-ID': 'r-17'}
    """
    current = request_id()
    return {} if current is None else {REQUEST_ID: current}


def _trace_id(traceparent: str) -> str | None:
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None:
        return None
    version, trace, parent, more = match.groups()
    if version == "ff" or (version == "00" and more) or not trace.strip("0") or not parent.strip("0"):
        return None
    return trace


def _structlog_contextvars() -> Any:
    """structlog's context variables, where the application has imported it."""
    return sys.modules.get("structlog.contextvars")
