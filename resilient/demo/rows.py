"""What each policy is doing, read from a snapshot of the registry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

from resilient.demo import text
from resilient.demo.guards import NAME, PRIMARY, REPLICA

Tone = Literal["good", "warn", "bad", "calm"]
Snapshot = Mapping[str, Mapping[str, Mapping[str, object]]]

TONES: dict[str, Tone] = {"closed": "good", "half_open": "warn", "open": "bad"}


@dataclass(frozen=True, slots=True)
class Row:
    """One policy, and what it is doing in a few words."""

    label: str
    doing: str
    tone: Tone = "calm"


def rows(snapshot: Snapshot) -> list[Row]:
    """The pipeline and its policies, outermost first; last what guards each of the two servers."""
    held, room = number(snapshot, "bulkhead", PRIMARY, "in_flight"), number(snapshot, "bulkhead", PRIMARY, "limit")
    refusing = share_refused(snapshot)
    return [
        Row("pipeline", f"{number(snapshot, 'pipeline', NAME, 'active')} calls active"),
        Row("fallback", text.plural(counts(snapshot, "fallback", NAME)["applied"], "default", "defaults")),
        Row("stale cache", f"{text.count(counts(snapshot, 'stale', NAME)['applied'])} from memory"),
        Row("throttle", f"refuses {text.percent(refusing)}", "warn" if refusing else "calm"),
        Row("total timeout", f"{text.count(counts(snapshot, 'timeout', NAME)['timed_out'])} ended"),
        Row("retry", text.plural(retries(snapshot), "retry", "retries")),
        Row("failover", f"{text.count(served_by_replica(snapshot))} by the replica"),
        Row("circuit breaker", _breaker(snapshot), TONES.get(breaker_state(snapshot), "calm")),
        Row("hedge", f"{text.count(counts(snapshot, 'hedge', PRIMARY)['hedge_won'])} won"),
        Row("bulkhead", f"{held} of {room} in use", "warn" if held >= room else "calm"),
        Row("attempt timeout", f"{text.count(cut_off(snapshot))} cut off"),
        Row("rate limiter", f"{text.count(number(snapshot, 'rate_limiter', REPLICA, 'rejected'))} refused"),
    ]


def counts(snapshot: Snapshot, kind: str, name: str, key: str = "calls") -> Mapping[str, int]:
    """Totals by result."""
    return cast("Mapping[str, int]", snapshot[kind][name][key])


def total(snapshot: Snapshot, kind: str, name: str, key: str = "calls") -> int:
    return sum(counts(snapshot, kind, name, key).values())


def number(snapshot: Snapshot, kind: str, name: str, key: str) -> int:
    return cast("int", snapshot[kind][name][key])


def retries(snapshot: Snapshot) -> int:
    """Attempts after the first of each call."""
    return max(0, total(snapshot, "retry", NAME, "attempts") - total(snapshot, "retry", NAME))


def served_by_replica(snapshot: Snapshot) -> int:
    return counts(snapshot, "failover", NAME, "served")["replica"]


def cut_off(snapshot: Snapshot) -> int:
    """Attempts that took too long, at either server."""
    return sum(counts(snapshot, "timeout", name)["timed_out"] for name in (PRIMARY, REPLICA))


def share_refused(snapshot: Snapshot) -> float:
    """The probability with which the throttle refuses a call."""
    return cast("float", snapshot["throttle"][NAME]["rejection_probability"])


def breaker_state(snapshot: Snapshot) -> str:
    """That of the circuit breaker in front of the primary, as are the next two."""
    return str(snapshot["circuit_breaker"][PRIMARY]["state"])


def failure_rate(snapshot: Snapshot) -> float | None:
    """The share of failures in the window; None where it holds too few calls."""
    return cast("float | None", snapshot["circuit_breaker"][PRIMARY]["failure_rate"])


def state_of(breaker: Mapping[str, object]) -> str:
    state = str(breaker["state"]).replace("_", "-")
    wait = cast("float | None", breaker["retry_after"])
    return f"{state} {wait:.1f} s" if wait is not None else state


def _breaker(snapshot: Snapshot) -> str:
    state, failing = state_of(snapshot["circuit_breaker"][PRIMARY]), failure_rate(snapshot)
    return state if failing is None else f"{state}, {text.percent(failing)} fail"
