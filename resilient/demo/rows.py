"""What each policy is doing, read from two snapshots of the registry: one of now, one of a few seconds ago."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

from resilient.demo.users import quantile

Tone = Literal["good", "warn", "bad", "calm"]
Snapshot = Mapping[str, Mapping[str, Mapping[str, object]]]

TONES: dict[str, Tone] = {"closed": "good", "half_open": "warn", "open": "bad"}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table of policies; None where a policy has no such thing."""

    label: str
    state: str | None = None
    tone: Tone = "calm"
    calls: int = 0
    failing: float | None = None
    retries: int | None = None
    refused: int | None = None
    p50: float | None = None
    p99: float | None = None


def rows(name: str, now: Snapshot, before: Snapshot, attempts: list[float], answers: list[float]) -> list[Row]:
    """The pipeline and its policies, outermost first.

    Args:
        name: the pipeline's.
        now: `registry.snapshot()`.
        before: the same, a few seconds ago: the share of failures is that of the time between.
        attempts: seconds that recent attempts took.
        answers: seconds that users waited for recent answers.
    """
    breaker = now["circuit_breaker"][name]
    attempt = f"{name}.attempt"
    p50, p99 = quantile(answers, 0.5), quantile(answers, 0.99)
    return [
        Row(
            f"pipeline {name}",
            f"{number(now, 'pipeline', name, 'active')} active",
            calls=total(now, "pipeline", name),
            failing=share(now, before, "pipeline", name, ("success",)),
            p50=p50,
            p99=p99,
        ),
        Row(
            f"timeout {seconds_of(now, name):g} s",
            calls=total(now, "timeout", name),
            failing=share(now, before, "timeout", name, ("completed",)),
        ),
        Row(
            "retry",
            calls=total(now, "retry", name),
            failing=share(now, before, "retry", name, ("first_try", "recovered")),
            retries=retries(now, name),
        ),
        Row(
            "circuit breaker",
            state_of(breaker),
            TONES.get(breaker_state(now, name), "calm"),
            calls=total(now, "circuit_breaker", name, "totals"),
            failing=failure_rate(now, name),
            refused=number(now, "circuit_breaker", name, "rejected"),
        ),
        Row(
            f"attempt timeout {seconds_of(now, attempt):g} s",
            calls=total(now, "timeout", attempt),
            failing=share(now, before, "timeout", attempt, ("completed",)),
            p50=quantile(attempts, 0.5),
            p99=quantile(attempts, 0.99),
        ),
    ]


def counts(snapshot: Snapshot, kind: str, name: str, key: str = "calls") -> Mapping[str, int]:
    """Totals by result."""
    return cast("Mapping[str, int]", snapshot[kind][name][key])


def total(snapshot: Snapshot, kind: str, name: str, key: str = "calls") -> int:
    return sum(counts(snapshot, kind, name, key).values())


def number(snapshot: Snapshot, kind: str, name: str, key: str) -> int:
    return cast("int", snapshot[kind][name][key])


def seconds_of(snapshot: Snapshot, name: str) -> float:
    return cast("float", snapshot["timeout"][name]["seconds"])


def retries(snapshot: Snapshot, name: str) -> int:
    """Attempts after the first of each call."""
    return max(0, total(snapshot, "retry", name, "attempts") - total(snapshot, "retry", name))


def share(now: Snapshot, before: Snapshot, kind: str, name: str, good: tuple[str, ...]) -> float | None:
    """The share of calls between the two snapshots that had none of the good results; None where there were none."""
    new, old = counts(now, kind, name), counts(before, kind, name)
    calls = sum(new.values()) - sum(old.values())
    if calls <= 0:
        return None
    return 1.0 - sum(new[result] - old[result] for result in good) / calls


def breaker_state(snapshot: Snapshot, name: str) -> str:
    return str(snapshot["circuit_breaker"][name]["state"])


def failure_rate(snapshot: Snapshot, name: str) -> float | None:
    """That of the circuit breaker's window; None where it holds too few calls."""
    return cast("float | None", snapshot["circuit_breaker"][name]["failure_rate"])


def state_of(breaker: Mapping[str, object]) -> str:
    state = str(breaker["state"]).replace("_", "-")
    wait = cast("float | None", breaker["retry_after"])
    return f"{state} {wait:.1f} s" if wait is not None else state
