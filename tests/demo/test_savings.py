"""What each policy tells of itself at the end."""

from __future__ import annotations

import json
from typing import Any

import pytest

from resilient.demo.savings import savings
from tests.demo.kit import report, snapshot


@pytest.fixture
def counted() -> Any:
    """A snapshot to write into."""
    return json.loads(json.dumps(snapshot()))


def told(counted: Any, **changes: object) -> dict[str, str]:
    return dict(savings(report(snapshot=counted, **changes)))


def test_policies_that_had_nothing_to_do_say_so() -> None:
    sentences = dict(savings(report()))

    assert sentences.pop("circuit breaker") == "stayed closed."
    assert set(sentences.values()) == {"had nothing to do."}
    assert len(sentences) == 10


def test_the_fallback_tells_who_got_a_default(counted: Any) -> None:
    counted["fallback"]["inventory"]["calls"]["applied"] = 1
    assert told(counted)["fallback"].startswith("1 call got 'nobody knows' instead of an error")


def test_the_cache_tells_what_it_remembered_and_what_was_shared(counted: Any) -> None:
    counted["stale"]["inventory"]["calls"]["applied"] = 203
    assert told(counted)["stale cache"] == "203 calls that failed got the last good answer, at most 10 s old."

    counted["stale"]["inventory"]["shared"] = 1
    assert told(counted)["stale cache"].endswith("10 s old; 1 call shared the answer of another for the same item.")

    counted["stale"]["inventory"]["calls"]["applied"] = 0
    assert told(counted)["stale cache"] == "1 call shared the answer of another for the same item."


def test_the_throttle_tells_what_it_refused(counted: Any) -> None:
    counted["throttle"]["inventory"]["rejected"] = 98
    assert told(counted)["throttle"].startswith("98 calls refused at once")


def test_timeouts_tell_what_they_ended(counted: Any) -> None:
    counted["timeout"]["inventory"]["calls"]["timed_out"] = 1
    counted["timeout"]["inventory.primary"]["calls"]["timed_out"] = 60
    counted["timeout"]["inventory.replica"]["calls"]["timed_out"] = 1

    assert told(counted)["total timeout"] == "1 call ended after 2 s, retries and waits included."
    assert told(counted)["attempt timeout"].startswith("61 attempts cut off after 250 ms")


def test_the_retry_tells_what_it_saved_and_what_the_budget_forbade(counted: Any) -> None:
    counted["retry"]["inventory"]["calls"]["recovered"] = 83
    counted["retry"]["inventory"]["attempts"] = {"success": 83, "retryable_failure": 131, "failure": 0}
    assert told(counted)["retry"] == "131 retries, by which 83 calls that had failed got an answer after all."

    counted["retry"]["inventory"]["calls"]["budget"] = 2
    counted["retry"]["inventory"]["attempts"]["retryable_failure"] = 133
    assert told(counted)["retry"].endswith("after all; 2 calls not tried again, to keep within the retry budget.")


def test_the_failover_tells_who_stepped_in(counted: Any) -> None:
    counted["failover"]["inventory"]["served"] = {"primary": 900, "replica": 95}
    assert told(counted)["failover"] == "95 calls answered by the replica where the upstream did not."


def test_the_circuit_breaker_tells_what_it_spared_and_when_it_closed(counted: Any) -> None:
    counted["circuit_breaker"]["inventory.primary"]["rejected"] = 1
    counted["circuit_breaker"]["inventory.replica"]["rejected"] = 7

    assert told(counted)["circuit breaker"] == (
        "1 call not sent to a failing upstream; it let calls pass again 700 ms after the upstream was back."
    )
    assert told(counted, closed_after=None)["circuit breaker"] == "1 call not sent to a failing upstream."


def test_the_hedge_tells_which_attempt_was_first(counted: Any) -> None:
    counted["hedge"]["inventory.primary"]["calls"]["hedge_won"] = 59
    assert told(counted)["hedge"] == "59 calls answered by a second attempt, started when the first was late."

    counted["hedge"]["inventory.primary"]["calls"]["primary_won"] = 2
    assert told(counted)["hedge"].endswith("was late; 2 calls by the first after all.")


def test_the_bulkhead_tells_what_it_kept_out(counted: Any) -> None:
    counted["bulkhead"]["inventory.primary"]["rejected"] = 8
    assert told(counted)["bulkhead"].startswith("8 attempts kept from the upstream, which had 8 to answer")


def test_the_rate_limiter_tells_whom_it_let_wait_and_whom_it_refused(counted: Any) -> None:
    counted["rate_limiter"]["inventory.replica"]["totals"] = {"allowed": 30, "delayed": 62, "rejected": 114}
    assert told(counted)["rate limiter"] == (
        "114 calls kept from the replica and 62 put off, to keep to its 10 a second."
    )
