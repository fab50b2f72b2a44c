"""The deadline over the wire: relative durations in request headers, so that clocks need not agree.

On the way out, and in the service that is called:

    >>> from resilient import deadline, timeout
    >>> with timeout(2.0):
    ...     headers = deadline.to_headers()
    >>> headers
    {'grpc-timeout': '2000000u', 'X-Request-Timeout': '2.000'}
    >>> deadline.from_headers(headers, maximum=30.0)
    2.0
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import floor, inf, isfinite
from typing import Final

from resilient.core.checks import Checker, Seconds
from resilient.core.deadline import Deadline, current_deadline

__all__ = ["Deadline", "current_deadline", "format_grpc_timeout", "from_headers", "parse_grpc_timeout", "to_headers"]

GRPC_TIMEOUT: Final = "grpc-timeout"
REQUEST_TIMEOUT: Final = "X-Request-Timeout"

# From fine to coarse. Whole numbers of units a second, or of seconds a unit: no rounding in between.
_GRPC_UNITS: Final = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "S": 1.0, "M": 60.0, "H": 3600.0}
_GRPC: Final = re.compile(r"([0-9]{1,8})([HMSmun])", re.ASCII)
_SECONDS: Final = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?", re.ASCII)
_MOST_SECONDS: Final = 10**12 - 1
_GRPC_DIGITS: Final = 10**8


def parse_grpc_timeout(value: str) -> float | None:
    """Seconds of a `grpc-timeout` value such as "250m"; None where it is none.

    The format is that of the gRPC over HTTP/2 specification: one to eight digits and a unit of H, M, S, m, u or n.

    Example:
        >>> from resilient.deadline import parse_grpc_timeout
        >>> parse_grpc_timeout("250m")
        0.25
    """
    match = _GRPC.fullmatch(value.strip())
    return None if match is None else int(match[1]) * _GRPC_UNITS[match[2]]


def format_grpc_timeout(seconds: float) -> str:
    """A `grpc-timeout` value, rounded down so that it never promises more time than there is.

    Example:
        >>> from resilient.deadline import format_grpc_timeout
        >>> format_grpc_timeout(0.25)
        '250000u'
    """
    if not seconds > 0:
        return "0n"
    for unit, size in _GRPC_UNITS.items():
        count = seconds / size
        if count < _GRPC_DIGITS:
            whole = floor(count)
            if whole * size > seconds:
                whole -= 1
            return f"{whole}{unit}"
    return f"{_GRPC_DIGITS - 1}H"


def to_headers(deadline: Deadline | None = None) -> dict[str, str]:
    """Headers that tell the next service how much time is left; empty where there is no deadline.

    Args:
        deadline: default: the current one.

    Example:
        >>> from resilient import timeout
        >>> from resilient.deadline import to_headers
        >>> with timeout(0.25):
        ...     to_headers()
        {'grpc-timeout': '250000u', 'X-Request-Timeout': '0.250'}
    """
    deadline = current_deadline() if deadline is None else deadline
    if deadline is None:
        return {}
    left = deadline.remaining()
    milliseconds = floor(min(left, _MOST_SECONDS) * 1000)
    if milliseconds / 1000 > left:
        milliseconds -= 1
    return {GRPC_TIMEOUT: format_grpc_timeout(left), REQUEST_TIMEOUT: f"{milliseconds / 1000:.3f}"}


def from_headers(headers: Mapping[str, str], *, maximum: Seconds = 60.0) -> float | None:
    """Seconds that the caller is going to wait, at most `maximum`; None where no header tells.

    Reads `grpc-timeout`, and `X-Request-Timeout` in seconds; where both are there, the shorter. What is malformed is
    passed over. Names are compared without regard to case.

    Raises:
        ConfigurationError: `maximum` is no duration above 0.

    Example:
        >>> from resilient.deadline import from_headers
        >>> from_headers({"x-request-timeout": "90"}, maximum=30)
        30.0
    """
    limit = Checker("from_headers").seconds("maximum", maximum)
    shortest = inf
    for name, value in headers.items():
        if name.lower() == GRPC_TIMEOUT:
            seconds = parse_grpc_timeout(value)
        elif name.lower() == REQUEST_TIMEOUT.lower():
            text = value.strip()
            seconds = float(text) if _SECONDS.fullmatch(text) else None
        else:
            continue
        if seconds is not None and isfinite(seconds):
            shortest = min(shortest, seconds)
    return None if shortest == inf else min(shortest, limit)
