from __future__ import annotations

import contextvars
import threading
from datetime import timedelta
from math import inf, nan, nextafter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from resilient import timeout
from resilient.core.deadline import DEADLINE, Deadline, current_deadline, deadline_at
from resilient.deadline import format_grpc_timeout, from_headers, parse_grpc_timeout, to_headers
from resilient.errors import ConfigurationError
from resilient.testing import FakeClock

GRPC, SECONDS = "grpc-timeout", "X-Request-Timeout"


class TestDeadline:
    def test_outside_timeouts_there_is_none(self) -> None:
        assert current_deadline() is None
        assert deadline_at() == inf

    def test_it_tells_what_is_left(self, fake_clock: FakeClock) -> None:
        deadline = Deadline(fake_clock.now() + 2.0)
        assert (deadline.remaining(), deadline.expired) == (2.0, False)
        fake_clock.advance(1.5)
        assert deadline.remaining() == 0.5
        assert repr(deadline) == "<Deadline in 0.500 s>"
        fake_clock.advance(0.5)
        assert (deadline.remaining(), deadline.expired) == (0.0, True)

    def test_it_never_tells_less_than_nothing(self, fake_clock: FakeClock) -> None:
        deadline = Deadline(fake_clock.now() - 5.0)
        assert (deadline.remaining(), deadline.expired) == (0.0, True)

    def test_it_goes_with_the_context_and_not_with_the_thread(self) -> None:
        deadline = Deadline(1e9)
        token = DEADLINE.set(deadline.at)
        try:
            context = contextvars.copy_context()
        finally:
            DEADLINE.reset(token)
        found: list[Deadline | None] = []
        for run in (
            lambda: context.run(lambda: found.append(current_deadline())),
            lambda: found.append(current_deadline()),
        ):
            thread = threading.Thread(target=run)
            thread.start()
            thread.join()
        assert found == [deadline, None]
        assert context.run(deadline_at) == 1e9

    def test_the_innermost_timeout_can_only_shorten_it(self, fake_clock: FakeClock) -> None:
        with timeout(5.0, name="outer"):
            with timeout(9.0, name="longer"):
                assert deadline_at() == fake_clock.now() + 5.0
            with timeout(1.0, name="shorter"):
                assert deadline_at() == fake_clock.now() + 1.0
            assert deadline_at() == fake_clock.now() + 5.0


class TestGrpcTimeout:
    @pytest.mark.parametrize(
        "value, seconds",
        [
            ("1H", 3600.0),
            ("2M", 120.0),
            ("3S", 3.0),
            ("250m", 0.25),
            ("5u", 5e-6),
            ("7n", 7e-9),
            ("0n", 0.0),
            ("99999999H", 99999999 * 3600.0),
            (" 10S ", 10.0),
        ],
    )
    def test_it_is_read(self, value: str, seconds: float) -> None:
        assert parse_grpc_timeout(value) == pytest.approx(seconds, rel=1e-15)

    @pytest.mark.parametrize(
        "value", ["", "S", "10", "10s", "-1S", "+1S", "1.5S", "1 S", "1SS", "123456789S", "1h", "٣S", "1S\n2S", "infS"]
    )
    def test_what_is_malformed_is_none(self, value: str) -> None:
        assert parse_grpc_timeout(value) is None

    @pytest.mark.parametrize(
        "seconds, value",
        [
            (2.0, "2000000u"),
            (0.05, "50000000n"),
            (1e-9, "1n"),
            (9e-10, "0n"),
            (0.0, "0n"),
            (-1.0, "0n"),
            (nan, "0n"),
            (99.999999, "99999999u"),
            (100.0, "100000m"),
            (1e6, "1000000S"),
            (1e9, "16666666M"),
            (inf, "99999999H"),
        ],
    )
    def test_it_is_written_in_the_finest_unit_that_fits(self, seconds: float, value: str) -> None:
        assert format_grpc_timeout(seconds) == value

    @given(st.floats(0, allow_infinity=True))
    @example(nextafter(0.25, 0))
    @example(nextafter(100.0, 0))
    def test_a_round_trip_never_promises_more(self, seconds: float) -> None:
        value = format_grpc_timeout(seconds)
        read = parse_grpc_timeout(value)
        assert read is not None
        assert 0.0 <= read <= seconds

    @given(st.floats(1e-3, 3e11))
    def test_a_round_trip_loses_at_most_one_unit(self, seconds: float) -> None:
        value = format_grpc_timeout(seconds)
        read = parse_grpc_timeout(value)
        unit = parse_grpc_timeout("1" + value[-1])
        assert read is not None
        assert unit is not None
        assert seconds - read <= unit * (1 + 1e-9) + seconds * 1e-15


