"""An application's own numbers, on the same exporters as those of the policies."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from resilient.core.meters import DURATION_BOUNDS
from resilient.telemetry.app_instruments import Counter, Gauge, Histogram, Timer
from resilient.telemetry.app_series import BoundCounter, BoundGauge, BoundHistogram
from resilient.telemetry.app_settings import check_settings, obtain
from resilient.telemetry.app_timer import BoundTimer

__all__ = ["Counter", "Gauge", "Histogram", "Timer", "counter", "gauge", "histogram", "timer"]


def counter(name: str, *, unit: str = "", description: str = "", labels: Sequence[str] = ()) -> Counter:
    """A number that only grows, such as orders placed, shown by every exporter that is registered.

    Asked for again by the same name it is the same counter.

    Args:
        name: words of letters, digits and `_`, joined by dots: `"orders.placed"`. Prometheus shows it as
            `orders_placed_total`.
        unit: what is counted, as `"{order}"`, or `"By"`, `"s"`.
        description: what it means, in a sentence.
        labels: names of the labels, whose values are given with each `add`. Choose labels with few values: beyond
            1,000 combinations all further ones go into one series.

    Raises:
        ConfigurationError: a setting is wrong; the name is taken by a metric of another kind, unit or labels, or
            Prometheus would call two metrics the same.

    Example:
        >>> from resilient import counter
        >>> placed = counter("shop.orders", unit="{order}", labels=("country",))
        >>> placed.add(1, country="de")
        >>> german = placed.labels(country="de")
        >>> german.add()
    """
    settings = check_settings("counter", name, unit, description, labels)
    return obtain(Counter, settings, lambda: Counter(settings, lambda: BoundCounter(settings.shown)))


def gauge(
    name: str,
    *,
    unit: str = "",
    description: str = "",
    labels: Sequence[str] = (),
    read: Callable[[], float] | None = None,
    additive: bool = False,
) -> Gauge:
    """A number that goes up and down: set by the application, or read from it by a function at each export.

    Args:
        name: as of `counter`. With the unit `"1"` Prometheus shows it as a `_ratio`.
        unit: what is measured.
        description: what it means, in a sentence.
        labels: as of `counter`; not together with `read`.
        read: gives the value, quickly. Where it raises, or gives no finite number, nothing is shown. Made again with a
            function of the same name, the newer one is used.
        additive: values of several processes make a sum, as connections do and temperatures don't. It is then an
            up-down counter in OpenTelemetry, and in a forked child it begins anew.

    Raises:
        ConfigurationError: as of `counter`.

    Example:
        >>> from resilient import gauge
        >>> waiting = ["a mail", "another"]
        >>> _ = gauge("mails.waiting", unit="{mail}", read=lambda: len(waiting))
        >>> gauge("oven.temperature", unit="Cel").set(180)
    """
    settings = check_settings("gauge", name, unit, description, labels, read=read, additive=additive)
    return obtain(Gauge, settings, lambda: Gauge(settings, lambda: BoundGauge(settings.shown, additive)))


def histogram(
    name: str,
    *,
    unit: str = "",
    description: str = "",
    labels: Sequence[str] = (),
    buckets: Sequence[float] = DURATION_BOUNDS,
) -> Histogram:
    """How values are distributed: how many fell into each bucket, and their sum.

    Args:
        name: as of `counter`.
        unit: what is measured.
        description: what it means, in a sentence.
        labels: as of `counter`.
        buckets: inclusive upper bounds, rising; values above the last are counted as well. The default suits seconds.

    Raises:
        ConfigurationError: as of `counter`.

    Example:
        >>> from resilient import histogram
        >>> histogram("payload.size", unit="By", buckets=(1_000, 10_000, 100_000)).observe(2_048)
    """
    settings = check_settings("histogram", name, unit, description, labels, bounds=buckets)
    return obtain(
        Histogram, settings, lambda: Histogram(settings, lambda: BoundHistogram(settings.shown, settings.bounds))
    )


def timer(
    name: str, *, description: str = "", labels: Sequence[str] = (), buckets: Sequence[float] = DURATION_BOUNDS
) -> Timer:
    """How long functions and blocks take: a decorator, a `with` block, and a histogram in seconds.

    Calls and blocks count however they end. Time is monotonic. With labels, take the series first:
    `with timer("db.query", labels=("table",)).labels(table="orders"):`.

    Args:
        name: as of `counter`; Prometheus adds `_seconds`.
        description: what it means, in a sentence.
        labels: as of `counter`.
        buckets: upper bounds in seconds, rising.

    Raises:
        ConfigurationError: as of `counter`.

    Example:
        >>> from resilient import timer
        >>> @timer("db.query")
        ... def query() -> list[str]:
        ...     return ["row"]
        >>> query()
        ['row']
        >>> with timer("db.query"):
        ...     pass
    """
    settings = check_settings("timer", name, "s", description, labels, bounds=buckets)
    return obtain(Timer, settings, lambda: Timer(settings, lambda: BoundTimer(settings.shown, settings.bounds)))
