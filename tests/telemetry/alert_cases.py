"""For each alert, series that set it off and series that come close and do not. Names are typed out on purpose."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """Series with a sample each 30 s, and what an alert says at an instant.

    `value` is how the alert writes its value; None: it is silent. `labels` are those beside the job.
    """

    title: str
    alert: str
    series: dict[str, str]
    at: str
    value: str | None = None
    labels: tuple[tuple[str, str], ...] = ()


PAY = (("resilience_policy_name", "pay"),)
PIPELINE = (("resilience_pipeline_name", "pay"),)


def state(which: str, instance: str = "a") -> str:
    return (
        f'resilience_circuit_breaker_state{{job="app",instance="{instance}",resilience_policy_name="pay",'
        f'resilience_circuit_breaker_state="{which}"}}'
    )


def change(before: str, after: str, instance: str = "a") -> str:
    return (
        f'resilience_circuit_breaker_transitions_total{{job="app",instance="{instance}",resilience_policy_name="pay",'
        f'resilience_circuit_breaker_from="{before}",resilience_circuit_breaker_to="{after}"}}'
    )


def of_policy(name: str, result: str = "", instance: str = "a") -> str:
    """`result` is label=value."""
    label, _, value = result.partition("=")
    more = f',{label}="{value}"' if result else ""
    return f'resilience_{name}{{job="app",instance="{instance}",resilience_policy_name="pay"{more}}}'


def calls(outcome: str, error: str = "") -> str:
    more = f',error_type="{error}"' if error else ""
    return (
        'resilience_call_duration_seconds_count{job="app",instance="a",resilience_pipeline_name="pay",'
        f'resilience_outcome="{outcome}"{more}}}'
    )


def overflow() -> str:
    return 'resilience_telemetry_overflow_total{job="app",instance="a",resilience_metric_name="resilience.retry.calls"}'


OVERFLOWED = (("resilience_metric_name", "resilience.retry.calls"),)

CASES = (
    Case(
        "open for a minute",
        "ResilienceCircuitOpen",
        {state("open"): "0 1x10", state("closed"): "1 0x10"},
        "1m30s",
        "1",
        PAY,
    ),
    Case("not yet a minute", "ResilienceCircuitOpen", {state("open"): "0 1x10"}, "1m"),
    Case(
        "half-open now and then",
        "ResilienceCircuitOpen",
        {state("open"): "1 0 1 0 1", state("half_open"): "0 1 0 1 0", state("closed"): "0x4"},
        "2m",
        "1",
        PAY,
    ),
    Case("forced open", "ResilienceCircuitOpen", {state("forced_open"): "1x10"}, "1m", "1", PAY),
    Case(
        "in two processes of three",
        "ResilienceCircuitOpen",
        {state("open", "a"): "1x10", state("open", "b"): "1x10", state("open", "c"): "0x10"},
        "5m",
        "2",
        PAY,
    ),
    Case(
        "closed again by itself",
        "ResilienceCircuitOpen",
        {state("open"): "1 0x10", state("half_open"): "0 1 0x9", state("closed"): "0 0 1x8"},
        "3m",
    ),
    Case("disabled", "ResilienceCircuitOpen", {state("disabled"): "1x10", state("open"): "0x10"}, "5m"),
    Case(
        "six openings in ten minutes",
        "ResilienceCircuitFlapping",
        {change("closed", "open"): "0 1 1 2 2 3 3 4 4 5 5 6 6 6 6 6 6 6 6 6 6"},
        "10m",
        "6",
        PAY,
    ),
    Case(
        "five openings in ten minutes",
        "ResilienceCircuitFlapping",
        {change("closed", "open"): "0 1 1 2 2 3 3 4 4 5 5 5 5 5 5 5 5 5 5 5 5"},
        "10m",
    ),
    Case(
        "five openings in a window of which the first scrape is missing",
        "ResilienceCircuitFlapping",
        {change("closed", "open"): "_ 3 4 4 5 5 6 6 7 7 8 8 8 8 8 8 8 8 8 8 8"},
        "10m",
    ),
    Case(
        "one opening in each of eight processes",
        "ResilienceCircuitFlapping",
        {change("closed", "open", f"process-{number}"): "0 1x19" for number in range(8)},
        "10m",
    ),
    Case(
        "one long outage",
        "ResilienceCircuitFlapping",
        {change("closed", "open"): "0 1x19", change("half_open", "open"): "0+1x20"},
        "10m",
    ),
    Case(
        "two attempts a call",
        "ResilienceRetryStorm",
        {
            of_policy("retry_attempts_total", "resilience_attempt_result=retryable_failure"): "0+60x20",
            of_policy("retry_calls_total", "resilience_retry_result=exhausted"): "0+30x20",
        },
        "6m",
        "2.0",
        PAY,
    ),
    Case(
        "two attempts a call for four minutes",
        "ResilienceRetryStorm",
        {
            of_policy("retry_attempts_total", "resilience_attempt_result=retryable_failure"): "0+60x20",
            of_policy("retry_calls_total", "resilience_retry_result=exhausted"): "0+30x20",
        },
        "4m30s",
    ),
    Case(
        "every third call once more",
        "ResilienceRetryStorm",
        {
            of_policy("retry_attempts_total", "resilience_attempt_result=success"): "0+30x40",
            of_policy("retry_attempts_total", "resilience_attempt_result=retryable_failure"): "0+10x40",
            of_policy("retry_calls_total", "resilience_retry_result=first_try"): "0+20x40",
            of_policy("retry_calls_total", "resilience_retry_result=recovered"): "0+10x40",
        },
        "15m",
    ),
    Case(
        "three attempts for each of very few calls",
        "ResilienceRetryStorm",
        {
            of_policy("retry_attempts_total", "resilience_attempt_result=retryable_failure"): "0+6x40",
            of_policy("retry_calls_total", "resilience_retry_result=exhausted"): "0+2x40",
        },
        "15m",
    ),
    Case(
        "one call in ten fails",
        "ResilienceHighFailureRatio",
        {calls("success"): "0+27x20", calls("failure", "ConnectionError"): "0+3x20"},
        "6m",
        "10%",
        PIPELINE,
    ),
    Case(
        "of every kind a few",
        "ResilienceHighFailureRatio",
        {
            calls("success"): "0+94x20",
            calls("failure", "ValueError"): "0+1x20",
            calls("failure", "OSError"): "0+1x20",
            calls("timeout", "TimeoutExceededError"): "0+2x20",
            calls("rejected", "CircuitOpenError"): "0+2x20",
        },
        "6m",
        "6%",
        PIPELINE,
    ),
    Case(
        "not five minutes yet",
        "ResilienceHighFailureRatio",
        {calls("success"): "0+27x20", calls("failure", "ConnectionError"): "0+3x20"},
        "4m30s",
    ),
    Case(
        "one call in twenty-five fails",
        "ResilienceHighFailureRatio",
        {calls("success"): "0+96x40", calls("failure", "ConnectionError"): "0+4x40"},
        "15m",
    ),
    Case("nothing has ever failed", "ResilienceHighFailureRatio", {calls("success"): "0+96x40"}, "15m"),
    Case(
        "hardly any traffic",
        "ResilienceHighFailureRatio",
        {calls("success"): "0+1x40", calls("failure", "ConnectionError"): "0+1x40"},
        "15m",
    ),
    Case(
        "fallbacks took the errors away",
        "ResilienceHighFailureRatio",
        {calls("success"): "0+10x40", calls("fallback"): "0+90x40"},
        "15m",
    ),
    Case(
        "callers that go away do not hide failures",
        "ResilienceHighFailureRatio",
        {calls("success"): "0+92x20", calls("failure", "OSError"): "0+8x20", calls("cancelled"): "0+900x20"},
        "6m",
        "8%",
        PIPELINE,
    ),
    Case(
        "full in one process of two",
        "ResilienceBulkheadSaturated",
        {
            of_policy("bulkhead_usage"): "19x20",
            of_policy("bulkhead_limit"): "20x20",
            of_policy("bulkhead_usage", instance="b"): "0x20",
            of_policy("bulkhead_limit", instance="b"): "20x20",
        },
        "5m",
        "95%",
        PAY,
    ),
    Case(
        "full for four minutes",
        "ResilienceBulkheadSaturated",
        {of_policy("bulkhead_usage"): "20x7 0x20", of_policy("bulkhead_limit"): "20x30"},
        "5m",
    ),
    Case(
        "nine in ten",
        "ResilienceBulkheadSaturated",
        {of_policy("bulkhead_usage"): "18x40", of_policy("bulkhead_limit"): "20x40"},
        "15m",
    ),
    Case(
        "a quarter of the calls for ten minutes",
        "ResilienceFallbackServing",
        {
            of_policy("fallback_calls_total", "resilience_fallback_result=applied"): "0+1x40",
            of_policy("fallback_calls_total", "resilience_fallback_result=not_needed"): "0+3x40",
            of_policy("fallback_calls_total", "resilience_fallback_result=failed"): "0x40",
        },
        "10m30s",
        "25%",
        PAY,
    ),
    Case(
        "over after three minutes",
        "ResilienceFallbackServing",
        {
            of_policy("fallback_calls_total", "resilience_fallback_result=applied"): "0+1x6 6x40",
            of_policy("fallback_calls_total", "resilience_fallback_result=not_needed"): "0+3x46",
        },
        "15m",
    ),
    Case(
        "never needed",
        "ResilienceFallbackServing",
        {
            of_policy("fallback_calls_total", "resilience_fallback_result=applied"): "0x40",
            of_policy("fallback_calls_total", "resilience_fallback_result=not_needed"): "0+3x40",
        },
        "15m",
    ),
    Case(
        "a series that begins with it",
        "ResilienceTelemetryOverflow",
        {overflow(): "_x10 7x20"},
        "6m",
        "",
        OVERFLOWED,
    ),
    Case("ever more", "ResilienceTelemetryOverflow", {overflow(): "0+5x80"}, "35m", "", OVERFLOWED),
    Case("none new for long", "ResilienceTelemetryOverflow", {overflow(): "7x80"}, "35m"),
)
