"""What a middleware says in place of the application: a status and a little JSON, and nothing of the inside."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http import HTTPStatus
from math import ceil, isfinite
from typing import Final, NamedTuple

from resilient import context
from resilient.errors import RejectedError, TimeoutExceededError

_WORDS: Final = {
    429: "rate_limited",
    500: "internal_error",
    503: "unavailable",
    504: "timed_out",
}


class Answer(NamedTuple):
    """A whole response."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def status_line(self) -> str:
        return f"{self.status} {HTTPStatus(self.status).phrase}"


def answer(status: int, *, retry_after: float | None = None, request_id: str | None = None) -> Answer:
    """The answer of this status, with the id of the current request unless another is given."""
    told: dict[str, object] = {"status": status, "error": _WORDS[status]}
    # What was refused is not to be served from a cache once the service takes requests again.
    headers = [("Content-Type", "application/json"), ("Cache-Control", "no-store")]
    request_id = request_id or context.request_id()
    if request_id is not None:
        told["request_id"] = request_id
    if retry_after is not None and isfinite(retry_after):
        # Zero would have clients come back at once, all of them.
        seconds = max(1, ceil(retry_after))
        told["retry_after"] = seconds
        headers.append(("Retry-After", str(seconds)))
    body = json.dumps(told).encode()
    return Answer(status, (*headers, ("Content-Length", str(len(body)))), body)


def answer_to(error: Exception, request_id: str | None = None) -> Answer:
    """503 for a refusal by a policy, 504 for a timeout, 500 for all else.

    A group is what its errors are, where none of them is of another kind: so they arrive from a task group.
    """
    causes = list(_leaves(error))
    if not all(isinstance(cause, (RejectedError, TimeoutExceededError)) for cause in causes):
        return answer(500, request_id=request_id)
    refusals = [cause for cause in causes if isinstance(cause, RejectedError)]
    if len(refusals) < len(causes):
        return answer(504, request_id=request_id)
    # Worth another try once all of them let it pass.
    waits = [refusal.retry_after for refusal in refusals if refusal.retry_after is not None]
    return answer(503, retry_after=max(waits, default=None), request_id=request_id)


def _leaves(error: Exception) -> Iterator[Exception]:
    if isinstance(error, ExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
