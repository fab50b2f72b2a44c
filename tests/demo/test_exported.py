"""The outage of the demo, looked at in a real Prometheus and in a real OTLP receiver."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.receivers.fixtures import *  # noqa: F403
from tests.receivers.otlp import OtlpReceiver
from tests.receivers.prometheus import Prometheus

pytestmark = pytest.mark.realtime


def test_the_outage_shows_in_prometheus_and_over_otlp(prometheus: Prometheus, otlp: OtlpReceiver) -> None:
    port = prometheus.target()
    command = [sys.executable, "-m", "resilient", "demo", "--seconds", "10", "--json"]
    with subprocess.Popen(
        [*command, "--prometheus", str(port), "--otlp", otlp.grpc_endpoint],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as demo:
        _, errors = demo.communicate(timeout=90)
    assert (demo.returncode, errors) == (0, "")

    instance = f'instance="{prometheus.instance_of(port)}"'
    opened = (
        f'max_over_time(resilience_circuit_breaker_state{{resilience_circuit_breaker_state="open",{instance}}}[1m])'
    )
    assert max(sample.value for sample in prometheus.query(opened)) == 1
    served = f'max_over_time(resilience_call_duration_seconds_count{{resilience_outcome="fallback",{instance}}}[1m])'
    assert prometheus.query(served)[0].value > 0

    last = {
        frozenset(point.attributes.items()): point for point in otlp.data_points("resilience.circuit_breaker.calls")
    }
    results = {
        str(point.attributes["resilience.circuit_breaker.result"]): point.value
        for point in last.values()
        if point.value
    }
    assert {"success", "failure", "rejected"} <= set(results)
    spans = otlp.spans()
    assert {"fallback", "success"} <= {str(span.attributes.get("resilience.outcome")) for span in spans}
    roots = {span.span_id for span in spans if span.name.startswith("execute ")}
    retried = [span for span in spans if span.name.startswith("attempt ")]
    assert retried
    assert all(span.parent_id for span in retried)
    assert roots
