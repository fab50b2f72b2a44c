"""Reads when a server wants to be asked again."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from datetime import UTC
from typing import Final, cast

from resilient.core.backoff import as_seconds

_SECONDS: Final = re.compile(r"\d+(\.\d+)?", re.ASCII)


def default_retry_after(outcome: object) -> float | None:
    """Seconds that the server of this outcome asks to wait, or None where it asks for nothing that can be read.

    Looks at the attribute `retry_after` (a number or a timedelta), then at the `Retry-After` header in
    `.response.headers`, then in `.headers`: seconds or an HTTP date (RFC 9110, section 10.2.3). A date in the past
    is 0. Negative numbers and anything unreadable are no wish. Never raises.

    Args:
        outcome: the exception or the result of an attempt.
    """
    wish = as_seconds(_attribute(outcome, "retry_after"))
    if wish is not None and wish >= 0:
        return wish
    for holder in (_attribute(outcome, "response"), outcome):
        wish = _from_headers(_attribute(holder, "headers"))
        if wish is not None:
            return wish
    return None


def _attribute(holder: object, name: str) -> object:
    try:
        value: object = getattr(holder, name, None)
    except Exception:  # noqa: BLE001 - a property of somebody else's class may raise anything
        return None
    return value


def _from_headers(headers: object) -> float | None:
    # A header map is any object with items(): httpx, requests, aiohttp and http.client have no common base class.
    items = _attribute(headers, "items")
    if not callable(items):
        return None
    try:
        for name, value in cast(Iterable[tuple[object, object]], items()):
            if _text(name).lower() == "retry-after":
                return _parse(value)
    except Exception:  # noqa: BLE001 - neither these classes nor what they hold are known
        return None
    return None


def _text(value: object) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _parse(value: object) -> float | None:
    number = as_seconds(value)
    if number is not None:
        return number if number >= 0 else None
    text = _text(value).strip()
    if _SECONDS.fullmatch(text):
        return float(text)

    from email.utils import parsedate_to_datetime

    moment = parsedate_to_datetime(text)
    # The oldest of the three forms of an HTTP date says no zone; all of them are in UTC.
    at = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    return max(0.0, at.timestamp() - time.time())  # noqa: TID251 - a server's date is wall-clock time
