"""Metrics for Prometheus: read from the meters at each scrape, or written for prometheus_client's multiprocess mode."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from errno import EADDRINUSE
from threading import Thread
from time import time_ns
from typing import TYPE_CHECKING, Final

from resilient.core.checks import Checker, refuse
from resilient.core.clock import CLOCK
from resilient.core.fork import new_lock, renew_after_fork
from resilient.errors import ConfigurationError
from resilient.telemetry.catalogue import CATALOGUE, Kind, prometheus_label
from resilient.telemetry.catalogue import Metric as Entry
from resilient.telemetry.collecting import Attributes, Collector, Distribution, Family, Value
from resilient.telemetry.exporters import count_failure

if TYPE_CHECKING:
    from wsgiref.simple_server import WSGIServer

    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric
    from prometheus_client.samples import Exemplar

    from resilient.telemetry.prometheus_multiprocess import Flusher

_LOGGER: Final = logging.getLogger("resilient.prometheus")
_TYPES: Final[dict[Kind, str]] = {
    "counter": "counter",
    "updown": "gauge",
    "gauge": "gauge",
    "histogram": "histogram",
}
_UNITS: Final = ("seconds", "bytes", "ratio")


def labels_of(attributes: Attributes) -> dict[str, str]:
    """Attributes as labels. What UTF-8 can't hold is replaced, because one such label would break the whole scrape."""
    return {
        prometheus_label(name): text if text.isascii() else text.encode(errors="replace").decode()
        for name, text in attributes
    }


def size_of(value: Value) -> float:
    """What never falls while a counter or histogram goes on counting."""
    return value.count if isinstance(value, Distribution) else float(value)


class ResilienceCollector:
    """What a prometheus_client registry asks at each scrape.

    In multiprocess mode it holds the names and gives no samples: they are read from the files of all processes.
    """

    def __init__(self, exporter: PrometheusExporter, collector: Collector, *, created: bool, silent: bool) -> None:
        self.exporter = exporter
        self._collector = collector
        self._silent = silent
        self._created: dict[tuple[str, Attributes], tuple[float, float]] | None = {} if created else None
        self._lock = new_lock()

    def describe(self) -> Iterator[Metric]:
        """The names of all metrics, so that registering reads no meters and finds who else has one of them."""
        for entry in CATALOGUE:
            yield _empty(entry)

    def collect(self) -> list[Metric]:
        """All families. Whatever goes wrong costs what it went wrong with, never the metrics of others."""
        if self._silent:
            return []
        found: list[Metric] = []
        failure: Exception | None = None
        try:
            families = self._collector.collect()
            created = self._created_at(families)
        except Exception as error:  # noqa: BLE001
            self.exporter.tell(error)
            return found
        for family in families:
            try:
                found.append(_converted(family, created))
            except Exception as error:  # noqa: BLE001
                failure = error
        self.exporter.tell(failure)
        return found

    def _created_at(self, families: Iterable[Family]) -> dict[tuple[str, Attributes], float] | None:
        """When each counter and histogram was first seen, or first seen anew where it began again."""
        if self._created is None:
            return None
        now = time_ns() / 1e9
        with self._lock:
            before, self._created = self._created, {}
            for family in families:
                if family.metric.kind in ("counter", "histogram"):
                    for attributes, value in family.series.items():
                        key, size = (family.metric.name, attributes), size_of(value)
                        since, last = before.get(key, (now, 0.0))
                        self._created[key] = (since if size >= last else now), size
            return {key: since for key, (since, _) in self._created.items()}


def _empty(entry: Entry) -> Metric:
    from prometheus_client.metrics_core import Metric

    name = entry.prometheus_name
    suffix = name.rpartition("_")[2]
    return Metric(name, entry.meaning, _TYPES[entry.kind], suffix if suffix in _UNITS else "")


def _converted(family: Family, created: dict[tuple[str, Attributes], float] | None) -> Metric:
    entry, metric = family.metric, _empty(family.metric)
    for attributes, value in family.series.items():
        labels = labels_of(attributes)
        if isinstance(value, Distribution):
            _add_histogram(metric, labels, value)
        else:
            metric.add_sample(entry.prometheus_samples[0], labels, float(value))
        if created is not None and (entry.name, attributes) in created:
            metric.add_sample(f"{metric.name}_created", labels, created[entry.name, attributes])
    return metric


