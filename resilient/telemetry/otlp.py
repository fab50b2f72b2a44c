"""Metrics and spans to a receiver of OTLP, over gRPC or HTTP, from a thread of its own."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from sys import maxsize
from typing import TYPE_CHECKING, Final, Literal
from weakref import WeakSet

from resilient.core.checks import Seconds
from resilient.core.clock import CLOCK
from resilient.core.meters import error_type
from resilient.telemetry.collecting import Collector
from resilient.telemetry.exporters import count_failure

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

    from resilient.telemetry.otlp_points import Points
    from resilient.telemetry.otlp_sdk import MetricSender, SpanSender
    from resilient.telemetry.otlp_settings import Settings

NAME: Final = "otlp"

_started: Final[WeakSet[OTLPExporter]] = WeakSet()


class _Worker:
    """A daemon thread that does one job again and again: every `interval` seconds, and whenever it is asked to."""

    def __init__(self, name: str, job: Callable[[bool], bool], interval: float | None) -> None:
        self._job = job
        self._interval = interval
        self._changed = threading.Condition()
        self._asked = 0
        self._done = 0
        self._went_well = False
        self._is_last = False
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def ask(self, *, last: bool = False) -> int:
        """Have the job done at once; the thread ends after the last one. Gives a ticket for `wait`."""
        with self._changed:
            self._asked += 1
            self._is_last = self._is_last or last
            self._changed.notify_all()
            return self._asked

    def wait(self, ticket: int, timeout: float) -> bool | None:
        """How what was asked for has gone; None where it is not done within this time."""
        with self._changed:
            if self._changed.wait_for(lambda: self._done >= ticket, timeout):
                return self._went_well
            return None

    def _run(self) -> None:
        last = False
        while not last:
            with self._changed:
                self._changed.wait_for(lambda: self._asked > self._done, self._interval)
                ticket, last = self._asked, self._is_last
            went_well = self._job(last)
            with self._changed:
                # Whoever asks after the last one is told the same.
                self._done, self._went_well = (maxsize if last else ticket), went_well
                self._changed.notify_all()


class _Told:
    """Failures of a signal: each is counted, and told when exports begin to fail and when they are through again."""

    def __init__(self) -> None:
        self._failing: set[str] = set()

    def forget(self) -> None:
        self._failing.clear()

    def __call__(self, signal: str, failure: str | None) -> None:
        if failure is not None:
            count_failure(NAME)
        if (failure is not None) == (signal in self._failing):
            return
        import logging

        logger = logging.getLogger("resilient.telemetry")
        if failure is None:
            self._failing.discard(signal)
            logger.debug("OTLP export of %s works again", signal)
        else:
            self._failing.add(signal)
            logger.debug("OTLP export of %s fails: %s", signal, failure)


class _Running:
    """What an exporter has while it is registered."""

    def __init__(self, settings: Settings, points: Points, collector: Collector, told: _Told) -> None:
        from resilient.telemetry import otlp_sdk

        self._settings = settings
        self._points = points
        self._collector = collector
        self._told = told
        self._spans = otlp_sdk.Spans.where_nobody_else(settings.traces, told, settings.resource, settings.sample_ratio)
        self._metrics = otlp_sdk.MetricSender(settings.metrics, told)
        self._resource: Resource | None = otlp_sdk.resource_of(settings.resource, forked=False)
        self._workers = self._work()

    def _work(self) -> list[tuple[str, _Worker]]:
        # Two threads: a flush of spans may hang for as long as the SDK likes.
        workers = [("metrics", _Worker("resilient-otlp-metrics", self._export_metrics, self._settings.interval))]
        if self._spans is not None:
            workers.append(("traces", _Worker("resilient-otlp-traces", self._export_spans, None)))
        return workers

    def after_fork(self, points: Points) -> None:
        self._points = points
        for sender in self.senders():
            sender.begin_anew()
        # Found out later, on the thread: the SDK starts threads for it, for which other hooks of the fork must be over.
        self._resource = None
        self._workers = self._work()

    def flush(self, timeout: float) -> bool:
        return all(went_well for _, went_well in self._have_done(timeout, last=False))

    def shutdown(self, timeout: float) -> None:
        for signal, went_well in self._have_done(timeout, last=True):
            if went_well is None:
                self._told(signal, "the time for shutting down was up")
        for sender in self.senders():
            sender.stop()

    def senders(self) -> list[MetricSender | SpanSender]:
        return [self._metrics] if self._spans is None else [self._metrics, self._spans.sender]

    def _have_done(self, timeout: float, *, last: bool) -> list[tuple[str, bool | None]]:
        end = CLOCK.now() + timeout
        asked = [(signal, worker, worker.ask(last=last)) for signal, worker in self._workers]
        return [(signal, worker.wait(ticket, max(0.0, end - CLOCK.now()))) for signal, worker, ticket in asked]

    def _export_metrics(self, last: bool) -> bool:
        from resilient import __version__
        from resilient.telemetry.otlp_sdk import resource_of, uninstrumented

        try:
            if self._resource is None:
                self._resource = resource_of(self._settings.resource, forked=True)
            with uninstrumented():
                for batch in self._points.batches(self._collector.collect()):
                    if not self._metrics.send(batch, self._resource, __version__):
                        return False
                    self._points.arrived(batch)
        except Exception as error:  # noqa: BLE001 - of what an application's own metrics raise, no more than the type
            self._told("metrics", error_type(error))
            return False
        return True

    def _export_spans(self, last: bool) -> bool:
        assert self._spans is not None
        try:
            return self._spans.finish() if last else self._spans.flush()
        except Exception as error:  # noqa: BLE001
            self._told("traces", error_type(error))
            return False


class OTLPExporter:
    """Sends the metrics of all policies to an OpenTelemetry collector, or to whoever speaks OTLP.

    Where the application has no tracer provider when this is registered, one is set up that sends spans the same way.
    An application's own is used as it is. Arguments win over the environment: `OTEL_EXPORTER_OTLP_*`,
    `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER`, `OTEL_SDK_DISABLED`.

    Args:
        endpoint: where to; for HTTP without the path of the signal. Default: the standard port on this machine.
        protocol: `"grpc"`, which is the default, or `"http/protobuf"`.
        headers: sent along with each export; over those of the environment.
        interval: seconds between two exports.
        timeout: seconds for one export. Default: 5.
        resource: what describes this process, such as `{"service.name": "shop"}`.
        sample_ratio: the share of traces that are recorded, from 0 to 1, where no caller has decided already; for
            the tracer provider that is set up here.

    Raises:
        ConfigurationError: an argument or a variable is wrong.

    Example:
        >>> from resilient import OTLPExporter, register_exporter, unregister_exporter
        >>> exporter = register_exporter(OTLPExporter(resource={"service.name": "shop"}))
        >>> unregister_exporter(exporter, timeout=1)
        True
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        protocol: Literal["grpc", "http/protobuf"] | None = None,
        headers: Mapping[str, str] | None = None,
        interval: Seconds = 10.0,
        timeout: Seconds | None = None,
        resource: Mapping[str, str | bool | int | float] | None = None,
        sample_ratio: float | None = None,
    ) -> None:
        from resilient.telemetry.otlp_settings import read

        self._settings = read(
            endpoint=endpoint,
            protocol=protocol,
            headers=headers,
            interval=interval,
            timeout=timeout,
            resource=resource,
            sample_ratio=sample_ratio,
        )
        self._told = _Told()
        self._running: _Running | None = None
        self._points: Points | None = None

    @property
    def name(self) -> str:
        """What its failures are counted under."""
        return NAME

    def __repr__(self) -> str:
        from resilient.telemetry.otlp_settings import without_secrets

        target = self._settings.metrics
        return f"<OTLPExporter {target.protocol} {without_secrets(target.endpoint)}>"

    def start(self, collector: Collector) -> None:
        """Begin to export; `register_exporter` does this."""
        if self._settings.disabled or self._running is not None:
            return
        from resilient.telemetry.otlp_points import Points

        _watch_forks()
        # Kept from an earlier start: what has been told once, as a delta, must not be told again.
        self._points = self._points or Points(delta=self._settings.delta)
        self._running = _Running(self._settings, self._points, collector, self._told)
        _started.add(self)

    def flush(self, timeout: float) -> bool:
        """Export all there is, within so many seconds; True if it has arrived."""
        if self._running is None:
            return self._settings.disabled
        return self._running.flush(timeout)

    def shutdown(self, timeout: float) -> None:
        """Export what there is, within so many seconds, and stop."""
        running, self._running = self._running, None
        _started.discard(self)
        if running is not None:
            running.shutdown(timeout)

    def _senders(self) -> list[MetricSender | SpanSender]:
        running = self._running
        return [] if running is None else running.senders()

    def before_fork(self) -> None:
        for sender in self._senders():
            sender.before_fork()

    def after_fork_in_parent(self) -> None:
        for sender in self._senders():
            sender.after_fork_in_parent()

    def after_fork(self) -> None:
        """The child begins anew: nothing that the parent counted or has under way is its own."""
        from resilient.telemetry.otlp_points import Points

        self._told.forget()
        self._points = Points(delta=self._settings.delta)
        if self._running is not None:
            self._running.after_fork(self._points)


def _before_fork() -> None:
    for exporter in list(_started):
        exporter.before_fork()


def _in_parent() -> None:
    for exporter in list(_started):
        exporter.after_fork_in_parent()


def _in_child() -> None:
    for exporter in list(_started):
        exporter.after_fork()


@cache
def _watch_forks() -> None:
    """Once, and late: what our threads use, such as logging, then still works before a fork, and again after it."""
    import_module("resilient.telemetry.otlp_sdk")  # what it imports has hooks of its own
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)
