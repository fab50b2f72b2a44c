"""What an error may say."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.health.scrubbing import LONGEST, describe_error, scrub, scrub_details


@pytest.mark.parametrize(
    "said, shown",
    [
        ("nobody there", "nobody there"),
        ("postgres://app:hunter2@db/shop refused", "postgres://[redacted]@db/shop refused"),
        ("GET http://api/health?key=hunter2&x=1 gave 500", "GET http://api/health?[redacted] gave 500"),
        ("GET '/health?hunter2' gave 500", "GET '/health?[redacted]' gave 500"),
        ("redis://:hunter2@cache:6379/0", "redis://[redacted]@cache:6379/0"),
        ("host=db password=hunter2 user=app", "host=db password=[redacted] user=app"),
        ("Authorization: Bearer hunter2hunter2", "Authorization: [redacted]"),
        ("is it there?", "is it there?"),
        ("two\n   lines\t", "two lines"),
    ],
)
def test_credentials_and_query_strings_are_taken_out(said: str, shown: str) -> None:
    assert scrub(said) == shown


@pytest.mark.parametrize("before", [0, 150, 180, 190, 196, 199, 200, 4000, 4090])
def test_no_part_of_a_secret_is_left_where_the_text_is_cut(before: int) -> None:
    secret = "Z" * 30
    for said in (f"postgres://app:{secret}@db/", f"http://api/?{secret}", f"password={secret}"):
        assert "Z" not in scrub("x" * before + " " + said)


@pytest.mark.parametrize("left", range(4, 60, 5))
def test_no_part_of_a_secret_is_left_where_a_long_text_stops_to_be_read(left: int) -> None:
    long = "password=" + "a" * (4096 - left - len("password="))
    for said in ("postgres://app:" + "Z" * 80 + "@db/", "eyJ" + "Z" * 80 + "." + "Z" * 80):
        assert "Z" not in scrub(f"{long} {said}")
    assert scrub("Z" * 5000) == ""


def test_what_is_too_long_is_cut() -> None:
    assert scrub("word " * 100) == ("word " * 40)[:197] + "..."
    assert scrub("w" * 200) == "w" * 200


@given(st.text(max_size=500))
def test_it_is_one_line_of_200_characters_at_most(text: str) -> None:
    shown = scrub(text)
    assert len(shown) <= LONGEST
    assert "\n" not in shown


@pytest.mark.parametrize(
    "piece", ["?", "a?", "://", "a:", "password=", "basic a", "-----BEGIN PRIVATE KEY", "eyJ", " "]
)
def test_no_text_takes_long(piece: str) -> None:
    taken = []
    for _ in range(3):
        began = time.perf_counter()
        scrub(piece * 1_000_000)
        taken.append(time.perf_counter() - began)
    assert min(taken) < 0.1


def test_an_error_is_its_type_and_what_it_says() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert describe_error(ConnectionError("refused")) == "ConnectionError: refused"
    assert describe_error(TimeoutError()) == "TimeoutError"
    assert describe_error(Mute()) == "Mute"


def test_details_are_plain_and_clean_at_any_depth() -> None:
    details = {"url": "http://a/?b=c", "deep": [{"password": "x", "at": "redis://:p@h/"}], "one": object, "n": 3}
    clean = scrub_details(details)
    assert clean["url"] == "http://a/?[redacted]"
    assert clean["deep"] == [{"password": "[redacted]", "at": "redis://[redacted]@h/"}]
    assert clean["n"] == 3
    assert isinstance(clean["one"], str)