def _add_histogram(metric: Metric, labels: dict[str, str], value: Distribution) -> None:
    from prometheus_client.utils import floatToGoString

    exemplars = value.exemplars or (None,) * len(value.counts)
    seen = 0
    for bound, count, exemplar in zip((*value.bounds, float("inf")), value.counts, exemplars, strict=True):
        seen += count
        metric.add_sample(
            f"{metric.name}_bucket",
            {**labels, "le": floatToGoString(bound)},  # type: ignore[no-untyped-call]
            float(seen),
            exemplar=None if exemplar is None else _exemplar(*exemplar),
        )
    metric.add_sample(f"{metric.name}_count", labels, float(seen))
    metric.add_sample(f"{metric.name}_sum", labels, value.sum)


def _exemplar(value: float, trace_id: int, span_id: int, at: int) -> Exemplar:
    from prometheus_client.samples import Exemplar

    return Exemplar({"trace_id": f"{trace_id:032x}", "span_id": f"{span_id:016x}"}, value, at / 1e9)


class _Endpoint:
    """A server of prometheus_client's, on threads that never keep the process alive."""

    def __init__(self, port: int, addr: str, registry: CollectorRegistry) -> None:
        from prometheus_client import start_http_server

        self._server: WSGIServer
        self._server, _ = start_http_server(port, addr, registry)
        self.port: int = self._server.server_port

    def close(self, timeout: float) -> None:
        # The server looks only every half second whether it is to stop, which may be more than the caller has.
        closer = Thread(target=self._close, name="resilient-prometheus-close", daemon=True)
        try:
            closer.start()
        except RuntimeError:
            return  # The interpreter is ending, and the server with it.
        closer.join(timeout)

    def _close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def abandon(self) -> None:
        """In a forked child: let go of the socket, which the parent goes on listening on."""
        self._server.socket.close()


