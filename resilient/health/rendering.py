"""Answers as JSON: in our words, and in those of draft-inadarei-api-health-check for `application/health+json`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from resilient.health.checks import Check, Report, Status
from resilient.health.responses import timestamp
from resilient.health.states import Standing

_DRAFT: Final[dict[Status, str]] = {"healthy": "pass", "degraded": "warn", "unhealthy": "fail"}


def plain(
    standing: Standing, checks: Iterable[Check], reports: Mapping[str, Report], *, detailed: bool
) -> dict[str, object]:
    """The status, and that of each check; what stands behind them only where `detailed`."""
    shown: dict[str, object] = {"status": standing.status, "timestamp": timestamp()}
    if detailed and standing.reasons:
        shown["reasons"] = standing.reasons
    shown["checks"] = {check.name: _one(reports[check.name], detailed) for check in checks if check.name in reports}
    return shown


def draft(
    standing: Standing, checks: Iterable[Check], reports: Mapping[str, Report], *, detailed: bool
) -> dict[str, object]:
    """The same in the words of the draft: pass, warn, fail; a list for each check; `output` for an error."""
    shown: dict[str, object] = {"status": _DRAFT[standing.status]}
    if detailed and standing.reasons:
        shown["notes"] = standing.reasons
    now = timestamp()
    of_checks: dict[str, object] = {}
    for check in checks:
        report = reports.get(check.name)
        if report is None:
            continue
        entry: dict[str, object] = {"status": _DRAFT[_effective(check, report)], "time": now}
        if detailed:
            entry |= {"componentType": "component", "observedValue": _milliseconds(report), "observedUnit": "ms"}
            if report.error is not None:
                entry["output"] = report.error
        of_checks[f"{check.name}:responseTime"] = [entry]
    shown["checks"] = of_checks
    return shown


def draft_states(states: Mapping[str, str], uptime: float) -> dict[str, object]:
    """States of circuit breakers, and the age of the process, as checks of the draft."""
    now = timestamp()
    shown: dict[str, object] = {
        f"{name}:circuitBreaker": [
            {
                "status": "pass" if state in ("closed", "disabled") else "warn",
                "componentType": "component",
                "observedValue": state,
                "time": now,
            }
        ]
        for name, state in states.items()
    }
    shown["uptime"] = [
        {"status": "pass", "componentType": "system", "observedValue": uptime, "observedUnit": "s", "time": now}
    ]
    return shown


def _one(report: Report, detailed: bool) -> dict[str, object]:
    if not detailed:
        return {"status": report.status}
    shown: dict[str, object] = {
        "status": report.status,
        "response_time_ms": _milliseconds(report),
        "error": report.error,
    }
    if report.details:
        shown["details"] = report.details
    return shown


def _milliseconds(report: Report) -> float:
    return round(report.seconds * 1000, 3)


def _effective(check: Check, report: Report) -> Status:
    return "degraded" if report.status == "unhealthy" and not check.critical else report.status
