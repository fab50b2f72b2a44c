"""A real receiver of OTLP over gRPC and HTTP whose traces and metrics can be read back."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

from tests.receivers import install
from tests.receivers.process import HOST, fetch, fetch_json, reserved_ports, running

Value: TypeAlias = "str | bool | int | float | bytes | list[Value] | dict[str, Value] | None"
Attributes: TypeAlias = dict[str, Value]


@dataclass(frozen=True, slots=True)
class Link:
    trace_id: str
    span_id: str
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class Event:
    name: str
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class Span:
    """A span as it arrived: ids in hex, `parent_id` empty at a root, times in ns, `kind` and `status` in lower case."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: str
    status: str
    description: str
    start: int
    end: int
    attributes: Attributes
    links: tuple[Link, ...]
    events: tuple[Event, ...]
    scope: str
    resource: Attributes


@dataclass(frozen=True, slots=True)
class Exemplar:
    trace_id: str
    span_id: str
    value: float


@dataclass(frozen=True, slots=True)
class DataPoint:
    """A data point as it arrived: `value` of a sum or gauge; `count`, `sum` and buckets of a histogram."""

    metric: str
    kind: Literal["sum", "gauge", "histogram"]
    unit: str
    description: str
    attributes: Attributes
    value: int | float | None
    count: int
    sum: float
    bucket_counts: tuple[int, ...]
    bounds: tuple[float, ...]
    temporality: Literal["delta", "cumulative"] | None
    monotonic: bool
    start: int
    time: int
    exemplars: tuple[Exemplar, ...]
    scope: str
    resource: Attributes


class OtlpReceiver:
    """Keeps every export that it is sent, oldest first, until `clear()`.

    An export of more than 1 MiB is refused: over HTTP by status 413, over gRPC by a partial success.
    """

    def __init__(self, http_port: int, grpc_port: int) -> None:
        self.http_endpoint = f"http://{HOST}:{http_port}"
        self.grpc_endpoint = f"http://{HOST}:{grpc_port}"

    @classmethod
    @contextmanager
    def started(cls) -> Iterator[Self]:
        with reserved_ports(3) as (own, http, grpc), tempfile.TemporaryDirectory() as folder:
            command: list[str | Path] = [
                install.otlp_agent(),
                f"--host={HOST}",
                f"--port={own}",
                f"--otlp-http-port={http}",
                f"--otlp-grpc-port={grpc}",
                "--log-level=WARNING",
                "--disable-llmobs-data-forwarding",
            ]
            receiver = cls(http, grpc)
            # gRPC listens before HTTP does.
            with running(command, Path(folder), f"{receiver.http_endpoint}/test/session/traces"):
                yield receiver

    def clear(self) -> None:
        fetch(f"{self.http_endpoint}/test/session/clear")

    def metrics(self) -> list[dict[str, Any]]:
        """Each export in protobuf's JSON mapping: 64-bit integers are strings, ids base64, zeros are left out."""
        return self._exports("metrics")

    def traces(self) -> list[dict[str, Any]]:
        """Each export of spans, in the same form as `metrics()`."""
        return self._exports("traces")

    def _exports(self, signal: str) -> list[dict[str, Any]]:
        newest_first: list[dict[str, Any]] = fetch_json(f"{self.http_endpoint}/test/session/{signal}")
        return newest_first[::-1]

    def spans(self) -> list[Span]:
        return [
            _span(raw, scope, resource)
            for export in self.traces()
            for scope, resource, raw in _flattened(export, "resource_spans", "scope_spans", "spans")
        ]

    def data_points(self, metric: str | None = None) -> list[DataPoint]:
        """The points of all metrics or of one; of a cumulative series there is one point for each export."""
        return [
            point
            for export in self.metrics()
            for scope, resource, raw in _flattened(export, "resource_metrics", "scope_metrics", "metrics")
            if metric in {None, raw["name"]}
            for point in _points(raw, scope, resource)
        ]


