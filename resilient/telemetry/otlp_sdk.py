"""The SDK's OTLP exporters as they are used here: made when needed, anew in a forked child, and silent."""

from __future__ import annotations

# Loaded where an exporter begins to export, and by nothing else.
# ruff: noqa: TID253
import logging
import os
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Generic, TypeVar
from urllib.parse import urlsplit

from opentelemetry import context, trace
from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricExportResult,
    MetricsData,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from resilient.core.checks import contradiction
from resilient.core.meters import error_type
from resilient.telemetry.otlp_points import Batch
from resilient.telemetry.otlp_settings import ResourceAttributes, Target

if TYPE_CHECKING:
    from grpc import Compression as GrpcCompression  # type: ignore[import-untyped]

Tell = Callable[[str, str | None], None]
"""What became of an export: of which signal, and why it failed, or None."""

SCOPE: Final = "resilient"

PATIENCE: Final = 0.05
"""Seconds for which a fork waits for an export to end by itself."""

MAX_FORK: Final = 1.0

_SDK_LOGGERS: Final = (
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.exporter.otlp.common.http",
)

E = TypeVar("E", MetricExporter, SpanExporter)


class _Silence(logging.Filter):
    """Keeps what the SDK logs on a thread that exports for us, instead of letting it through.

    It tells of each failure, at ERROR; here a failure is told when it begins and when it ends.
    """

    def __init__(self) -> None:
        super().__init__()
        self._local = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        kept: list[str] | None = getattr(self._local, "kept", None)
        if kept is None:
            return True
        kept[:] = [record.getMessage()[:500]]
        return False

    @contextmanager
    def kept(self) -> Generator[list[str], None, None]:
        """Inside, the newest line of this thread is kept in the list."""
        before = getattr(self._local, "kept", None)
        self._local.kept = lines = list[str]()
        try:
            yield lines
        finally:
            self._local.kept = before


_SILENCE: Final = _Silence()
for _name in _SDK_LOGGERS:
    # First: the SDK has a filter of duplicates, for which a line of ours would make the application's own one.
    logging.getLogger(_name).filters.insert(0, _SILENCE)


@contextmanager
def uninstrumented() -> Generator[None, None, None]:
    """Inside, instrumented clients open no spans and count nothing: an export is no traffic of the application's."""
    # Instrumentations look for one of these.
    key = getattr(context, "_SUPPRESS_INSTRUMENTATION_KEY", "suppress_instrumentation")
    changed = context.set_value("suppress_instrumentation", True, context.set_value(key, True))
    token = context.attach(changed)
    try:
        yield
    finally:
        context.detach(token)


class _Sender(Generic[E]):
    """An SDK's exporter. What belongs to the parent of a forked process is left alone there, not even closed.

    A child that is forked while gRPC is at work is aborted by gRPC as soon as it uses it: see `before_fork`.
    """

    def __init__(self, signal: str, make: Callable[[], E], target: Target, tell: Tell) -> None:
        self._signal = signal
        self._make: Callable[[], E] = make
        self._target = target
        self._tell = tell
        self._made: tuple[int, E] | None = None
        self._left: list[object] = []
        self._stopped = False
        self.failures = 0
        self.begin_anew()

    def begin_anew(self) -> None:
        """In a forked child."""
        self._at_work = threading.Lock()
        self._may_work = threading.Event()
        self._may_work.set()
        self._interrupted = False

    def deliver(self, export: Callable[[E], bool]) -> bool:
        failure = self._delivered(export)
        while failure is not None and self._interrupted:
            failure = self._delivered(export)
        if failure is not None:
            self.failures += 1
        if failure is None or not self._stopped:
            self._tell(self._signal, failure)
        return failure is None

    def _delivered(self, export: Callable[[E], bool]) -> str | None:
        self._may_work.wait(MAX_FORK)
        with self._at_work, _SILENCE.kept() as lines:
            self._interrupted = False
            try:
                exporter = self._exporter_locked()
                return None if exporter is not None and export(exporter) else _last(lines, self._target)
            except Exception as error:  # noqa: BLE001
                return error_type(error)

    def _exporter_locked(self) -> E | None:
        """The exporter of this process, or None once it has been stopped."""
        if self._stopped:
            return None
        made = self._made
        if made is None or made[0] != os.getpid():
            if made is not None:
                # An inherited channel that is collected would be closed with locks that nobody gives back.
                self._left.append(made)
            made = self._made = os.getpid(), self._make()
        return made[1]

    def stop(self) -> None:
        """Cut short what is under way, waits for another attempt included."""
        self._stopped = True
        self._cut()

    def _cut(self) -> None:
        made, self._made = self._made, None
        if made is not None and made[0] == os.getpid():
            with _SILENCE.kept():
                made[1].shutdown()

    def before_fork(self) -> None:
        """Let gRPC rest: wait a moment for an export to end, else cut it short; it is done again after the fork."""
        if self._target.protocol != "grpc":
            return
        self._may_work.clear()
        if not self._at_work.acquire(timeout=PATIENCE):
            self._interrupted = True
            self._cut()
            if not self._at_work.acquire(timeout=MAX_FORK):
                return
        self._at_work.release()

    def after_fork_in_parent(self) -> None:
        self._may_work.set()


class MetricSender(_Sender[MetricExporter]):
    def __init__(self, target: Target, tell: Tell) -> None:
        super().__init__("metrics", _metric_exporter(target), target, tell)

    def send(self, batch: Batch, resource: Resource, version: str) -> bool:
        scope = ScopeMetrics(InstrumentationScope(SCOPE, version), batch.metrics, "")
        data = MetricsData([ResourceMetrics(resource, [scope], "")])
        return self.deliver(lambda exporter: exporter.export(data) is MetricExportResult.SUCCESS)


