"""What a failing check may say of itself: no credentials, no query strings, and not much."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from resilient.telemetry.redaction import REDACTOR

LONGEST: Final = 200
"""Characters of an error that are shown."""

_READ: Final = 4096
_QUERY: Final = re.compile(r"(?<=[^\s?])\?[^\s\"'<>]+")
_SPACE: Final = re.compile(r"\s+")


def scrub(text: str) -> str:
    """A text without what looks like a credential or a query string in it; one line of 200 characters at most."""
    if len(text) > _READ:
        # The last word may be half a secret, which nothing would tell any more.
        text = text[:_READ].rpartition(" ")[0]
    clean = REDACTOR.text(_QUERY.sub("?[redacted]", text))
    line = _SPACE.sub(" ", clean).strip()
    return line if len(line) <= LONGEST else line[: LONGEST - 3] + "..."


def describe_error(error: BaseException) -> str:
    """The type of an error and what it says, scrubbed."""
    try:
        said = str(error)
    except Exception:  # noqa: BLE001 - the error of the user's own, which can't even be shown
        said = ""
    return scrub(f"{type(error).__name__}: {said}" if said else type(error).__name__)


def scrub_details(details: Mapping[str, object]) -> dict[str, object]:
    """What a check has given beside its verdict, as plain values."""
    return {name: _scrub_value(value) for name, value in REDACTOR.fields(details).items()}


def _scrub_value(value: object) -> object:
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, dict):
        return {name: _scrub_value(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_scrub_value(one) for one in value]
    return value
