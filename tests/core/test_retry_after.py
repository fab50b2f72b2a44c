from __future__ import annotations

import math
import time
from datetime import UTC, datetime, timedelta
from email.message import Message
from email.utils import format_datetime
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.core.retry_after import default_retry_after

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture(autouse=True)
def wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", NOW.timestamp)


class Failed(Exception):
    def __init__(self, **attributes: object) -> None:
        super().__init__("failed")
        self.__dict__.update(attributes)


def replied(value: object, name: object = "Retry-After") -> Failed:
    return Failed(response=SimpleNamespace(headers={name: value}))


class TestAttribute:
    @pytest.mark.parametrize(
        "value, seconds",
        [(3, 3.0), (0.5, 0.5), (0, 0.0), (timedelta(minutes=1), 60.0), (math.inf, math.inf), (10**400, math.inf)],
    )
    def test_a_number_or_a_timedelta_is_the_wish(self, value: object, seconds: float) -> None:
        assert default_retry_after(Failed(retry_after=value)) == seconds

    @pytest.mark.parametrize("value", [None, True, math.nan, -1, timedelta(seconds=-1), "5", object()])
    def test_anything_else_is_no_wish(self, value: object) -> None:
        assert default_retry_after(Failed(retry_after=value)) is None

    def test_it_comes_before_the_headers_and_they_stand_in_for_it(self) -> None:
        response = SimpleNamespace(headers={"Retry-After": "7"})
        assert default_retry_after(Failed(retry_after=2, response=response)) == 2.0
        assert default_retry_after(Failed(retry_after=None, response=response)) == 7.0


class TestHeaders:
    @pytest.mark.parametrize("name", ["Retry-After", "retry-after", "RETRY-AFTER", b"Retry-After"])
    @pytest.mark.parametrize("value", ["120", b"120", " 120 ", 120, "120.0"])
    def test_names_ignore_case_and_both_may_be_bytes(self, name: object, value: object) -> None:
        assert default_retry_after(replied(value, name)) == 120.0

    def test_a_result_has_its_headers_itself(self) -> None:
        assert default_retry_after(SimpleNamespace(headers={"retry-after": "4"})) == 4.0

    def test_those_of_the_response_come_first(self) -> None:
        response = SimpleNamespace(headers={"retry-after": "1"})
        assert default_retry_after(Failed(response=response, headers={"retry-after": "2"})) == 1.0
        response.headers.clear()
        assert default_retry_after(Failed(response=response, headers={"retry-after": "2"})) == 2.0

    def test_the_messages_of_http_client_are_read(self) -> None:
        headers = Message()
        headers["Content-Type"] = "text/plain"
        headers["Retry-After"] = "9"
        assert default_retry_after(Failed(headers=headers)) == 9.0

    def test_a_number_too_large_for_a_float_is_endless_and_not_unread(self) -> None:
        assert default_retry_after(replied("9" * 5_000)) == math.inf

    @pytest.mark.parametrize(
        "date",
        [
            "Wed, 02 Jan 2030 03:05:05 GMT",
            "Wednesday, 02-Jan-30 03:05:05 GMT",
            "Wed Jan  2 03:05:05 2030",
            b"Wed, 02 Jan 2030 03:05:05 GMT",
            "Wed, 02 Jan 2030 04:05:05 +0100",
        ],
    )
    def test_a_date_in_any_form_of_http_is_the_time_until_then(self, date: object) -> None:
        assert default_retry_after(replied(date)) == 60.0

    @pytest.mark.parametrize("date", ["Sun, 06 Nov 1994 08:49:37 GMT", "Wed, 02 Jan 2030 03:04:05 GMT"])
    def test_a_past_date_is_zero(self, date: str) -> None:
        assert default_retry_after(replied(date)) == 0.0

    @given(seconds=st.integers(-(10**9), 10**9))
    def test_any_date_gives_the_seconds_until_it_or_zero(self, seconds: int) -> None:
        now = datetime.fromtimestamp(time.time(), UTC)
        date = format_datetime(now + timedelta(seconds=seconds), usegmt=True)
        assert default_retry_after(replied(date)) == max(0, seconds)

    @pytest.mark.parametrize(
        "value",
        [
            *("", "soon", "-5", "+5", "1e3", "nan", "inf", "0x10", "5 s", "1,000", "5, 5", "\u0663", b"\xff"),
            *(None, [], math.nan, -1, True),
            *("10 Jan 2030", "Wed, 32 Jan 2030 03:04:05 GMT", "Wed, 02 Jan 99999 03:04:05 GMT"),
        ],
    )
    def test_garbage_is_no_wish(self, value: object) -> None:
        assert default_retry_after(replied(value)) is None


class Hostile:
    """Raises at every attribute that an outcome may have."""

    def __getattr__(self, name: str) -> object:
        raise AttributeError(name) if name.startswith("__") else RuntimeError(name)


class HalfHostile:
    headers = SimpleNamespace(items=lambda: [("Retry-After", "6")])

    @property
    def response(self) -> object:
        raise RuntimeError("not sent yet")


class TestNeverRaises:
    @pytest.mark.parametrize(
        "outcome",
        [
            None,
            5,
            "text",
            {"retry_after": 5},
            Hostile(),
            Failed(),
            Failed(response=None),
            Failed(response=Hostile()),
            Failed(headers=[("Retry-After", "5")]),
            Failed(headers={"Retry-After": Hostile()}),
            Failed(headers=SimpleNamespace(items=5)),
            Failed(headers=SimpleNamespace(items=lambda: 5)),
            Failed(headers=SimpleNamespace(items=lambda: [1, 2])),
            Failed(headers=dict),
        ],
    )
    def test_an_outcome_without_readable_headers_has_no_wish(self, outcome: object) -> None:
        assert default_retry_after(outcome) is None

    def test_one_raising_property_does_not_hide_the_headers(self) -> None:
        assert default_retry_after(HalfHostile()) == 6.0

    @given(value=st.one_of(st.text(), st.binary(), st.floats(), st.integers(), st.none()))
    def test_any_header_gives_seconds_or_none(self, value: object) -> None:
        wish = default_retry_after(replied(value))
        assert wish is None or wish >= 0.0
