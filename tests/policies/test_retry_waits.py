"""How long retry waits, and what keeps it from waiting: servers, budgets, deadlines."""

from __future__ import annotations

import http.client
import io
import subprocess
import sys
import textwrap
import threading
import warnings
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from resilient import (
    CircuitOpenError,
    Registry,
    RetryBudget,
    circuit_breaker,
    current_deadline,
    pipeline,
    retry,
    timeout,
)
from resilient.testing import FakeClock
from tests.policies.retry_kit import Failing, waits_of


def _httpx_like(retry_after: str) -> Exception:
    class Headers(dict[str, str]):
        """Case does not matter, as in httpx and requests."""

        def get(self, key: str, default: Any = None) -> Any:
            return {name.lower(): value for name, value in self.items()}.get(key.lower(), default)

    class Response:
        status_code = 503
        headers = Headers({"Content-Length": "0", "Retry-After": retry_after})

    class HTTPStatusError(Exception):
        response = Response()

    return HTTPStatusError("503 Service Unavailable")


def _urllib_like(retry_after: str) -> Exception:
    from urllib.error import HTTPError

    headers = http.client.parse_headers(io.BytesIO(f"retry-after: {retry_after}\r\n\r\n".encode()))
    return HTTPError("http://localhost", 429, "Too Many Requests", headers, None)


def _aiohttp_like(retry_after: str) -> Exception:
    class ClientResponseError(Exception):
        headers = {"Retry-After": retry_after}  # noqa: RUF012

    return ClientResponseError()


class TestRetryAfter:
    @pytest.mark.parametrize("make", [_httpx_like, _urllib_like, _aiohttp_like])
    def test_the_wish_of_a_server_replaces_the_backoff(
        self, make: Any, private: Registry, fake_clock: FakeClock
    ) -> None:
        policy = retry(attempts=3, backoff=0.5, registry=private)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            assert waits_of(policy, fake_clock, lambda: make("7")) == [7.0, 7.0]
            past = format_datetime(datetime.now(UTC) - timedelta(hours=1), usegmt=True)
            assert waits_of(policy, fake_clock, lambda: make(past)) == []
            assert waits_of(policy, fake_clock, lambda: make("soon")) == [0.5, 0.5]

    def test_a_date_is_a_wish_too(self, private: Registry, fake_clock: FakeClock) -> None:
        then = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
        (wait,) = waits_of(retry(attempts=2, backoff=0.5, registry=private), fake_clock, lambda: _httpx_like(then))
        assert 25 < wait <= 30

    def test_a_wish_above_the_maximum_gives_up_rather_than_go_early(
        self, private: Registry, fake_clock: FakeClock
    ) -> None:
        policy = retry(attempts=9, backoff=0.5, retry_after_max=10, registry=private)
        with pytest.raises(Exception, match="503") as caught:
            policy.call(Failing(lambda: _httpx_like("11")))
        assert "the wait asked for is longer than retry_after_max" in caught.value.__notes__[0]
        assert fake_clock.sleeps == []
        assert len(waits_of(policy, fake_clock, lambda: _httpx_like("10"))) == 8

    def test_a_result_may_have_a_wish(self, private: Registry, fake_clock: FakeClock) -> None:
        class Response:
            status_code = 429
            headers = {"retry-after": "4"}  # noqa: RUF012

        policy = retry(
            on_result=lambda response: response.status_code == 429, attempts=2, backoff=0.5, registry=private
        )
        assert policy.call(Response).status_code == 429
        assert fake_clock.sleeps == [4.0]

    def test_a_reader_of_ones_own_or_none(self, private: Registry, fake_clock: FakeClock) -> None:
        own = retry(attempts=2, backoff=0.5, retry_after=lambda outcome: 3, registry=private)
        none = retry(attempts=2, backoff=0.5, retry_after=None, registry=private)
        assert waits_of(own, fake_clock) == [3.0]
        assert waits_of(none, fake_clock, lambda: _httpx_like("7")) == [0.5]

    def test_a_wish_that_passes_max_duration_gives_up(self, private: Registry, fake_clock: FakeClock) -> None:
        policy = retry(attempts=9, backoff=0.5, max_duration=5, registry=private)
        assert waits_of(policy, fake_clock, lambda: _httpx_like("5")) == []


