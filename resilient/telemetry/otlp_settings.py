"""What an OTLP exporter is told: by its arguments, else by the `OTEL_*` variables of the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Final, Literal, cast
from urllib.parse import unquote, urlsplit

from resilient.core.checks import Checker, Seconds, refuse

Protocol = Literal["grpc", "http/protobuf"]
Signal = Literal["metrics", "traces"]
Compression = Literal["none", "gzip", "deflate"]

PROTOCOLS: Final = ("grpc", "http/protobuf")
SIGNALS: Final[tuple[Signal, ...]] = ("metrics", "traces")
TIMEOUT: Final = 5.0

_GRPC_NAMES: Final = frozenset({"dns", "ipv4", "ipv6", "unix", "unix-abstract", "vsock", "xds"})
_DEFAULT_ENDPOINTS: Final = {"grpc": "http://localhost:4317", "http/protobuf": "http://localhost:4318"}
_COMPRESSIONS: Final = {"grpc": ("none", "gzip"), "http/protobuf": ("none", "gzip", "deflate")}
_TEMPORALITIES: Final = ("cumulative", "delta", "lowmemory")
_SAMPLERS: Final = (
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
)
_FILES: Final = ("CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE")
# What both HTTP and gRPC can carry.
_HEADER_NAME: Final = re.compile(r"[0-9a-z_.\-]+\Z")
_HEADER_VALUE: Final = re.compile(r"[\x20-\x7e]*\Z")

ResourceAttributes = Mapping[str, str | bool | int | float]


@dataclass(frozen=True, slots=True)
class Target:
    """Where and how one signal is sent. `insecure` is None where only the SDK's own variables tell."""

    signal: Signal
    protocol: Protocol
    endpoint: str
    insecure: bool | None
    headers: Mapping[str, str]
    timeout: float
    compression: Compression


@dataclass(frozen=True, slots=True)
class Settings:
    metrics: Target
    traces: Target
    interval: float
    delta: bool
    resource: ResourceAttributes
    sample_ratio: float | None
    disabled: bool


def read(
    *,
    endpoint: str | None,
    protocol: str | None,
    headers: Mapping[str, str] | None,
    interval: Seconds,
    timeout: Seconds | None,
    resource: Mapping[str, str | bool | int | float] | None,
    sample_ratio: float | None,
) -> Settings:
    """All settings, checked. Raises ConfigurationError for what is wrong, be it in an argument or in a variable."""
    checker = Checker("OTLPExporter")
    if protocol is not None:
        checker.choice("protocol", protocol, PROTOCOLS)
    given = None if headers is None else _headers("headers", headers)
    seconds = checker.optional_seconds("timeout", timeout)
    if sample_ratio is not None:
        _ratio("sample_ratio", sample_ratio)
    else:
        _check_sampler()
    metrics, traces = (_target(signal, endpoint, protocol, given, seconds) for signal in SIGNALS)
    preference = _variable("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE")
    if preference is not None:
        checker.choice("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", preference.lower(), _TEMPORALITIES)
    _check_resource_variable()
    return Settings(
        metrics=metrics,
        traces=traces,
        interval=checker.seconds("interval", interval),
        # All our instruments are synchronous ones, for which "lowmemory" is delta, too.
        delta=preference is not None and preference.lower() != "cumulative",
        resource=_resource(resource),
        sample_ratio=sample_ratio,
        disabled=(_variable("OTEL_SDK_DISABLED") or "").lower() == "true",
    )


def _variable(name: str) -> str | None:
    """A variable of the environment; an empty one is not set, says OpenTelemetry."""
    return (os.environ.get(name) or "").strip() or None


def _for_signal(signal: Signal, setting: str) -> tuple[str, str] | None:
    """The name and value of the variable for this signal, else of that for all."""
    for name in (f"OTEL_EXPORTER_OTLP_{signal.upper()}_{setting}", f"OTEL_EXPORTER_OTLP_{setting}"):
        value = _variable(name)
        if value is not None:
            return name, value
    return None


def _target(
    signal: Signal, endpoint: str | None, protocol: str | None, headers: Mapping[str, str] | None, seconds: float | None
) -> Target:
    spoken = protocol or _choice(signal, "PROTOCOL", PROTOCOLS) or "grpc"
    url = _endpoint(signal, endpoint, spoken)
    found = _for_signal(signal, "HEADERS")
    sent = {} if found is None else _headers(found[0], _pairs(*found))
    if spoken == "http/protobuf":
        _check_files(signal)
    scheme = urlsplit(url).scheme
    if spoken == "grpc" and scheme != "http":
        _check_files(signal)
    return Target(
        signal,
        cast("Protocol", spoken),
        url,
        {"http": True, "https": False}.get(scheme),
        sent | dict(headers or {}),
        seconds if seconds is not None else _timeout(signal),
        cast("Compression", _choice(signal, "COMPRESSION", _COMPRESSIONS[spoken]) or "none"),
    )


