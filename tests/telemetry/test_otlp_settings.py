"""What an OTLP exporter takes from arguments and environment, and what it refuses."""

from __future__ import annotations

import os
from typing import Any

import pytest

from resilient import ConfigurationError
from resilient.telemetry.otlp import OTLPExporter
from resilient.telemetry.otlp_settings import Settings


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


def settings(**arguments: Any) -> Settings:
    return OTLPExporter(**arguments)._settings


def test_without_a_word_it_goes_to_this_machine() -> None:
    made = settings()
    assert (made.metrics.protocol, made.metrics.endpoint, made.metrics.insecure) == (
        "grpc",
        "http://localhost:4317",
        True,
    )
    assert (made.interval, made.metrics.timeout, made.delta, made.disabled) == (10.0, 5.0, False, False)
    http = settings(protocol="http/protobuf")
    assert http.metrics.endpoint == "http://localhost:4318/v1/metrics"
    assert http.traces.endpoint == "http://localhost:4318/v1/traces"


@pytest.mark.parametrize(
    "arguments, setting",
    [
        ({"endpoint": ""}, "endpoint"),
        ({"endpoint": 4317}, "endpoint"),
        ({"endpoint": "http://"}, "endpoint"),
        ({"endpoint": "nonsense://host:4317"}, "endpoint"),
        ({"endpoint": "http://host:port"}, "endpoint"),
        ({"endpoint": "host:4318", "protocol": "http/protobuf"}, "endpoint"),
        ({"endpoint": "http://host:4318/v1/metrics", "protocol": "http/protobuf"}, "endpoint"),
        ({"endpoint": "http://host:4318?key=1", "protocol": "http/protobuf"}, "endpoint"),
        ({"protocol": "http"}, "protocol"),
        ({"protocol": "http/json"}, "protocol"),
        ({"headers": "a=b"}, "headers"),
        ({"headers": {"a": 1}}, "headers"),
        ({"headers": {"a b": "c"}}, "headers"),
        ({"headers": {"a": "line\nline"}}, "headers"),
        ({"interval": 0}, "interval"),
        ({"timeout": float("inf")}, "timeout"),
        ({"resource": "shop"}, "resource"),
        ({"resource": {"service.name": None}}, "resource"),
        ({"sample_ratio": 1.5}, "sample_ratio"),
        ({"sample_ratio": True}, "sample_ratio"),
        ({"sample_ratio": float("nan")}, "sample_ratio"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, object], setting: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        settings(**arguments)
    assert refused.value.setting == setting


@pytest.mark.parametrize(
    "name, value",
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "udp"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"),
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://host:port"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "key"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
        ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "-1"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "deflate"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "sideways"),
        ("OTEL_RESOURCE_ATTRIBUTES", "shop"),
        ("OTEL_TRACES_SAMPLER", "sometimes"),
    ],
)
def test_wrong_variables_are_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as refused:
        settings()
    assert refused.value.setting == name


def test_a_ratio_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "2")
    with pytest.raises(ConfigurationError, match="OTEL_TRACES_SAMPLER_ARG"):
        settings()
    assert settings(sample_ratio=0.5).sample_ratio == 0.5


def test_a_certificate_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/ca.pem")
    with pytest.raises(ConfigurationError, match=r"ca\.pem"):
        settings(endpoint="https://host:4317")
    settings(endpoint="http://host:4317")


def test_no_message_shows_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments in (
        {"headers": {"authorization": "hunter2\n"}},
        {"endpoint": "http://user:hunter2@host:port"},
        {"endpoint": "http://user:hunter2@host/v1/traces?key=hunter2", "protocol": "http/protobuf"},
    ):
        with pytest.raises(ConfigurationError) as refused:
            settings(**arguments)
        assert "hunter2" not in str(refused.value) + repr(refused.value.value)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization hunter2")
    with pytest.raises(ConfigurationError) as refused:
        settings()
    assert "hunter2" not in str(refused.value)
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_HEADERS")
    assert "hunter2" not in repr(OTLPExporter("http://user:hunter2@host:4317"))


def test_the_timeout_is_in_seconds_as_in_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "7")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "8")
    assert (settings().metrics.timeout, settings().traces.timeout) == (7.0, 8.0)
    assert settings(timeout=2).metrics.timeout == settings(timeout=2).traces.timeout == 2.0


@pytest.mark.parametrize("value, delta", [("", False), ("Cumulative", False), ("DELTA", True), ("lowmemory", True)])
def test_temporality(monkeypatch: pytest.MonkeyPatch, value: str, delta: bool) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", value)
    assert settings().delta == delta


@pytest.mark.parametrize(
    "endpoint, insecure", [("http://host:4317", True), ("https://host:4317", False), ("host:4317", None)]
)
def test_the_scheme_says_whether_it_is_encrypted(endpoint: str, insecure: bool | None) -> None:
    assert settings(endpoint=endpoint).metrics.insecure is insecure
