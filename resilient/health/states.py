"""What policies and the process are doing, read without touching anything."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from resilient.core.checks import refuse
from resilient.core.circuit_plan import CircuitState
from resilient.health.checks import Check, Report, Status
from resilient.pipeline import Pipeline
from resilient.policies.base import Policy
from resilient.policies.bulkhead import Bulkhead
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.registry import Registrable, Registry
from resilient.telemetry.process import cpu_seconds, resident_bytes, thread_count

_LOGGER: Final = logging.getLogger("resilient.health")
DEGRADATION: Final = "degradation"
_AWAY: Final = (CircuitState.OPEN, CircuitState.HALF_OPEN, CircuitState.FORCED_OPEN)


class Stateful(Protocol):
    """A `resilient.lifecycle.Lifecycle`."""

    @property
    def state(self) -> str: ...


@dataclass(slots=True)
class Standing:
    """How the service stands, and why it is no better."""

    status: Status = "healthy"
    reasons: list[str] = field(default_factory=list)

    def lower(self, status: Status, reason: str) -> None:
        if self.status != "unhealthy":
            self.status = status
        self.reasons.append(reason)


def critical_breakers(critical: object) -> tuple[CircuitBreaker, ...]:
    """The breakers among what is given as critical, those of pipelines included."""
    given = (critical,) if isinstance(critical, (Policy, Pipeline)) else critical
    if not isinstance(given, Iterable) or isinstance(given, str):
        refuse("Health", "critical", critical, "circuit breakers, or pipelines that hold one")
    breakers: list[CircuitBreaker] = []
    for policy in given:
        held: Iterable[object] = policy.policies if isinstance(policy, Pipeline) else (policy,)
        found = [one for one in held if isinstance(one, CircuitBreaker)]
        if not found:
            refuse("Health", "critical", policy, "circuit breakers, or pipelines that hold one")
        for breaker in found:
            if breaker.settings["key"] is not None:
                refuse(
                    "Health",
                    "critical",
                    policy,
                    "breakers without key=: one key that is open says little of the service",
                )
        breakers += found
    return tuple(breakers)


class Policies:
    """What is read of a registry, and of the critical breakers wherever they are registered."""

    def __init__(self, registry: Registry, critical: tuple[CircuitBreaker, ...]) -> None:
        self._registry = registry
        self._critical = critical

    def circuits(self) -> dict[str, str]:
        """States of the breakers, by name."""
        return {name: str(one["state"]) for name, _, one in self._read(CircuitBreaker.kind)}

    def bulkheads(self) -> dict[str, dict[str, object]]:
        keys = ("in_flight", "limit", "queued", "max_queue", "rejected")
        return {name: {key: one[key] for key in keys} for name, _, one in self._read(Bulkhead.kind)}

    def levels(self) -> dict[str, str]:
        """Levels of degradation in force, by name."""
        return {name: str(one["level"]) for name, _, one in self._read(DEGRADATION)}

    def judge(self, standing: Standing) -> None:
        """Lower the standing by what the policies do."""
        for name, breaker, one in self._read(CircuitBreaker.kind):
            if one["state"] in _AWAY:
                refuses = any(breaker is other for other in self._critical) and _refuses(one)
                standing.lower("unhealthy" if refuses else "degraded", f"circuit breaker {name}: {one['state']}")
        for name, degradation, one in self._read(DEGRADATION):
            levels: object = getattr(degradation, "levels", None)
            best = levels[0] if isinstance(levels, tuple) and levels else "normal"
            if one["level"] != best:
                standing.lower("degraded", f"degradation {name}: {one['level']}")

    def _read(self, kind: str) -> Iterator[tuple[str, Registrable, dict[str, object]]]:
        """Name, policy and snapshot of all of a kind. One that can't be read is left out."""
        policies: list[Registrable] = [policy for policy in self._registry if policy.kind == kind]
        if kind == CircuitBreaker.kind:
            policies += [one for one in self._critical if not any(one is other for other in policies)]
        for policy in policies:
            try:
                snapshot = policy.snapshot()
            except Exception:
                # A probe tells what it can.
                _LOGGER.warning("the snapshot of %s %r can't be read", kind, policy.name, exc_info=True)
            else:
                yield policy.name or kind, policy, snapshot


def judge_checks(standing: Standing, checks: Iterable[Check], reports: Mapping[str, Report]) -> None:
    for check in checks:
        report = reports.get(check.name)
        if report is not None and report.status != "healthy":
            standing.lower("unhealthy" if check.critical else "degraded", f"check {check.name}: {report.status}")


def ending(lifecycle: Stateful | None) -> str | None:
    """What stands of the process's end: of the lifecycle given, else that of the process where it is in use."""
    if lifecycle is None:
        lifecycle = getattr(sys.modules.get("resilient.lifecycle"), "process", None)
    state = "running" if lifecycle is None else lifecycle.state
    return None if state == "running" else f"process is {state}"


def system(uptime: float) -> dict[str, object]:
    """What the process takes."""
    return {
        "memory_bytes": resident_bytes(),
        "cpu_seconds": round(sum(cpu_seconds()), 3),
        "cpu_count": os.cpu_count(),
        "threads": thread_count(),
        "uptime_seconds": round(uptime, 3),
    }


def process_age() -> float:
    """Seconds since the process began; 0 where the system does not tell."""
    try:
        with open("/proc/self/stat", "rb") as file:
            # The name of the program, in brackets, may hold anything.
            began = int(file.read().rpartition(b")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        with open("/proc/uptime", "rb") as file:
            return max(0.0, float(file.read().split()[0]) - began)
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0


def _refuses(snapshot: Mapping[str, object]) -> bool:
    """Does it refuse calls, and will it when the next one comes?

    An open breaker whose break is over waits for a call to try with: a service that is taken out of rotation for it
    would never get one.
    """
    if snapshot["state"] == CircuitState.FORCED_OPEN:
        return True
    left = snapshot.get("retry_after")
    return snapshot["state"] == CircuitState.OPEN and (not isinstance(left, (int, float)) or left > 0)
