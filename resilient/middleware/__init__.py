"""Middlewares for services of any framework: `resilient.middleware.asgi` and `resilient.middleware.wsgi`.

The two modules have the same names: what is said of one holds for its twin.
"""

from __future__ import annotations

from resilient import context, deadline

__all__ = ["outbound_headers"]


def outbound_headers() -> dict[str, str]:
    """Headers for a request to another service: the request id, and the time that is left; what there is of them.

    Example:
        >>> from resilient import context, timeout
        >>> from resilient.middleware import outbound_headers
        >>> with context.bind(request_id="r-17"), timeout(0.25):
        ...     outbound_headers()
        {'X-Request-ID': 'r-17', 'grpc-timeout': '250000u', 'X-Request-Timeout': '0.250'}
    """
    return {**context.headers(), **deadline.to_headers()}