class SpanSender(_Sender[SpanExporter], SpanExporter):
    """What a batch processor exports to."""

    def __init__(self, target: Target, tell: Tell) -> None:
        super().__init__("traces", _span_exporter(target), target, tell)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with uninstrumented():
            arrived = self.deliver(lambda exporter: exporter.export(spans) is SpanExportResult.SUCCESS)
        return SpanExportResult.SUCCESS if arrived else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        self.stop()


def _last(lines: list[str], target: Target) -> str:
    if not lines:
        return "the SDK does not say why"
    url = urlsplit(target.endpoint)
    # requests and gRPC show the parts of the endpoint that may hold a key.
    for secret in (url.query, url.netloc.rpartition("@")[0]):
        if secret:
            lines[0] = lines[0].replace(secret, "...")
    return lines[0]


def _metric_exporter(target: Target) -> Callable[[], MetricExporter]:
    """Makes the SDK's exporter. All imports are done here: a fork in the middle of one would leave half a module."""
    if target.protocol == "grpc":
        import grpc
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as Grpc

        return lambda: Grpc(
            endpoint=target.endpoint,
            insecure=target.insecure,
            headers=dict(target.headers),
            timeout=target.timeout,
            compression=_grpc_compression(target),
            # The next export is attempt enough, and brings newer numbers. None at all would mean the SDK's own list.
            retryable_error_codes=[grpc.StatusCode.OK],
        )
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as Http

    return lambda: Http(
        endpoint=target.endpoint,
        headers=dict(target.headers),
        timeout=target.timeout,
        compression=Compression(target.compression),
    )


def _span_exporter(target: Target) -> Callable[[], SpanExporter]:
    if target.protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as Grpc

        return lambda: Grpc(
            endpoint=target.endpoint,
            insecure=target.insecure,
            headers=dict(target.headers),
            timeout=target.timeout,
            compression=_grpc_compression(target),
        )
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as Http

    return lambda: Http(
        endpoint=target.endpoint,
        headers=dict(target.headers),
        timeout=target.timeout,
        compression=Compression(target.compression),
    )


def _grpc_compression(target: Target) -> GrpcCompression:
    import grpc

    return grpc.Compression.Gzip if target.compression == "gzip" else grpc.Compression.NoCompression


def resource_of(attributes: ResourceAttributes, *, forked: bool) -> Resource:
    """What describes this process: the environment and the arguments, over what the application's own SDK says."""
    base = getattr(trace.get_tracer_provider(), "resource", None)
    created = Resource.create(dict(attributes))
    if isinstance(base, Resource) and not is_ours(trace.get_tracer_provider()):
        created = base.merge(Resource(dict(attributes)))
    if forked:
        # As the SDK itself does for spans: an id that was given belongs to the parent.
        created = created.merge(Resource({SERVICE_INSTANCE_ID: Resource.create().attributes[SERVICE_INSTANCE_ID]}))
    return created


class _Processors(SpanProcessor):
    """The processors of our exporters: exporters come and go, a tracer provider stays for the life of the process."""

    def __init__(self) -> None:
        self.all: tuple[BatchSpanProcessor, ...] = ()

    def on_start(self, span: Span, parent_context: context.Context | None = None) -> None:
        pass

    def on_end(self, span: ReadableSpan) -> None:
        for processor in self.all:
            processor.on_end(span)


class _OurProvider(TracerProvider):
    def __init__(self, resource: Resource, sample_ratio: float | None) -> None:
        super().__init__(
            sampler=None if sample_ratio is None else ParentBased(TraceIdRatioBased(sample_ratio)),
            resource=resource,
            shutdown_on_exit=False,
        )
        self.sample_ratio = sample_ratio
        self.processors = _Processors()
        self.add_span_processor(self.processors)


def is_ours(provider: object) -> bool:
    return isinstance(provider, _OurProvider)


class Spans:
    """Our part in the application's traces, where it has no tracer provider of its own: one is set up, and used."""

    def __init__(self, target: Target, tell: Tell, provider: _OurProvider) -> None:
        self.sender = SpanSender(target, tell)
        self._processor = BatchSpanProcessor(self.sender)
        self._provider = provider
        provider.processors.all += (self._processor,)

    @classmethod
    def where_nobody_else(
        cls, target: Target, tell: Tell, attributes: ResourceAttributes, sample_ratio: float | None
    ) -> Spans | None:
        """None where the application has a tracer provider: what it does with spans is its own affair."""
        provider = trace.get_tracer_provider()
        if isinstance(provider, trace.ProxyTracerProvider):
            trace.set_tracer_provider(_OurProvider(resource_of(attributes, forked=False), sample_ratio))
            provider = trace.get_tracer_provider()
        if not isinstance(provider, _OurProvider):
            return None
        if provider.sample_ratio != sample_ratio:
            contradiction(
                "OTLPExporter",
                "sample_ratio",
                (provider.sample_ratio, sample_ratio),
                "the first one set up the tracer provider, and a process has but one",
            )
        return cls(target, tell, provider)

    def flush(self) -> bool:
        """Export all spans that have ended. Takes as long as it takes."""
        failures = self.sender.failures
        return self._processor.force_flush() and self.sender.failures == failures

    def finish(self) -> bool:
        """Take no more spans, and export those that have ended. Takes as long as it takes."""
        processors = self._provider.processors
        processors.all = tuple(one for one in processors.all if one is not self._processor)
        failures = self.sender.failures
        self._processor.shutdown()  # type: ignore[no-untyped-call]
        return self.sender.failures == failures
