"""What looks like a secret does not get into a log line."""

from __future__ import annotations

import json
import time
from collections import UserDict
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import IntEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.telemetry.redaction import NAMES, REDACTED, REDACTOR, WORDS, Redactor

SECRET = "hunter2-5ecret"


@pytest.mark.parametrize(
    "name",
    [
        *NAMES,
        *WORDS,
        "password",
        "DB_PASSWORD",
        "userPassword",
        "accessToken",
        "X-Api-Key",
        "apikey",
        "api.key",
        "Set-Cookie",
        "Proxy-Authorization",
        "aws_secret_access_key",
        "sentry_dsn",
        "db-pwd",
        "sessionId",
        "clientSecret",
    ],
)
def test_values_under_secret_names_are_redacted(name: str) -> None:
    assert REDACTOR.fields({name: SECRET}) == {name: REDACTED}
    assert REDACTOR.fields({name: {"a": [1, SECRET]}}) == {name: REDACTED}


@pytest.mark.parametrize(
    "name", ["author", "path", "spinner", "opinion", "side", "compass", "key", "keyboard", "user", "assign"]
)
def test_other_names_are_not(name: str) -> None:
    assert REDACTOR.fields({name: "value"}) == {name: "value"}


def test_nothing_at_all_and_yes_and_no_are_told() -> None:
    assert REDACTOR.fields({"password": None, "has_token": True}) == {"password": None, "has_token": True}


def test_numbers_under_secret_names_are_redacted() -> None:
    assert REDACTOR.fields({"pin": 1234, "otp": 5.0}) == {"pin": REDACTED, "otp": REDACTED}


def test_it_looks_into_mappings_sequences_and_sets() -> None:
    given_fields: dict[Any, Any] = {
        "request": {"user": {"name": "bob", "password": SECRET}, "tries": ({"token": SECRET}, [f"pwd={SECRET}"])},
        "headers": [("Authorization", f"Bearer {SECRET}"), (b"cookie", b"a=" + SECRET.encode()), ("Host", "x")],
        "others": UserDict({"secret": SECRET}),
        "set": {f"token={SECRET}"},
        "bytes": f"password={SECRET}".encode(),
        b"api_key": SECRET,
    }
    clean = REDACTOR.fields(given_fields)
    assert SECRET not in repr(clean)
    assert clean["request"] == {
        "user": {"name": "bob", "password": REDACTED},
        "tries": [{"token": REDACTED}, [f"pwd={REDACTED}"]],
    }
    assert clean["headers"] == [["Authorization", REDACTED], ["cookie", REDACTED], ["Host", "x"]]
    assert clean["api_key"] == REDACTED


def test_it_changes_nothing_that_it_is_given() -> None:
    given_fields: dict[str, Any] = {"a": {"password": SECRET}, "b": [{"token": SECRET}]}
    REDACTOR.fields(given_fields)
    assert given_fields == {"a": {"password": SECRET}, "b": [{"token": SECRET}]}


TEXTS = [
    "pwd={}",
    "password={}",
    "login with password = {}",
    "passwd:{}",
    "DB_PASSWORD={} DB_HOST=x",
    "userPassword={}&name=bob",
    "?access_token={}&x=1",
    "https://h/p?sig=1&signature={}",
    "{{'password': '{}'}}",
    "{{'user': 'bob', 'api_key': '{}', 'x': 1}}",
    '{{"password": "{} and more"}}',
    '{{"password":"a\\"{}"}}',
    '"{{\\"token\\": \\"{}\\"}}"',
    "{{b'authorization': b'Basic {}'}}",
    "[(b'cookie', b'session={}')]",
    "('Authorization', 'Token {}')",
    "User(name='bob', password='{}')",
    "tokens=['a', '{}']",
    'password="correct horse {}"',
    'password="unclosed {}',
    "secret => {}",
    "Authorization: Bearer {}",
    "authorization: Digest username=bob, response={}",
    "Cookie: a=b; session={}",
    "Set-Cookie: sid={}; Path=/",
    "curl -H 'Authorization: Token {}' https://h",
    "sent Bearer {} to it",
    "postgres://bob:{}@db:5432/x",
    "postgres://bob:p/{}@db/x",
    "amqp://:{}@mq",
    "https://{}@github.com/a/b",
    "redis://bob:a@{}@db/0",
    "mysql --password {} -h x",
    "tool --api-key={}",
    "tool --token '{}'",
    "private_key: {}",
    "-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----",
    "-----BEGIN PRIVATE KEY-----\n{}",
    "Server=db;Password={};Database=x",
]


@pytest.mark.parametrize("text", TEXTS)
def test_texts_are_searched(text: str) -> None:
    clean = REDACTOR.text(text.format(SECRET))
    assert SECRET not in clean
    assert REDACTED in clean
    assert REDACTOR.text(clean) == clean, "a second time it changes nothing"


@pytest.mark.parametrize("text", ["pwd=x", "pin:1234", "sk_live_abcdefghij", "gho_" + "abcdefghij" * 2])
def test_short_texts_are_searched_too(text: str) -> None:
    assert REDACTED in REDACTOR.text(text)


