"""Keeps secrets out of log lines: values under secret-looking names, and what looks like a secret in a text.

It errs towards redacting. What no name and no form gives away ("the password is hunter2") it can't know.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from datetime import date, time
from decimal import Decimal
from math import isfinite
from pathlib import PurePath
from typing import Final
from uuid import UUID

REDACTED: Final = "[redacted]"

# Found anywhere in a name. A space stands for any separator, or none: "api key" finds api_key, api-key and apiKey.
NAMES: Final = (
    "access key",
    "api key",
    "authorization",
    "connection string",
    "cookie",
    "credential",
    "passphrase",
    "passwd",
    "password",
    "private key",
    "secret",
    "session id",
    "session key",
    "signature",
    "token",
)
# Too short to be looked for inside other words ("author", "spin").
WORDS: Final = ("auth", "bearer", "cvc", "cvv", "dsn", "jwt", "otp", "pass", "pin", "pwd", "sid", "ssn")

_DEPTH: Final = 8
_ITEMS: Final = 1000
_CHARACTERS: Final = 65_536
_NAMES_KEPT: Final = 4096

_SEPARATORS: Final = re.compile(r"[^A-Za-z0-9]+")
_HUMP: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")

# Between a name and its value: `=`, `:`, `=>`; and the comma in ("name", "value"). Quotes may be escaped, as in JSON
# inside JSON.
_BETWEEN: Final = r"""(?:\\?["']?\s{0,3}(?:=>|[:=])\s{0,3}|\\?["']\s{0,3},\s{0,3}(?=[bru]{0,2}\\?["']))"""
_QUOTED: Final = (
    r"""[bru]{0,2}(?:\\"(?:(?!\\").)*(?:\\")?|\\'(?:(?!\\').)*(?:\\')?"""
    r"""|"(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?)"""
)
_BRACKETED: Final = r"[\[({][^\])}]*[\])}]?"

_HEADER: Final = re.compile(
    rf"(?P<name>(?:authorization|cookie){_BETWEEN})(?:{_QUOTED}|\[redacted\]|[^\r\n]+)", re.IGNORECASE | re.DOTALL
)
_SCHEME: Final = re.compile(
    r"\b(?P<name>(?:bearer|negotiate)\s{1,3}|basic\s{1,3}(?=(?-i:[a-z]{0,400}[0-9A-Z=+/])))(?-i:[A-Za-z0-9._~+/=-]{6,})",
    re.IGNORECASE,
)
# The part before the host. A password may hold what ought to be escaped in it; a number after a colon is a port.
_USERINFO: Final = re.compile(
    r"(?P<name>\b[a-z][a-z0-9+.-]{0,30}://)"
    r"(?:[^\s/?#\"'<>]{0,400}@|[^\s:/?#\"'<>]{0,200}:(?![0-9]{1,5}(?:[/?#\s]|$))[^\s\"'<>]{0,200}@)",
    re.IGNORECASE,
)
_SHAPES: Final = re.compile(
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,30}PRIVATE KEY-----|\Z)"
    r"|\beyJ[A-Za-z0-9_-]{5,2000}\.[A-Za-z0-9_-]{5,}(?:\.[A-Za-z0-9_-]*)?"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|\bgh[opsur]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{20,}"
    r"|\bxox[abeoprs]-[A-Za-z0-9-]{10,}"
    r"|\b(?:sk|rk)[-_](?:live|test|proj|ant)[-_][\w-]{10,}",
    re.DOTALL,
)

# Short words, of which most fields are made: too short for a token.
_HARMLESS: Final = re.compile(r"[a-z_.]{0,16}")


