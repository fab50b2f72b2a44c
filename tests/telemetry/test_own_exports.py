"""An application's own metrics at real receivers: a scrape and OTLP have the same series."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from resilient import Registry
from resilient.telemetry.app import counter, gauge, histogram, timer
from resilient.telemetry.catalogue import OVERFLOW
from resilient.telemetry.collecting import MAX_SERIES, Collector, Distribution
from tests.receivers.otlp import OtlpReceiver
from tests.receivers.process import eventually
from tests.receivers.prometheus import promtool
from tests.telemetry import exporting as kit
from tests.telemetry.own_kit import no_metrics_of_others
from tests.telemetry.prometheus_kit import exported


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    with no_metrics_of_others():
        yield


def some_numbers() -> None:
    orders = counter("orders.placed", unit="{order}", description="Orders", labels=("country", "http.route"))
    orders.add(2, country="de", **{"http.route": '/"ä"\n\\'})
    orders.add(0.5, country="\udcff", **{"http.route": ""})
    gauge("load", unit="1", description="Load").set(-0.25)
    gauge("connections", unit="{connection}", description="Connections", additive=True).add(3)
    gauge("queue.depth", description="Depth", read=lambda: 7)
    sizes = histogram("payload.size", unit="By", description="Sizes", buckets=(10, 100))
    for size in (1, 50, 5_000):
        sizes.observe(size)
    timer("db.query", description="Queries", labels=("table",)).observe(0.3, table="orders")


@pytest.mark.parametrize("protocol", kit.PROTOCOLS)
def test_a_scrape_and_otlp_have_the_same_series(otlp: OtlpReceiver, protocol: str) -> None:
    some_numbers()
    users = counter("users", labels=("id",))
    for number in range(MAX_SERIES + 5):
        users.add(1, id=str(number))
    private, scraped = Registry(), CollectorRegistry()
    with (
        kit.exporting(kit.endpoint_of(otlp, protocol), protocol, private) as sender,
        exported(private, registry=scraped),
    ):
        assert sender.flush(10)
        eventually(lambda: len(otlp.data_points("users")) == MAX_SERIES)
        by_scrape = kit.of_scrape(scraped.collect())
        metrics = {family.metric.name: family.metric for family in Collector(private).collect()}
    by_otlp: kit.Series = {}
    for point in otlp.data_points():
        value = point.value
        arrived = Distribution(point.bounds, point.bucket_counts, point.sum) if value is None else value
        labels = {name: str(text) for name, text in point.attributes.items()}
        by_otlp.update(kit._samples(metrics[point.metric], labels, arrived))
    assert by_otlp == by_scrape
    assert by_otlp["users_total", frozenset({(OVERFLOW.replace(".", "_"), "true")})] == 6
    assert by_otlp["payload_size_bytes_sum", frozenset()] == 5_051
    assert by_otlp["connections", frozenset()] == 3
    kinds = {point.metric: (point.kind, point.monotonic, point.unit) for point in otlp.data_points()}
    assert kinds["orders.placed"] == ("sum", True, "{order}")
    assert kinds["connections"] == ("sum", False, "{connection}")
    assert kinds["load"] == ("gauge", False, "1")


def test_promtool_finds_nothing_wrong_with_a_scrape() -> None:
    some_numbers()
    scraped = CollectorRegistry()
    with exported(Registry(), registry=scraped):
        text = generate_latest(scraped).decode()
    checked = promtool("check", "metrics", stdin=text)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
