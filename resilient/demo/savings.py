"""What each policy did in a run: one sentence from its own counts."""

from __future__ import annotations

from typing import Final

from resilient.demo import text
from resilient.demo.guards import CONNECTIONS, NAME, PRIMARY, REPLICA, REPLICA_RATE
from resilient.demo.report import Report
from resilient.demo.rows import Snapshot, counts, cut_off, number, retries, served_by_replica
from resilient.demo.script import ATTEMPT_TIMEOUT

NOTHING: Final = "had nothing to do."


def savings(report: Report) -> list[tuple[str, str]]:
    """Every policy and its sentence, outermost first."""
    snapshot = report.snapshot
    return [
        ("fallback", _fallback(snapshot)),
        ("stale cache", _stale(report)),
        ("throttle", _throttle(snapshot)),
        ("total timeout", _total_timeout(report)),
        ("retry", _retry(snapshot)),
        ("failover", _failover(snapshot)),
        ("circuit breaker", _breaker(report)),
        ("hedge", _hedge(snapshot)),
        ("bulkhead", _bulkhead(snapshot)),
        ("attempt timeout", _attempt_timeout(report)),
        ("rate limiter", _rate_limiter(snapshot)),
    ]


def _fallback(snapshot: Snapshot) -> str:
    applied = counts(snapshot, "fallback", NAME)["applied"]
    if not applied:
        return NOTHING
    return f"{_calls(applied)} got 'nobody knows' instead of an error, because there was nothing in memory either."


def _stale(report: Report) -> str:
    applied = counts(report.snapshot, "stale", NAME)["applied"]
    shared = number(report.snapshot, "stale", NAME, "shared")
    parts = []
    if applied:
        parts.append(f"{_calls(applied)} that failed got the last good answer, at most {report.pace.memory:g} s old")
    if shared:
        parts.append(f"{_calls(shared)} shared the answer of another for the same item")
    return f"{'; '.join(parts)}." if parts else NOTHING


def _throttle(snapshot: Snapshot) -> str:
    refused = number(snapshot, "throttle", NAME, "rejected")
    if not refused:
        return NOTHING
    return f"{_calls(refused)} refused at once, because less than half of those before got an answer."


def _total_timeout(report: Report) -> str:
    ended = counts(report.snapshot, "timeout", NAME)["timed_out"]
    if not ended:
        return NOTHING
    return f"{_calls(ended)} ended after {report.pace.total_timeout:g} s, retries and waits included."


def _retry(snapshot: Snapshot) -> str:
    again, calls = retries(snapshot), counts(snapshot, "retry", NAME)
    parts = []
    if again:
        made = text.plural(again, "retry", "retries")
        parts.append(f"{made}, by which {_calls(calls['recovered'])} that had failed got an answer after all")
    if calls["budget"]:
        parts.append(f"{_calls(calls['budget'])} not tried again, to keep within the retry budget")
    return f"{'; '.join(parts)}." if parts else NOTHING


def _failover(snapshot: Snapshot) -> str:
    served = served_by_replica(snapshot)
    if not served:
        return NOTHING
    return f"{_calls(served)} answered by the replica where the upstream did not."


def _breaker(report: Report) -> str:
    refused = number(report.snapshot, "circuit_breaker", PRIMARY, "rejected")
    if not refused:
        return "stayed closed."
    spared = f"{_calls(refused)} not sent to a failing upstream"
    if report.closed_after is None:
        return f"{spared}."
    return f"{spared}; it let calls pass again {text.duration(report.closed_after)} after the upstream was back."


def _hedge(snapshot: Snapshot) -> str:
    calls = counts(snapshot, "hedge", PRIMARY)
    won, lost = calls["hedge_won"], calls["primary_won"]
    if not won and not lost:
        return NOTHING
    parts = []
    if won:
        parts.append(f"{_calls(won)} answered by a second attempt, started when the first was late")
    if lost:
        parts.append(f"{_calls(lost)} by the first after all")
    return f"{'; '.join(parts)}."


def _bulkhead(snapshot: Snapshot) -> str:
    refused = number(snapshot, "bulkhead", PRIMARY, "rejected")
    if not refused:
        return NOTHING
    kept = text.plural(refused, "attempt", "attempts")
    return f"{kept} kept from the upstream, which had {CONNECTIONS} to answer already."


def _attempt_timeout(report: Report) -> str:
    timed_out = cut_off(report.snapshot)
    if not timed_out:
        return NOTHING
    ended = text.plural(timed_out, "attempt", "attempts")
    return (
        f"{ended} cut off after {text.duration(ATTEMPT_TIMEOUT)}, so that workers were free for others; "
        f"the plain client's may take {report.pace.plain_timeout:g} s."
    )


def _rate_limiter(snapshot: Snapshot) -> str:
    calls = counts(snapshot, "rate_limiter", REPLICA, "totals")
    if not calls["delayed"] and not calls["rejected"]:
        return NOTHING
    return (
        f"{_calls(calls['rejected'])} kept from the replica and {text.count(calls['delayed'])} put off, "
        f"to keep to its {REPLICA_RATE} a second."
    )


def _calls(number: int) -> str:
    return text.plural(number, "call", "calls")