class PrometheusExporter:
    """Shows the metrics of all policies to Prometheus, at an endpoint of the application's or at one of its own.

    Where the environment variable `PROMETHEUS_MULTIPROC_DIR` is set, they are written into the files of
    prometheus_client's multiprocess mode once a second, so that a `MultiProcessCollector` in any worker shows the sums
    of all. An endpoint at `port` is then that of one worker, and another takes it over when it ends.

    Args:
        port: serve metrics here; 0: at any free port; None: the application has an endpoint, as by `make_asgi_app`.
        addr: the address to listen on; the default is reachable from this machine only.
        registry: of prometheus_client; its default one unless given.
        created: add a `_created` series to each counter and histogram.

    Raises:
        ConfigurationError: a setting is wrong; when registered: the port is taken, a metric of the application's has
            one of our names, or the directory of the multiprocess mode is not there.

    Example:
        >>> from resilient import PrometheusExporter, register_exporter, unregister_exporter
        >>> exporter = register_exporter(PrometheusExporter(port=0))
        >>> exporter.port is None
        False
        >>> unregister_exporter(exporter)
        True
    """

    def __init__(
        self,
        port: int | None = None,
        addr: str = "127.0.0.1",
        registry: CollectorRegistry | None = None,
        created: bool = False,
    ) -> None:
        if port is not None and (isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535):
            refuse("PrometheusExporter", "port", port, "a port of at most 65535, 0 for any free one, or None")
        if not isinstance(addr, str) or not addr:
            refuse("PrometheusExporter", "addr", addr, "an address to listen on, such as '127.0.0.1' or '0.0.0.0'")
        if registry is not None and not (hasattr(registry, "register") and hasattr(registry, "unregister")):
            refuse("PrometheusExporter", "registry", registry, "a CollectorRegistry of prometheus_client, or None")
        Checker("PrometheusExporter").instance("created", created, bool)
        self._wanted = port
        self._addr = addr
        self._registry = registry
        self._created = created
        self._bridge: ResilienceCollector | None = None
        self._endpoint: _Endpoint | None = None
        self._served: CollectorRegistry | None = None
        self._flusher: Flusher | None = None
        self._failing = False
        renew_after_fork(self)

    @property
    def name(self) -> str:
        """What its failures are counted under."""
        return "prometheus"

    @property
    def port(self) -> int | None:
        """The port at which this process serves metrics, or None where it does not."""
        return None if self._endpoint is None else self._endpoint.port

    def start(self, collector: Collector) -> None:
        """Register with prometheus_client, in place of an exporter that is there already, and open the endpoint."""
        from prometheus_client import REGISTRY

        from resilient.telemetry.prometheus_multiprocess import Flusher, in_use, merged

        registry = self._registry = REGISTRY if self._registry is None else self._registry
        multiprocess = in_use()
        for older in _ours_in(registry):
            older.exporter.shutdown(1.0)
        flusher = Flusher(collector, self.tell, self._open_if_free) if multiprocess else None
        bridge = ResilienceCollector(self, collector, created=self._created, silent=multiprocess)
        registry.register(bridge)
        self._served = merged() if multiprocess else registry
        try:
            self._open()
        except OSError as error:
            if not (multiprocess and error.errno == EADDRINUSE):
                registry.unregister(bridge)
                where = f"{self._addr}:{self._wanted}"
                raise ConfigurationError(
                    f"PrometheusExporter: can't listen on {where} ({error.strerror or error}): give another port=, or "
                    f"leave it out where the application serves prometheus_client's metrics itself",
                    setting="port",
                    value=self._wanted,
                    allowed="a port that is free",
                ) from error
        self._bridge = bridge
        self._flusher = flusher
        if flusher is not None:
            flusher.start()

    def flush(self, timeout: float) -> bool:
        """Nothing is to be sent; in multiprocess mode, write what has been counted. True where that worked."""
        return self._flusher is None or self._flusher.flush(timeout)

    def shutdown(self, timeout: float) -> None:
        """Write what there is in multiprocess mode, close the endpoint and leave prometheus_client's registry."""
        end = CLOCK.now() + timeout
        flusher, self._flusher = self._flusher, None
        if flusher is not None:
            flusher.stop(timeout)
        endpoint, self._endpoint = self._endpoint, None
        if endpoint is not None:
            endpoint.close(max(0.0, end - CLOCK.now()))
        bridge, self._bridge = self._bridge, None
        if bridge is not None and self._registry is not None:
            try:
                self._registry.unregister(bridge)
            except KeyError:
                pass  # The application has emptied its registry.

    def tell(self, error: Exception | None) -> None:
        """Count a failure; say so once, and once more when it is over."""
        if error is not None:
            count_failure(self.name)
        if self._failing != (error is not None):
            self._failing = error is not None
            told = "metrics could not be shown: %s" if error is not None else "metrics are shown again"
            _LOGGER.debug(told, *([] if error is None else [type(error).__name__]))

    def _open(self) -> None:
        if self._wanted is not None and self._endpoint is None and self._served is not None:
            self._endpoint = _Endpoint(self._wanted, self._addr, self._served)

    def _open_if_free(self) -> None:
        """In multiprocess mode one worker serves for all; when it has ended, whoever comes first goes on."""
        try:
            self._open()
        except OSError:
            pass

    def after_fork(self, now: float) -> None:
        """In the child: the parent has the endpoint."""
        if self._endpoint is not None:
            self._endpoint.abandon()
            self._endpoint = None


def _ours_in(registry: CollectorRegistry) -> list[ResilienceCollector]:
    """Collectors of ours that have names in this registry; raises where others have some of them."""
    # By name and not by class, which is another one after this module was loaded again.
    kind = ResilienceCollector
    owners: dict[str, object] = getattr(registry, "_names_to_collectors", {})
    ours: list[ResilienceCollector] = []
    for name in dict.fromkeys(name for entry in CATALOGUE for name in _names(entry)):
        owner = owners.get(name)
        if owner is None or any(owner is known for known in ours):
            continue
        if (type(owner).__module__, type(owner).__qualname__) != (kind.__module__, kind.__qualname__):
            raise ConfigurationError(
                f"PrometheusExporter: {type(owner).__qualname__} {name!r} is registered with prometheus_client already "
                f"and is not ours: rename it, or give the exporter a registry of its own with "
                f"registry=CollectorRegistry()",
                setting="registry",
                value=registry,
                allowed="a registry without metrics of these names",
            )
        ours.append(owner)  # type: ignore[arg-type]
    return ours


def _names(entry: Entry) -> tuple[str, ...]:
    """All names that prometheus_client takes for a metric."""
    created = (f"{entry.prometheus_name}_created",) if entry.kind in ("counter", "histogram") else ()
    return entry.prometheus_name, *entry.prometheus_samples, *created