def _choice(signal: Signal, setting: str, allowed: tuple[str, ...]) -> str | None:
    found = _for_signal(signal, setting)
    return None if found is None else Checker("OTLPExporter").choice(found[0], found[1].lower(), allowed)


def _endpoint(signal: Signal, argument: str | None, protocol: str) -> str:
    own = f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT"
    if argument is None:
        full = _variable(own)
        if full is not None:
            return _checked_url(own, full, protocol)
    if argument is not None:
        name, base = "endpoint", argument
    else:
        name = "OTEL_EXPORTER_OTLP_ENDPOINT"
        base = _variable(name) or _DEFAULT_ENDPOINTS[protocol]
    url = _checked_url(name, base, protocol)
    if protocol == "grpc":
        return url
    if urlsplit(url).query:
        refuse("OTLPExporter", name, without_secrets(base), "a URL without a query: the path of the signal is appended")
    for other in SIGNALS:
        if url.rstrip("/").endswith(f"/v1/{other}"):
            refuse(
                "OTLPExporter",
                name,
                without_secrets(base),
                f"a URL without /v1/{other}, which is appended for each signal",
            )
    return f"{url.rstrip('/')}/v1/{signal}"


def _checked_url(name: str, url: object, protocol: str) -> str:
    allowed = "a URL such as http://localhost:4318" if protocol != "grpc" else "http://host:port, https:// or host:port"
    if not isinstance(url, str):
        refuse("OTLPExporter", name, url, allowed)
    try:
        parts = urlsplit(url)
        _ = parts.port  # parsed, and refused, only when asked for
        if parts.scheme in {"http", "https"}:
            usable = bool(parts.hostname)
        else:
            # gRPC's own names, too: unix:/path, dns:///host:port; in host:port the host looks like a scheme.
            known = "//" not in url or parts.scheme in _GRPC_NAMES
            usable = protocol == "grpc" and known and bool(url) and not any(char.isspace() for char in url)
    except ValueError:
        usable = False
    if not usable:
        refuse("OTLPExporter", name, without_secrets(url), allowed)
    return url


def without_secrets(url: str) -> str:
    """A URL as it may be shown: without user, password and query."""
    return re.sub(r"(?<=//)[^/@]*@|\?.*", "", url)


def _pairs(name: str, text: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for item in text.split(","):
        key, equals, value = item.partition("=")
        if not item.strip():
            continue
        if not equals:
            # Of a header, no more than its name may be shown.
            refuse("OTLPExporter", name, "...", "name=value,name=value")
        pairs[unquote(key).strip()] = unquote(value).strip()
    return pairs


def _headers(name: str, headers: object) -> dict[str, str]:
    allowed = "a mapping of header names to strings of printable ASCII characters"
    if not isinstance(headers, Mapping):
        refuse("OTLPExporter", name, type(headers).__name__, allowed)
    checked: dict[str, str] = {}
    for key, value in headers.items():
        if (
            not isinstance(key, str)
            or not isinstance(value, str)
            or not _HEADER_NAME.match(key.lower())
            or not _HEADER_VALUE.match(value)
        ):
            refuse("OTLPExporter", name, {key: "..."}, allowed)
        checked[key.lower()] = value
    return checked


def _timeout(signal: Signal) -> float:
    found = _for_signal(signal, "TIMEOUT")
    if found is None:
        return TIMEOUT
    return Checker("OTLPExporter").seconds(found[0], _number(*found))


def _number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        refuse("OTLPExporter", name, text, "a number")
    return number


def _ratio(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value) or not 0 <= value <= 1:
        refuse("OTLPExporter", name, value, "a number from 0 to 1")


def _check_sampler() -> None:
    name = "OTEL_TRACES_SAMPLER"
    sampler = _variable(name)
    if sampler is None:
        return
    Checker("OTLPExporter").choice(name, sampler.lower(), _SAMPLERS)
    argument = _variable(f"{name}_ARG")
    if sampler.lower().endswith("traceidratio") and argument is not None:
        _ratio(f"{name}_ARG", _number(f"{name}_ARG", argument))


def _check_resource_variable() -> None:
    name = "OTEL_RESOURCE_ATTRIBUTES"
    for item in (_variable(name) or "").split(","):
        if item.strip() and not item.partition("=")[1]:
            refuse("OTLPExporter", name, item, "key=value,key=value")


def _resource(given: object) -> ResourceAttributes:
    allowed = "a mapping of names to strings, numbers and bools, such as {'service.name': 'shop'}"
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        refuse("OTLPExporter", "resource", given, allowed)
    for key, value in given.items():
        if not isinstance(key, str) or not key or not isinstance(value, (str, bool, int, float)):
            refuse("OTLPExporter", "resource", {key: value}, allowed)
    return dict(given)


def _check_files(signal: Signal) -> None:
    for setting in _FILES:
        found = _for_signal(signal, setting)
        if found is not None and not os.access(found[1], os.R_OK):
            refuse("OTLPExporter", found[0], found[1], "the path of a file that can be read")