@pytest.mark.parametrize(
    "token",
    [
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
        "AKIAIOSFODNN7EXAMPLE",
        "ghp_" + "a1" * 18,
        "xoxb-123456789012-abcdef",
        "sk_" + "live_" + "a1" * 12,
        "Basic Ym9iOmh1bnRlcjI=",
    ],
)
def test_tokens_are_known_by_their_form(token: str) -> None:
    clean = REDACTOR.text(f"got {token}, sorry")
    assert token.rpartition(" ")[2] not in clean
    assert clean.startswith("got ")
    assert token.rpartition(" ")[2] not in REDACTOR.text(token)


@pytest.mark.parametrize(
    "text",
    [
        "connected to https://example.com:8080/a@b in 3 s",
        "mail from bob@example.com",
        "see https://example.com/@user/post",
        "a basic understanding of it",
        "user=bob host=db port=5432",
        "the author: Bob",
        "circuit opened policy=payments from_state=closed",
        "",
    ],
)
def test_other_texts_stay(text: str) -> None:
    assert REDACTOR.text(text) == text


def test_names_of_ones_own() -> None:
    redactor = Redactor(["customerNumber", "iban", "vat"])
    clean = redactor.fields({"customer_number": 1, "IBAN": "DE1", "vat": "x", "private": "y", "password": "z"})
    assert clean == {
        "customer_number": REDACTED,
        "IBAN": REDACTED,
        "vat": REDACTED,
        "private": "y",
        "password": REDACTED,
    }
    assert redactor.text("customer-number=17 iban: DE1") == f"customer-number={REDACTED} iban: {REDACTED}"
    assert redactor.text("private: y") == "private: y"


class Colour(IntEnum):
    RED = 1


@dataclass
class User:
    name: str
    password: str


class Unprintable:
    def __repr__(self) -> str:
        raise ValueError(SECRET)


def test_what_it_gives_is_json() -> None:
    given_fields: dict[Any, Any] = {
        "when": datetime(2026, 1, 2, tzinfo=UTC),
        "price": Decimal("1.50"),
        "colour": Colour.RED,
        "user": User("bob", SECRET),
        "error": ValueError(f"password={SECRET}"),
        "nan": float("nan"),
        "inf": float("inf"),
        "unprintable": Unprintable(),
        (1, 2): "a tuple",
        3: "a number",
    }
    clean = REDACTOR.fields(given_fields)
    assert SECRET not in repr(clean)
    assert json.loads(json.dumps(clean, allow_nan=False)) == clean
    assert (clean["when"], clean["price"], clean["nan"]) == ("2026-01-02 00:00:00+00:00", "1.50", "nan")
    assert clean["unprintable"] == "<Unprintable without repr>"


def test_what_holds_itself_ends() -> None:
    endless: dict[str, Any] = {"password": SECRET}
    endless["again"] = [endless]
    clean = REDACTOR.fields(endless)
    assert "[too deep]" in repr(clean)
    assert repr(clean).count("again") < 10
    assert SECRET not in repr(clean)


def test_what_changes_while_it_is_read_is_named() -> None:
    class Changing(UserDict[str, str]):
        def __iter__(self) -> Any:
            raise RuntimeError("dictionary changed size during iteration")

    clean = REDACTOR.fields({"live": Changing(), "other": 1})
    assert clean == {"live": f"<{Changing.__qualname__} that can't be read>", "other": 1}


def test_what_is_huge_is_cut() -> None:
    clean = REDACTOR.fields({"many": list(range(5000)), "text": "x" * 100_000, "keys": dict.fromkeys(range(3000), 1)})
    many, text, keys = clean["many"], clean["text"], clean["keys"]
    assert isinstance(many, list)
    assert isinstance(text, str)
    assert isinstance(keys, dict)
    assert (len(many), many[-1]) == (1001, "[4000 more]")
    assert text == "x" * 65_536 + "...[cut]"
    assert (len(keys), keys["..."]) == (1001, "[2000 more]")


@pytest.mark.parametrize(
    "piece",
    [
        "a",
        "password",
        "a://",
        "eyJaaaaaa-",
        "-",
        "--token",
        "'",
        '"',
        '\\"',
        "basic ",
        "bearer ",
        "-----BEGIN PRIVATE KEY",
    ],
)
def test_no_text_takes_long(piece: str) -> None:
    text = (piece * 65_536)[:65_536]
    started = time.process_time()
    REDACTOR.text(text)
    assert time.process_time() - started < 2


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), VALUES))
def test_any_value_becomes_json_and_a_second_time_changes_nothing(fields: dict[str, object]) -> None:
    clean = REDACTOR.fields(fields)
    json.dumps(clean, allow_nan=False)
    assert REDACTOR.fields(clean) == clean


@given(st.sampled_from(["password", "api_key", "Authorization", "token"]), st.text(min_size=1), VALUES)
def test_a_secret_value_is_nowhere(name: str, before: str, value: object) -> None:
    clean = repr(REDACTOR.fields({before: [{name: [SECRET, value]}, f"{name}={SECRET}"]}))
    assert SECRET not in clean