class TestBudget:
    def test_two_policies_share_one(self, private: Registry, fake_clock: FakeClock) -> None:
        budget = RetryBudget(ratio=0.0, min_per_second=0.3, window=10)
        one = retry(attempts=9, budget=budget, name="one", registry=private)
        other = retry(attempts=9, budget=budget, name="other", registry=private)
        assert len(waits_of(one, fake_clock)) + len(waits_of(other, fake_clock)) == 3
        assert other.snapshot()["calls"]["budget"] == 1  # type: ignore[index]

    def test_nested_ones_do_not_multiply_beyond_it(self, private: Registry, fake_clock: FakeClock) -> None:
        budget = RetryBudget(ratio=0.0, min_per_second=0.5, window=10)
        failing = Failing()
        inner = retry(attempts=9, budget=budget, name="inner", registry=private)
        outer = retry(attempts=9, budget=budget, name="outer", registry=private)
        with pytest.raises(ConnectionError):
            outer.call(lambda: inner.call(failing))
        assert len(failing.raised) == 1 + 5

    def test_the_last_error_is_kept_and_told_why(self, private: Registry, fake_clock: FakeClock) -> None:
        failing = Failing()
        budget = RetryBudget(ratio=0.0, min_per_second=0.0)
        with pytest.raises(ConnectionError) as caught:
            retry(budget=budget, registry=private).call(failing)
        assert caught.value is failing.raised[0]
        assert caught.value.__notes__[0].endswith("the retry budget is spent")

    def test_a_success_pays_in(self, private: Registry, fake_clock: FakeClock) -> None:
        budget = RetryBudget(ratio=0.5, min_per_second=0.0)
        policy = retry(budget=budget, attempts=9, backoff=0.0, registry=private)
        for _ in range(3):
            policy.call(str)
        failing = Failing()
        with pytest.raises(ConnectionError):
            policy.call(failing)
        assert len(failing.raised) == 1 + 2  # four calls, this one included, pay for two retries


class TestDeadline:
    def test_no_wait_begins_that_would_end_after_it(self, private: Registry, fake_clock: FakeClock) -> None:
        policy = retry(attempts=9, backoff=4.0, registry=private)
        with timeout(10.0, registry=private), pytest.raises(ConnectionError) as caught:
            policy.call(Failing())
        assert fake_clock.sleeps == [4.0, 4.0]
        assert "the deadline" in caught.value.__notes__[0]
        assert policy.snapshot()["calls"]["deadline"] == 1  # type: ignore[index]

    def test_on_another_thread_no_attempt_begins_after_it(self, private: Registry, fake_clock: FakeClock) -> None:
        policy = retry(attempts=9, backoff=0.0, registry=private)
        attempts: list[None] = []
        outcome: list[BaseException] = []

        def late() -> None:
            attempts.append(None)
            fake_clock.advance(4.0)
            raise ConnectionError("late")

        def run() -> None:
            try:
                timeout(3.0, registry=private).call(policy.call, late)
            except BaseException as error:
                outcome.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        assert len(attempts) == 1
        assert type(outcome[0]) is ConnectionError

    def test_an_attempt_cannot_outlive_it(self, private: Registry, fake_clock: FakeClock) -> None:
        remaining: list[float] = []

        def body() -> None:
            deadline = current_deadline()
            assert deadline is not None
            remaining.append(deadline.remaining())
            raise ConnectionError

        policy = retry(attempts=3, backoff=4.0, attempt_timeout=5.0, registry=private)
        with timeout(10.0, registry=private), pytest.raises(ConnectionError):
            policy.call(body)
        assert remaining == [5.0, 5.0, 2.0]


def test_retry_around_a_named_breaker_waits_for_the_circuit(private: Registry, fake_clock: FakeClock) -> None:
    breaker = circuit_breaker(open_duration=30, registry=private)
    breaker.trip()
    impatient = pipeline(
        retry(on=CircuitOpenError, retry_after_max=10, backoff=0.1, registry=private), breaker, registry=private
    )
    with pytest.raises(CircuitOpenError):
        impatient.call(str)
    patient = pipeline(retry(on=CircuitOpenError, backoff=0.1, registry=private), breaker, registry=private)
    assert patient.call(str) == ""
    assert fake_clock.sleeps == [30.0]


def test_plain_retries_import_no_event_loop() -> None:
    code = """
        import sys
        from resilient import retry
        @retry(attempts=2, backoff=0)
        def fail():
            raise ConnectionError
        try:
            fail()
        except ConnectionError:
            pass
        print([name for name in ("asyncio", "trio", "anyio") if name in sys.modules])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
