"""Recording and alerting rules for Prometheus, made from the catalogue."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from re import sub
from textwrap import fill, indent
from typing import Final, Literal

from resilient.telemetry import catalogue as m
from resilient.telemetry.promql import (
    BOUND,
    INSTANCE,
    JOB,
    PIPELINE_LABEL,
    POLICY_LABEL,
    Part,
    all_but,
    over,
    own_label,
    rate,
    sample,
    select,
)

Severity = Literal["critical", "warning"]

WINDOW: Final = "5m"
LONG_WINDOW: Final = "10m"
TRAFFIC: Final = 0.1
"""Calls a second below which a ratio wakes nobody."""
FAILED: Final = ("failure", "timeout", "rejected")
JUDGED: Final = all_but(m.CALL_DURATION, "cancelled")
"""What the caller itself gave up says nothing about the other side."""

_PIPELINE: Final = f"{{{{ $labels.{PIPELINE_LABEL} }}}}"
_POLICY: Final = f"{{{{ $labels.{POLICY_LABEL} }}}}"
_JOB: Final = f"{{{{ $labels.{JOB} }}}}"
_COUNT: Final = '{{ $value | printf "%.0f" }}'
_FACTOR: Final = '{{ $value | printf "%.1f" }}'
_SHARE: Final = "{{ $value | humanizePercentage }}"

_PER_PIPELINE: Final = (JOB, PIPELINE_LABEL)
_PER_POLICY: Final = (JOB, POLICY_LABEL)
_PER_PROCESS: Final = (JOB, INSTANCE, POLICY_LABEL)


@dataclass(frozen=True, slots=True)
class Recording:
    """An expression under a name of its own."""

    name: str
    expression: str


@dataclass(frozen=True, slots=True)
class Alert:
    """An expression that has to hold for a while, and what is told then."""

    name: str
    expression: str
    hold: str
    severity: Severity
    summary: str
    description: str


def _name(level: str, metric: m.Metric, operations: str, part: Part | None = None) -> str:
    return f"{level}:{sample(metric, part)}:{operations}"


_CALLS: Final = _name("pipeline", m.CALL_DURATION, f"rate{WINDOW}", "count")
_FAILURES: Final = _name("pipeline", m.CALL_DURATION, f"failure_rate{WINDOW}", "count")
_FAILURE_RATIO: Final = _name("pipeline", m.CALL_DURATION, f"failure_ratio_rate{WINDOW}", "count")
_P99: Final = _name("pipeline", m.CALL_DURATION, f"p99_rate{WINDOW}", "bucket")
_RETRIED_CALLS: Final = _name("policy", m.RETRY_CALLS, f"rate{WINDOW}")
_AMPLIFICATION: Final = _name("policy", m.RETRY_ATTEMPTS, f"ratio_rate{WINDOW}")
_FULL: Final = _name("policy", m.BULKHEAD_USAGE, "max_ratio")
_FALLBACK_RATIO: Final = _name("policy", m.FALLBACK_CALLS, f"applied_ratio_rate{WINDOW}")

RECORDINGS: Final = (
    Recording(_CALLS, over("sum", _PER_PIPELINE, rate(select(m.CALL_DURATION, JUDGED, part="count"), WINDOW))),
    # Series of failures begin with the first one: without the second half a pipeline that never failed had no ratio.
    Recording(
        _FAILURES,
        f"{over('sum', _PER_PIPELINE, rate(select(m.CALL_DURATION, FAILED, part='count'), WINDOW))}\nor {_CALLS} * 0",
    ),
    Recording(_FAILURE_RATIO, f"{_FAILURES} / ({_CALLS} > 0)"),
    Recording(
        _P99,
        "histogram_quantile(0.99, "
        + over("sum", (*_PER_PIPELINE, BOUND), rate(select(m.CALL_DURATION, part="bucket"), WINDOW))
        + ")",
    ),
    Recording(_RETRIED_CALLS, over("sum", _PER_POLICY, rate(select(m.RETRY_CALLS), WINDOW))),
    Recording(
        _AMPLIFICATION,
        f"{over('sum', _PER_POLICY, rate(select(m.RETRY_ATTEMPTS), WINDOW))}\n/ ({_RETRIED_CALLS} > 0)",
    ),
    # A bulkhead is full in one process, however idle the others are.
    Recording(
        _FULL,
        over(
            "max",
            _PER_POLICY,
            f"\n  {over('sum', _PER_PROCESS, select(m.BULKHEAD_USAGE))}"
            f"\n  / ({over('sum', _PER_PROCESS, select(m.BULKHEAD_LIMIT))} > 0)\n",
        ),
    ),
    Recording(
        _FALLBACK_RATIO,
        f"{over('sum', _PER_POLICY, rate(select(m.FALLBACK_CALLS, ('applied',)), WINDOW))}"
        f"\n/ ({over('sum', _PER_POLICY, rate(select(m.FALLBACK_CALLS), WINDOW))} > 0)",
    ),
)

ALERTS: Final = (
    Alert(
        "ResilienceCircuitOpen",
        # A breaker that tries again and again is half-open whenever a probe is out; for its callers it is as open.
        over(
            "sum",
            _PER_POLICY,
            f"{select(m.CIRCUIT_STATE, ('open', 'half_open', 'forced_open'))} > 0",
        )
        + " > 0",
        "1m",
        "critical",
        f"Circuit breaker {_POLICY} of {_JOB} has let no normal traffic through for a minute",
        f"{_COUNT} process(es) refuse calls through {_POLICY}: what it guards failed, or somebody forced it open "
        "(state forced_open). "
        "See whether the service behind it is up, and reachable from here; the breaker closes by itself once probes "
        "succeed, on the next calls after its break. "
        f"If the service is well, look at last_error in the snapshot of {_POLICY} for what the breaker counts, and "
        "reset() it if it was opened by hand. "
        "Restarting this application does not help: it would send its full load to a service that is down.",
    ),
    Alert(
        "ResilienceCircuitFlapping",
        # Openings of a half-open breaker are those of one long outage. An increase is extrapolated, hence rounded.
        over(
            "max",
            _PER_POLICY,
            "round("
            + over(
                "sum",
                _PER_PROCESS,
                f"increase({select(m.CIRCUIT_TRANSITIONS, ('closed',), ('open',))}[{LONG_WINDOW}])",
            )
            + ")",
        )
        + " > 5",
        "0s",
        "warning",
        f"Circuit breaker {_POLICY} of {_JOB} went from closed to open {_COUNT} times in ten minutes",
        "What it guards takes the probes and falls over under the load that follows, or the breaker opens too easily. "
        "Compare its failures with those that the other side has counted. "
        "Where the other side is overloaded: lower the load (bulkhead, rate limiter, fewer retries), or lengthen "
        "open_duration and raise success_threshold. "
        "Where it is well: raise minimum_calls or the failure rate, or leave errors that are no outage to ignore=.",
    ),
    Alert(
        "ResilienceRetryStorm",
        f"{_AMPLIFICATION} > 1.5\nand {_RETRIED_CALLS} > {TRAFFIC}",
        "5m",
        "warning",
        f"Retries by {_POLICY} of {_JOB} multiply the load by {_FACTOR}",
        f"Each call makes {_FACTOR} attempts on average, and these hit a service that already fails. "
        f"Find out what fails from error_type and the log of {_POLICY}; repair that first. "
        "To take load off it at once: trip the circuit breaker behind the retries, or lower attempts=. "
        "For the time after: give the retries a RetryBudget and a circuit breaker inside, and see that no caller above "
        "retries the same calls again.",
    ),
    Alert(
        "ResilienceHighFailureRatio",
        f"{_FAILURE_RATIO} > 0.05\nand {_CALLS} > {TRAFFIC}",
        "5m",
        "critical",
        f"{_SHARE} of the calls through {_PIPELINE} of {_JOB} fail",
        "Callers get these errors: retries and fallbacks have not helped. "
        f"See which by {own_label(m.CALL_DURATION)} (timeout, rejected, failure) and {own_label(m.CALL_DURATION, 1)}. "
        "Timeouts: the other side is slow, look at its latency and at the network. "
        "Rejected: a circuit breaker, bulkhead or limiter here refuses, look at its own alert. "
        "Failure: the other side answers with errors, look at its log, and at what was deployed last on either side; "
        "roll that back if the times agree.",
    ),
    Alert(
        "ResilienceBulkheadSaturated",
        f"{_FULL} > 0.9",
        "5m",
        "warning",
        f"Bulkhead {_POLICY} of {_JOB} is {_SHARE} full",
        "In at least one process nearly all permits are taken; further calls wait or are rejected. "
        "See whether calls have become slower (then the other side is the cause, and a higher limit makes it worse) or "
        "more (then start more processes, or find who sends them). "
        "Only where the other side has room: raise the limit with resize(), or max_concurrent=. "
        "A level that never falls, without traffic, is a call that hangs: give it a timeout.",
    ),
    Alert(
        "ResilienceFallbackServing",
        f"{_FALLBACK_RATIO} > 0",
        "10m",
        "warning",
        f"Fallback {_POLICY} of {_JOB} has stood in for ten minutes, now for {_SHARE} of its calls",
        "Callers get no errors, but second-best answers: a default, a stale result, or another provider. "
        f"Find out from the log of {_POLICY} why the first choice fails, and from its circuit breaker since when. "
        "It can wait until morning where the answers are good enough for so long; stale results end at max_stale, and "
        "errors begin then.",
    ),
    Alert(
        "ResilienceTelemetryOverflow",
        # A series that begins with the overflow has all its value from the start, which is no increase.
        over(
            "sum",
            (JOB, own_label(m.TELEMETRY_OVERFLOW)),
            f"\n  ({select(m.TELEMETRY_OVERFLOW)} unless {select(m.TELEMETRY_OVERFLOW)} offset {LONG_WINDOW})"
            f"\n  or increase({select(m.TELEMETRY_OVERFLOW)}[{LONG_WINDOW}])\n",
        )
        + " > 0",
        "0s",
        "warning",
        f"{{{{ $labels.{own_label(m.TELEMETRY_OVERFLOW)} }}}} of {_JOB} has more series than are exported",
        "The surplus is added up in one series, so that other alerts may not see the policies in it. Calls are not "
        "affected; it can wait until morning. "
        "Look for names of policies or pipelines that are made from data (a user, a URL): give them fixed names, and "
        "use key= for a state for each. registry.remove() drops those that are there already.",
    ),
)


def prometheus_rules() -> str:
    """The rules as the text of a rule file for Prometheus."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# Made by `resilient rules`."
    yield "groups:"
    # One group, because only rules of the same group are evaluated in order: alerts read what was just recorded.
    yield "  - name: resilience"
    yield "    rules:"
    for recording in RECORDINGS:
        yield f"      - record: {recording.name}"
        yield from _expression(recording.expression)
    for alert in ALERTS:
        yield f"      - alert: {alert.name}"
        yield from _expression(alert.expression)
        yield f"        for: {alert.hold}"
        yield "        labels:"
        yield f"          severity: {alert.severity}"
        yield "        annotations:"
        # A string of JSON is one of YAML.
        yield f"          summary: {json.dumps(alert.summary)}"
        yield "          description: >-"
        yield indent(_folded(alert.description), " " * 12)


def _expression(text: str) -> Iterator[str]:
    yield "        expr: |-"
    yield indent(text, " " * 10)


def _folded(text: str) -> str:
    """Lines of readable length, none of which ends inside a `{{ ... }}`."""
    held = sub(r"{{.*?}}", lambda found: found[0].replace(" ", "\0"), text)
    return fill(held, 100, break_long_words=False, break_on_hyphens=False).replace("\0", " ")