def _flattened(
    export: Mapping[str, Any], by_resource: str, by_scope: str, items: str
) -> Iterator[tuple[str, Attributes, dict[str, Any]]]:
    for one in export.get(by_resource, ()):
        resource = _attributes(one.get("resource", {}))
        for scoped in one.get(by_scope, ()):
            scope = scoped.get("scope", {}).get("name", "")
            for item in scoped.get(items, ()):
                yield scope, resource, item


def _span(raw: Mapping[str, Any], scope: str, resource: Attributes) -> Span:
    status = raw.get("status", {})
    return Span(
        name=raw["name"],
        trace_id=_hex(raw, "trace_id"),
        span_id=_hex(raw, "span_id"),
        parent_id=_hex(raw, "parent_span_id"),
        kind=raw.get("kind", "SPAN_KIND_UNSPECIFIED").removeprefix("SPAN_KIND_").lower(),
        status=status.get("code", "STATUS_CODE_UNSET").removeprefix("STATUS_CODE_").lower(),
        description=status.get("message", ""),
        start=int(raw.get("start_time_unix_nano", 0)),
        end=int(raw.get("end_time_unix_nano", 0)),
        attributes=_attributes(raw),
        links=tuple(
            Link(_hex(link, "trace_id"), _hex(link, "span_id"), _attributes(link)) for link in raw.get("links", ())
        ),
        events=tuple(Event(event.get("name", ""), _attributes(event)) for event in raw.get("events", ())),
        scope=scope,
        resource=resource,
    )


def _points(metric: Mapping[str, Any], scope: str, resource: Attributes) -> Iterator[DataPoint]:
    kinds: tuple[Literal["sum", "gauge", "histogram"], ...] = ("sum", "gauge", "histogram")
    kind = next((kind for kind in kinds if kind in metric), None)
    if kind is None:
        raise TypeError(f"{metric['name']} is neither a sum nor a gauge nor a histogram of explicit buckets")
    data = metric[kind]
    temporality: Literal["delta", "cumulative"] | None = None
    if kind != "gauge":
        temporality = "delta" if data["aggregation_temporality"] == "AGGREGATION_TEMPORALITY_DELTA" else "cumulative"
    for raw in data.get("data_points", ()):
        yield DataPoint(
            metric=metric["name"],
            kind=kind,
            unit=metric.get("unit", ""),
            description=metric.get("description", ""),
            attributes=_attributes(raw),
            value=_number(raw),
            count=int(raw.get("count", 0)),
            sum=float(raw.get("sum", 0.0)),
            bucket_counts=tuple(int(count) for count in raw.get("bucket_counts", ())),
            bounds=tuple(float(bound) for bound in raw.get("explicit_bounds", ())),
            temporality=temporality,
            monotonic=data.get("is_monotonic", False),
            start=int(raw.get("start_time_unix_nano", 0)),
            time=int(raw.get("time_unix_nano", 0)),
            exemplars=tuple(
                Exemplar(_hex(one, "trace_id"), _hex(one, "span_id"), float(_number(one) or 0.0))
                for one in raw.get("exemplars", ())
            ),
            scope=scope,
            resource=resource,
        )


def _number(raw: Mapping[str, Any]) -> int | float | None:
    if "as_int" in raw:
        return int(raw["as_int"])
    return float(raw["as_double"]) if "as_double" in raw else None


def _hex(raw: Mapping[str, Any], key: str) -> str:
    return base64.b64decode(raw.get(key, "")).hex()


def _attributes(raw: Mapping[str, Any]) -> Attributes:
    return {one["key"]: _value(one.get("value", {})) for one in raw.get("attributes", ())}


def _value(raw: Mapping[str, Any]) -> Value:
    match raw:
        case {"int_value": value}:
            return int(value)
        case {"double_value": value}:
            return float(value)
        case {"bytes_value": value}:
            return base64.b64decode(value)
        case {"array_value": value}:
            return [_value(one) for one in value.get("values", ())]
        case {"kvlist_value": value}:
            return {one["key"]: _value(one.get("value", {})) for one in value.get("values", ())}
        case {"string_value": str() as value} | {"bool_value": bool() as value}:
            return value
        case _:
            return None