class Redactor:
    """Makes of anything what may stand in a log line: plain values, with `[redacted]` in the place of secrets.

    Args:
        names: further names whose values are secret, in any case and with any separators.
    """

    __slots__ = ("_known", "_named", "_squashed", "_words")

    def __init__(self, names: Iterable[str] = ()) -> None:
        parts = [_parts(name) for name in (*NAMES, *names)]
        # Of a short name of the user's own, too, only whole words are meant.
        long = [words for words in parts if len("".join(words)) > 3]
        short = [words for words in parts if len("".join(words)) <= 3]
        self._squashed = tuple("".join(words) for words in long)
        self._words = frozenset((*WORDS, *("".join(words) for words in short)))
        self._known: dict[str, bool] = {}
        inside = "|".join(r"[-_.\s]?".join(words) for words in long)
        alone = "|".join(sorted(self._words))
        self._named = re.compile(
            rf"(?P<name>(?:(?:{inside})[\w.-]{{0,40}}|(?<![A-Za-z0-9])(?:{alone})){_BETWEEN}"
            rf"|(?<![\w-])--(?:[a-z][\w-]{{0,40}})?(?:{inside})[\w-]{{0,40}}\s{{1,3}})(?:{_QUOTED}|{_BRACKETED}|[^\s&]+)",
            re.IGNORECASE | re.DOTALL,
        )

    def is_secret(self, name: str) -> bool:
        """Does a value under this name have to be redacted?"""
        secret = self._known.get(name)
        if secret is None:
            words = _parts(name)
            squashed = "".join(words)
            secret = any(part in squashed for part in self._squashed) or not self._words.isdisjoint(words)
            if len(self._known) < _NAMES_KEPT:
                self._known[name] = secret
        return secret

    def fields(self, fields: Mapping[str, object]) -> dict[str, object]:
        """The fields of a line."""
        return self._mapping(fields, 0)

    def value(self, value: object) -> object:
        """A value that stands by itself."""
        return self._value(value, 0)

    def text(self, text: str) -> str:
        """A text without what looks like a secret in it; 65,536 characters at most."""
        if _HARMLESS.fullmatch(text):
            return text
        if len(text) > _CHARACTERS:
            text = text[:_CHARACTERS] + "...[cut]"
        if ":" in text or "=" in text or "," in text or "--" in text:
            text = _HEADER.sub(_keep_name, text)
            text = self._named.sub(_keep_name, text)
        if "://" in text:
            text = _USERINFO.sub(rf"\g<name>{REDACTED}@", text)
        text = _SCHEME.sub(_keep_name, text)
        return _SHAPES.sub(REDACTED, text)

    def _mapping(self, fields: Mapping[object, object] | Mapping[str, object], depth: int) -> dict[str, object]:
        clean: dict[str, object] = {}
        for key, value in fields.items():
            if len(clean) == _ITEMS:
                clean["..."] = f"[{len(fields) - _ITEMS} more]"
                break
            name = key if type(key) is str else self._name(key)
            if self.is_secret(name) and not (value is None or isinstance(value, bool)):
                clean[name] = REDACTED
            else:
                clean[name] = self._value(value, depth + 1)
        return clean

    def _name(self, key: object) -> str:
        if isinstance(key, (bytes, bytearray)):
            return bytes(key).decode("utf-8", "backslashreplace")
        return str(key) if isinstance(key, (str, int, float)) else self.text(_repr(key))

    def _value(self, value: object, depth: int) -> object:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return self.text(str.__str__(value))
        if isinstance(value, int):
            return int(value)
        if isinstance(value, float):
            return float(value) if isfinite(value) else repr(float(value))
        if isinstance(value, (Mapping, list, tuple, AbstractSet)):
            if depth > _DEPTH:
                return "[too deep]"
            try:
                return self._mapping(value, depth) if isinstance(value, Mapping) else self._sequence(value, depth)
            except Exception:  # noqa: BLE001 - another thread may be changing it
                return f"<{type(value).__qualname__} that can't be read>"
        if isinstance(value, (bytes, bytearray)):
            return self.text(bytes(value[:_CHARACTERS]).decode("utf-8", "backslashreplace"))
        if isinstance(value, (date, time, Decimal, UUID, PurePath)):
            return self.text(str(value))
        return self.text(_repr(value))

    def _sequence(self, values: list[object] | tuple[object, ...] | AbstractSet[object], depth: int) -> list[object]:
        if isinstance(values, tuple) and len(values) == 2 and isinstance(values[0], (str, bytes)):
            # One of the pairs of which lists of headers are made.
            name = self._name(values[0])
            if self.is_secret(name):
                return [name, REDACTED]
        clean: list[object] = []
        for value in values:
            if len(clean) == _ITEMS:
                clean.append(f"[{len(values) - _ITEMS} more]")
                break
            clean.append(self._value(value, depth + 1))
        return clean


def _keep_name(match: re.Match[str]) -> str:
    return match["name"] + REDACTED


def _parts(name: str) -> list[str]:
    """The words of a name, in lower case: of accessToken, access_token and Access-Token the same."""
    return [part.lower() for part in _SEPARATORS.split(_HUMP.sub(" ", name)) if part]


def _repr(value: object) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - an object in a half-made state is no reason to lose the line
        return f"<{type(value).__qualname__} without repr>"


REDACTOR: Final = Redactor()
