"""Delays between attempts, for `retry(backoff=...)`.

    >>> from resilient import retry
    >>> from resilient.backoff import exponential
    >>> @retry(attempts=5, backoff=exponential(initial=0.2, max=10))
    ... def fetch() -> str:
    ...     return "fetched"
    >>> fetch()
    'fetched'

`backoff` also takes plain seconds, an iterable of seconds (the last one repeats), and a function
`(attempt) -> seconds`.
"""

from __future__ import annotations

from resilient.core.backoff import Backoff, Jitter, constant, exponential, linear

__all__ = ["Backoff", "Jitter", "constant", "exponential", "linear"]