class TestHeaders:
    def test_where_there_is_no_deadline_there_are_none(self) -> None:
        assert to_headers() == {}

    def test_they_tell_what_is_left(self, fake_clock: FakeClock) -> None:
        with timeout(2.0):
            fake_clock.advance(0.5)
            assert to_headers() == {GRPC: "1500000u", SECONDS: "1.500"}

    def test_a_deadline_that_has_passed_leaves_nothing(self, fake_clock: FakeClock) -> None:
        headers = to_headers(Deadline(fake_clock.now() - 1.0))
        assert headers == {GRPC: "0n", SECONDS: "0.000"}
        assert from_headers(headers) == 0.0

    @pytest.mark.parametrize("seconds", [inf, 1e308, 1e15])
    def test_a_deadline_beyond_all_bounds_is_no_error(self, seconds: float) -> None:
        assert from_headers(to_headers(Deadline(seconds)), maximum=60) == 60.0

    @given(left=st.floats(0, 1e13) | st.integers(0, 10**6).map(lambda milliseconds: nextafter(milliseconds / 1000, 0)))
    @example(nextafter(0.029, 0))
    @example(nextafter(4.121, 0))
    def test_no_header_promises_more_than_there_is(self, left: float) -> None:
        class Left(Deadline):
            def remaining(self) -> float:
                return left

        headers = to_headers(Left(0.0))
        assert float(headers[SECONDS]) <= left
        for name, value in headers.items():
            read = from_headers({name: value}, maximum=1e20)
            assert read is None or 0.0 <= read <= left
        read = from_headers(headers, maximum=1e20)
        assert read is not None
        assert read <= left

    @pytest.mark.parametrize(
        "headers, seconds",
        [
            ({}, None),
            ({"Accept": "text/html"}, None),
            ({GRPC: "250m"}, 0.25),
            ({SECONDS: "1.5"}, 1.5),
            ({SECONDS: "3"}, 3.0),
            ({SECONDS: " 3 "}, 3.0),
            ({"GRPC-Timeout": "250m"}, 0.25),
            ({"x-request-TIMEOUT": "3"}, 3.0),
            ({GRPC: "5S", SECONDS: "3"}, 3.0),
            ({GRPC: "2S", SECONDS: "3"}, 2.0),
            ({GRPC: "junk", SECONDS: "3"}, 3.0),
            ({GRPC: "2S", SECONDS: "soon"}, 2.0),
            ({GRPC: "junk", SECONDS: "soon"}, None),
            ({SECONDS: "0"}, 0.0),
            ({SECONDS: "3600"}, 60.0),
            ({GRPC: "99999999H"}, 60.0),
        ],
    )
    def test_the_shorter_counts_clamped_and_what_is_malformed_is_passed_over(
        self, headers: dict[str, str], seconds: float | None
    ) -> None:
        assert from_headers(headers) == seconds

    @pytest.mark.parametrize("value", ["", "-1", "+1", "nan", "inf", "1e3", "1,5", ".5", "5.", "0x10", "1" * 13, "٣"])
    def test_seconds_that_are_malformed_are_none(self, value: str) -> None:
        assert from_headers({SECONDS: value}) is None

    def test_the_maximum_may_be_a_timedelta(self) -> None:
        assert from_headers({SECONDS: "90"}, maximum=timedelta(seconds=30)) == 30.0

    @pytest.mark.parametrize("maximum", [0, -1, inf, nan, None, "60", True])
    def test_a_wrong_maximum_is_refused(self, maximum: float) -> None:
        with pytest.raises(ConfigurationError, match=r"from_headers: maximum=.* is not allowed: seconds above 0"):
            from_headers({}, maximum=maximum)

    @given(st.dictionaries(st.sampled_from([GRPC, SECONDS, "grpc-TIMEOUT", "Accept"]), st.text(max_size=12)))
    def test_nothing_that_a_stranger_sends_raises_or_exceeds_the_maximum(self, headers: dict[str, str]) -> None:
        seconds = from_headers(headers, maximum=60.0)
        assert seconds is None or 0.0 <= seconds <= 60.0
