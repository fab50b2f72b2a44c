"""`counter`, `gauge`, `histogram` and `timer`: an application's own numbers."""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
import logging
import os
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from typing import Any, assert_type, cast

import pytest
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.openmetrics import exposition, parser

from resilient import ConfigurationError, Registry
from resilient.core import meters
from resilient.core.meters import DURATION_BOUNDS
from resilient.telemetry import collecting
from resilient.telemetry.app import Counter, counter, gauge, histogram, timer
from resilient.telemetry.app_instruments import MAX_LABEL_LENGTH
from resilient.telemetry.app_series import BoundCounter
from resilient.telemetry.app_timer import BoundTimer
from resilient.telemetry.catalogue import OVERFLOW
from resilient.telemetry.collecting import MAX_SERIES, Distribution
from resilient.telemetry.process import PROCESS_METRICS
from resilient.testing import fake_clock
from tests.telemetry.own_kit import families, no_metrics_of_others, on_eight_threads, run, series
from tests.telemetry.prometheus_kit import exported

# Untyped where they come from.
open_metrics: Callable[[CollectorRegistry], bytes] = exposition.generate_latest
parse: Callable[[str], Iterator[Metric]] = parser.text_string_to_metric_families


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    with no_metrics_of_others():
        yield


@pytest.fixture(params=[True, False], ids=["with the GIL", "without the GIL"])
def _builds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is made in the test is made as on this build of Python."""
    monkeypatch.setattr(meters, "GIL", request.param)


def buckets(name: str) -> Distribution:
    (value,) = series(name).values()
    assert isinstance(value, Distribution)
    return value


class TestCounter:
    def test_counts_by_labels(self) -> None:
        orders = counter("orders.placed", unit="{order}", description="Orders", labels=("country", "kind"))
        orders.add(1, country="de", kind="new")
        orders.add(2.5, kind="new", country="de")
        orders.add(country="fr", kind="old")
        assert series("orders.placed") == {
            (("country", "de"), ("kind", "new")): 3.5,
            (("country", "fr"), ("kind", "old")): 1,
        }
        metric = families()["orders.placed"].metric
        assert (metric.kind, metric.unit, metric.meaning) == ("counter", "{order}", "Orders")

    def test_without_labels_it_is_there_from_the_start(self) -> None:
        orders = counter("orders")
        assert series("orders") == {(): 0}
        orders.add()
        orders.add(2)
        assert series("orders") == {(): 3}

    def test_whole_numbers_stay_whole_numbers(self) -> None:
        orders = counter("orders")
        orders.add(2**60)
        orders.add(1)
        assert series("orders") == {(): 2**60 + 1}
        assert type(series("orders")[()]) is int

    @pytest.mark.parametrize("amount", [True, 2, 0.5, Decimal("1.5"), Fraction(1, 4), 0])
    def test_all_numbers_count(self, amount: Any) -> None:
        orders = counter("orders")
        orders.add(amount)
        assert series("orders") == {(): float(amount)}

    @pytest.mark.parametrize("amount", [-1, -0.5, float("nan"), float("inf"), -float("inf"), Decimal(-1)])
    def test_what_would_make_it_fall_is_refused_at_the_call(self, amount: Any) -> None:
        orders = counter("orders")
        orders.add(3)
        with pytest.raises(ValueError, match=r"counter 'orders': add\(.*\) is not allowed"):
            orders.add(amount)
        assert series("orders") == {(): 3}

    @pytest.mark.parametrize("amount", ["1", None, [1], 1j])
    def test_what_is_no_number_is_refused(self, amount: Any) -> None:
        orders = counter("orders")
        with pytest.raises(TypeError, match="is no number"):
            orders.add(amount)
        assert series("orders") == {(): 0}

    def test_a_bound_series_is_there_from_when_it_is_bound_and_counts_with_the_others(self) -> None:
        orders = counter("orders", labels=("country",))
        german = orders.labels(country="de")
        assert_type(german, BoundCounter)
        assert series("orders") == {(("country", "de"),): 0}
        german.add()
        orders.add(country="de")
        assert orders.labels(country="de") is german
        assert series("orders") == {(("country", "de"),): 2}

    @pytest.mark.usefixtures("_builds")
    def test_eight_threads_lose_nothing(self) -> None:
        orders = counter("orders", labels=("country",))
        bound = orders.labels(country="de")

        def work() -> None:
            for _ in range(1_000):
                bound.add()
                orders.add(0.5, country="fr")

        on_eight_threads(work)
        assert series("orders") == {(("country", "de"),): 8_000, (("country", "fr"),): 4_000}

    def test_threads_that_come_first_together_share_the_series(self) -> None:
        orders = counter("orders", labels=("number",))

        def work() -> None:
            for number in range(300):
                orders.add(1, number=str(number))

        on_eight_threads(work)
        assert set(series("orders").values()) == {8}
        assert len(series("orders")) == 300


class TestLabels:
    def test_wrong_labels_are_refused_at_the_call(self) -> None:
        orders = counter("orders", labels=("country",))
        for labels in ({}, {"land": "de"}, {"country": "de", "kind": "new"}):
            with pytest.raises(TypeError, match=r"counter 'orders' has these labels: country; given: "):
                orders.add(1, **labels)
        with pytest.raises(TypeError, match="has these labels: none; given: country"):
            counter("plain").add(1, country="de")
        assert series("orders") == {}

    @pytest.mark.parametrize("value", [1, None, True, b"de", ["de"]])
    def test_values_are_strings(self, value: Any) -> None:
        orders = counter("orders", labels=("country",))
        with pytest.raises(TypeError, match=r"the label country is .*: give a string"):
            orders.add(1, country=value)
        assert series("orders") == {}

    def test_an_enum_of_strings_is_its_value(self) -> None:
        class Country(StrEnum):
            GERMANY = "de"

        orders = counter("orders", labels=("country",))
        orders.add(1, country=Country.GERMANY)
        orders.add(1, country="de")
        assert series("orders") == {(("country", "de"),): 2}
        ((_, text),) = next(iter(series("orders")))
        assert type(text) is str

    def test_what_no_encoding_holds_and_what_is_too_long_is_cut(self) -> None:
        files = counter("files", labels=("path",))
        files.add(1, path="\udcff.txt")
        files.add(1, path="x" * 1_000)
        files.add(1, path="x" * 2_000)
        assert series("files") == {(("path", "?.txt"),): 1, (("path", "x" * MAX_LABEL_LENGTH),): 2}

    def test_labels_may_have_any_name_and_dots(self) -> None:
        calls = counter("calls", labels=("self", "amount", "http.route"))
        calls.add(1, self="a", amount="b", **{"http.route": "/"})
        calls.labels(self="a", amount="b", **{"http.route": "/"}).add()
        assert series("calls") == {(("self", "a"), ("amount", "b"), ("http.route", "/")): 2}

    def test_beyond_the_limit_all_go_into_one_series(self) -> None:
        users = counter("users", labels=("id",))
        for number in range(MAX_SERIES):
            users.add(1, id=str(number))
        assert len(series("users")) == MAX_SERIES
        assert all(key[0][0] == "id" for key in series("users"))
        first = users.labels(id="another")
        first.add(5)
        users.add(7, id="one more")
        assert users.labels(id="a third") is first
        found = series("users")
        assert len(found) == MAX_SERIES
        assert found[((OVERFLOW, "true"),)] == 1 + 5 + 7
        assert sum(cast("int", value) for value in found.values()) == MAX_SERIES + 12
        assert series("resilience.telemetry.overflow") == {(("resilience.metric.name", "users"),): 13}
        users.add(1, id="0")
        assert series("users")[(("id", "0"),)] == 2

    def test_memory_is_bounded_whatever_the_labels_are(self) -> None:
        users = histogram("users", labels=("id",))
        for number in range(MAX_SERIES + 1):
            users.observe(1, id=str(number))
        gc.collect()
        tracemalloc.start()
        try:
            for number in range(20_000):
                users.observe(1, id=f"another {number}")
            gc.collect()
            size, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert size < 20_000
        values = [value for value in series("users").values() if isinstance(value, Distribution)]
        assert sum(value.count for value in values) == MAX_SERIES + 20_001


class TestGauge:
    def test_it_is_shown_once_it_is_set(self) -> None:
        depth = gauge("queue.depth")
        assert series("queue.depth") == {}
        depth.set(3)
        assert series("queue.depth") == {(): 3}
        depth.add(2)
        depth.add(-4.5)
        assert series("queue.depth") == {(): 0.5}
        depth.set(-7)
        assert series("queue.depth") == {(): -7}

    def test_by_labels(self) -> None:
        depth = gauge("queue.depth", labels=("queue",))
        depth.set(1, queue="mail")
        depth.labels(queue="print").add()
        depth.labels(queue="unused")
        assert series("queue.depth") == {(("queue", "mail"),): 1, (("queue", "print"),): 1}

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    def test_only_finite_numbers(self, value: float) -> None:
        depth = gauge("queue.depth")
        with pytest.raises(ValueError, match="a finite number"):
            depth.set(value)
        with pytest.raises(ValueError, match="a finite number"):
            depth.add(value)
        with pytest.raises(TypeError, match="is no number"):
            depth.set(cast("Any", "3"))
        assert series("queue.depth") == {}

    @pytest.mark.usefixtures("_builds")
    def test_eight_threads_lose_nothing(self) -> None:
        depth = gauge("queue.depth")
        depth.set(100)

        def work() -> None:
            for _ in range(1_000):
                depth.add(3)
                depth.add(-2)

        on_eight_threads(work)
        assert series("queue.depth") == {(): 8_100}

    @pytest.mark.usefixtures("_builds")
    def test_what_is_set_is_not_lost_to_what_is_added(self) -> None:
        depth = gauge("queue.depth")

        def work() -> None:
            for _ in range(500):
                depth.set(1_000_000)
                depth.add(1)

        on_eight_threads(work)
        assert 1_000_001 <= cast("int", series("queue.depth")[()]) <= 1_004_000

    def test_without_the_gil_what_is_set_goes_where_others_are_adding(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(meters, "GIL", False)
        bound = gauge("queue.depth").labels()
        cell = bound._value
        bound.set(5)
        bound.add(1)
        assert bound._value is cell
        assert series("queue.depth") == {(): 6}

    def test_a_function_is_asked_at_each_export(self) -> None:
        waiting = ["a"]
        gauge("queue.depth", read=lambda: len(waiting))
        assert series("queue.depth") == {(): 1}
        waiting.append("b")
        assert series("queue.depth") == {(): 2}

    def test_one_that_is_read_can_not_be_set(self) -> None:
        depth = gauge("queue.depth", read=lambda: 1)
        with pytest.raises(TypeError, match="is read by its function"):
            depth.set(2)

    def test_a_function_that_fails_costs_its_own_number_only_and_is_told_once(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG, logger="resilient.telemetry")
        answers: list[Any] = [ZeroDivisionError("secret"), float("nan"), "7", None, 5, ValueError()]

        def read() -> float:
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return cast("float", answer)

        gauge("queue.depth", read=read)
        counter("orders").add()
        seen = []
        while answers:
            found = families()
            seen.append("queue.depth" in found)
            assert found["orders"].series == {(): 1}
        assert seen == [False, False, False, False, True, False]
        assert [record.getMessage() for record in caplog.records] == [
            "the function of gauge 'queue.depth' fails: ZeroDivisionError",
            "the function of gauge 'queue.depth' fails: ValueError",
        ]

    def test_made_again_with_a_function_of_the_same_name_the_newer_one_is_used(self) -> None:
        def make(value: int) -> Callable[[], int]:
            def read() -> int:
                return value

            return read

        depth = gauge("queue.depth", read=make(1))
        assert gauge("queue.depth", read=make(2)) is depth
        assert series("queue.depth") == {(): 2}

    def test_an_additive_one_is_an_up_down_counter(self) -> None:
        gauge("connections", additive=True).add()
        gauge("temperature").set(1)
        assert families()["connections"].metric.kind == "updown"
        assert families()["temperature"].metric.kind == "gauge"


class TestHistogram:
    def test_counts_buckets_and_the_sum(self) -> None:
        sizes = histogram("payload.size", unit="By", buckets=(10, 100))
        for size in (0, 10, 10.5, 100, 1_000):
            sizes.observe(size)
        assert buckets("payload.size") == Distribution((10.0, 100.0), (2, 2, 1), 1_120.5)

    def test_by_labels_with_the_usual_bounds(self) -> None:
        sizes = histogram("wait", labels=("queue",))
        sizes.labels(queue="mail").observe(0.3)
        assert buckets("wait").bounds == DURATION_BOUNDS
        assert buckets("wait").sum == 0.3

    @pytest.mark.parametrize("value", [-1, float("nan"), float("inf")])
    def test_only_finite_numbers_of_at_least_0(self, value: float) -> None:
        sizes = histogram("payload.size")
        with pytest.raises(ValueError, match=r"observe\(.*\) is not allowed"):
            sizes.observe(value)
        assert buckets("payload.size").count == 0

    @pytest.mark.usefixtures("_builds")
    def test_eight_threads_lose_nothing(self) -> None:
        sizes = histogram("payload.size", buckets=(1, 2))

        def work() -> None:
            for number in range(999):
                sizes.observe(number % 3 + 0.5)

        on_eight_threads(work)
        assert buckets("payload.size") == Distribution((1.0, 2.0), (2_664, 2_664, 2_664), 2_664 * 4.5)

    @pytest.mark.parametrize("bounds", [(), (1, 1), (2, 1), (1, float("inf")), (float("nan"),), "12", ("1",), {1, 2}])
    def test_bounds_that_are_none(self, bounds: Any) -> None:
        with pytest.raises(ConfigurationError, match="each above the one before"):
            histogram("payload.size", buckets=bounds)


class TestTimer:
    def test_calls_and_blocks_count_in_seconds_however_they_end(self) -> None:
        with fake_clock() as clock:
            query = timer("db.query")

            @query
            def run_query(seconds: float) -> float:
                clock.advance(seconds)
                if seconds > 1:
                    raise LookupError
                return seconds

            assert run_query(0.25) == 0.25
            with pytest.raises(LookupError):
                run_query(2)
            with query:
                clock.advance(0.5)
            with pytest.raises(LookupError), timer("db.query"):
                run_query(4)
            query.observe(8)
        found = buckets("db.query")
        assert (found.count, found.sum) == (6, 0.25 + 2 + 0.5 + 4 + 4 + 8)
        assert families()["db.query"].metric.prometheus_name == "db_query_seconds"

    def test_async_functions(self) -> None:
        with fake_clock() as clock:

            @timer("db.query")
            async def fetch(number: int) -> int:
                await asyncio.sleep(0)
                clock.advance(number)
                return number

            assert inspect.iscoroutinefunction(fetch)
            assert asyncio.run(fetch(2)) == 2
        assert buckets("db.query").sum == 2

    def test_one_timer_in_many_blocks_at_once(self) -> None:
        with fake_clock() as clock:
            query = timer("db.query")

            async def one(turns: int) -> None:
                with query:
                    for _ in range(turns):
                        await asyncio.sleep(0)
                        clock.advance(1)
                    with query:
                        clock.advance(0.25)

            async def main() -> None:
                await asyncio.gather(one(1), one(2))

            asyncio.run(main())
        found = buckets("db.query")
        assert (found.count, found.sum) == (4, (1.25 + 0.25) + (3.5 + 0.25))

    def test_blocks_nest_and_an_exit_stack_leaves_them(self) -> None:
        with fake_clock() as clock:
            query = timer("db.query")
            with ExitStack() as stack:
                assert stack.enter_context(query) is query
                clock.advance(1)
                with query:
                    clock.advance(2)
        found = buckets("db.query")
        assert (found.count, found.sum) == (2, 5)

    def test_by_labels(self) -> None:
        query = timer("db.query", labels=("table",))
        with fake_clock() as clock:
            with query.labels(table="orders") as bound:
                clock.advance(1)
            query.labels(table="users")(clock.advance)(2)
            query.observe(3, table="users")
        assert isinstance(bound, BoundTimer)
        sums = {key: value.sum for key, value in series("db.query").items() if isinstance(value, Distribution)}
        assert sums == {(("table", "orders"),): 1, (("table", "users"),): 5}
        with pytest.raises(TypeError, match="has these labels: table; given: none"):
            with query:
                pass

    def test_methods_and_what_they_keep(self) -> None:
        query = timer("db.query")

        class Shop:
            @query
            def plain(self) -> int:
                """One."""
                return 1

            @query
            @classmethod
            def of_class(cls) -> str:
                return cls.__name__

            @query
            @staticmethod
            def static() -> int:
                return 3

        assert (Shop().plain(), Shop.of_class(), Shop.static()) == (1, "Shop", 3)
        assert (Shop.plain.__name__, Shop.plain.__doc__) == ("plain", "One.")
        assert_type(Shop().plain(), int)
        assert buckets("db.query").count == 4

    def test_generators_and_what_is_no_function_are_refused(self) -> None:
        def rows() -> Iterator[int]:
            yield 1

        with pytest.raises(TypeError, match="a generator function, whose body runs after the call"):
            timer("db.query")(rows)
        for thing in (3, int, property(len)):
            with pytest.raises(TypeError, match="decorate functions or methods"):
                timer("db.query")(cast("Any", thing))

    def test_a_clock_that_is_swapped_meanwhile_breaks_no_block(self) -> None:
        query = timer("db.query")
        with fake_clock() as clock:
            clock.advance(1e9)
            query.__enter__()
        query.__exit__(None, None, None)
        query.__exit__(None, None, None)
        assert (buckets("db.query").count, buckets("db.query").sum) == (1, 0)


class TestNames:
    def test_the_same_name_and_settings_are_the_same_metric(self) -> None:
        settings: dict[str, Any] = {"unit": "{order}", "labels": ("country",)}
        orders = counter("orders", **settings)
        assert counter("orders", **settings, description="told later") is orders
        assert_type(orders, Counter)
        assert timer("db.query") is timer("db.query")
        assert histogram("sizes", buckets=(1, 2)) is histogram("sizes", buckets=[1.0, 2.0])
        assert gauge("depth") is gauge("depth")

    @pytest.mark.parametrize(
        "again, told",
        [
            (lambda: counter("orders", unit="By"), "unit='By', registered with unit='{order}'"),
            (
                lambda: counter("orders", unit="{order}", labels=("country",)),
                r"labels=\('country',\), registered with labels=\(\)",
            ),
            (lambda: gauge("orders", unit="{order}"), "kind='gauge', registered with kind='counter'"),
            (lambda: counter("Orders", unit="{order}"), "name='Orders', registered with name='orders'"),
        ],
    )
    def test_other_settings_are_refused_and_both_are_shown(self, again: Callable[[], object], told: str) -> None:
        counter("orders", unit="{order}")
        with pytest.raises(ConfigurationError, match=told):
            again()

    def test_other_settings_of_the_other_kinds_are_refused_too(self) -> None:
        histogram("sizes", unit="s", buckets=(1, 2))
        with pytest.raises(ConfigurationError, match="buckets="):
            histogram("sizes", unit="s", buckets=(1, 3))
        with pytest.raises(ConfigurationError, match="kind='timer', registered with kind='histogram'"):
            timer("sizes", buckets=(1, 2))
        gauge("depth")
        with pytest.raises(ConfigurationError, match="read="):
            gauge("depth", read=lambda: 1)
        with pytest.raises(ConfigurationError, match="additive=True, registered with additive=False"):
            gauge("depth", additive=True)

    @pytest.mark.parametrize(
        "name", ["", "1st", "a-b", "a/b", "a b", "a..b", ".a", "a.", "_a", "ä", "a" * 256, None, 3]
    )
    def test_names_that_one_of_the_two_worlds_does_not_allow(self, name: Any) -> None:
        with pytest.raises(ConfigurationError, match="words of letters, digits and _ joined by dots"):
            counter(name)

    @pytest.mark.parametrize("name", ["resilience.calls", "resilience_calls", "Resilience.x"])
    def test_our_own_names_are_taken(self, name: str) -> None:
        with pytest.raises(ConfigurationError, match=r"not under resilience\."):
            counter(name)

    @pytest.mark.parametrize("name", ["orders.total", "orders_total"])
    def test_a_counter_is_not_called_total_twice(self, name: str) -> None:
        with pytest.raises(ConfigurationError, match="without total"):
            counter(name)

    @pytest.mark.parametrize(
        "one, other",
        [
            (lambda: counter("a.b"), lambda: counter("a_b")),
            (lambda: counter("orders"), lambda: gauge("orders.total")),
            (lambda: timer("query"), lambda: gauge("query.seconds")),
            (lambda: histogram("sizes"), lambda: gauge("sizes.count")),
            (lambda: gauge("sizes.sum"), lambda: histogram("sizes")),
            (lambda: counter("orders"), lambda: gauge("orders.created")),
        ],
    )
    def test_two_metrics_that_prometheus_would_call_the_same(
        self, one: Callable[[], object], other: Callable[[], object]
    ) -> None:
        one()
        with pytest.raises(ConfigurationError, match=r"Prometheus would show it as .*, as it does"):
            other()

    @pytest.mark.parametrize("name", [metric.name for metric in PROCESS_METRICS])
    def test_the_names_of_the_process_are_taken(self, name: str) -> None:
        metric = next(metric for metric in PROCESS_METRICS if metric.name == name)
        with pytest.raises(ConfigurationError, match=f"as it does '{name}' already"):
            gauge(metric.prometheus_samples[0])

    def test_settings_that_are_none(self) -> None:
        wrong: list[tuple[Callable[[], object], str]] = [
            (lambda: counter("a", unit="x" * 64), "63 ASCII"),
            (lambda: counter("a", unit="µs"), "63 ASCII"),
            (lambda: counter("a", unit=cast("Any", None)), "63 ASCII"),
            (lambda: counter("a", description=cast("Any", None)), "a string"),
            (lambda: counter("a", labels="country"), "a tuple of names"),
            (lambda: counter("a", labels=cast("Any", {"country"})), "a tuple of names"),
            (lambda: counter("a", labels=("a b",)), "a tuple of names"),
            (lambda: counter("a", labels=("__name__",)), "a tuple of names"),
            (lambda: counter("a", labels=cast("Any", (1,))), "a tuple of names"),
            (lambda: counter("a", labels=("x", "x")), "names that differ"),
            (lambda: counter("a", labels=("x.y", "x_y")), "names that differ"),
            (lambda: counter("a", labels=(OVERFLOW,)), "names that differ"),
            (lambda: histogram("a", labels=("le",)), "without le"),
            (lambda: timer("a", labels=("le",)), "without le"),
            (lambda: gauge("a", read=cast("Any", 3)), "a function without arguments"),
            (lambda: gauge("a", read=cast("Any", asyncio.sleep)), "a function without arguments"),
            (lambda: gauge("a", read=lambda: 1, labels=("x",)), "contradict"),
            (lambda: gauge("a", additive=cast("Any", 1)), "a bool"),
        ]
        for make, told in wrong:
            with pytest.raises(ConfigurationError, match=told):
                make()
        assert "a" not in families()

    def test_threads_that_make_it_together_get_the_same(self) -> None:
        made: set[Counter] = set()
        on_eight_threads(lambda: made.add(counter("orders")))
        assert len(made) == 1


class TestExport:
    def test_they_are_read_once_beside_all_others(self) -> None:
        names = [source.__module__ for source in collecting.SOURCES]
        assert names.count("resilient.telemetry.app_instruments") == names.count("resilient.telemetry.process") == 1

    def test_a_scrape_is_well_formed_and_has_every_number(self) -> None:
        counter("orders.placed", unit="{order}", labels=("country",)).add(2, country='d"e\n')
        gauge("load", unit="1").set(0.5)
        histogram("payload.size", unit="By", buckets=(10,)).observe(7)
        timer("db.query", labels=("table",), buckets=(1,)).observe(3, table="orders")
        scraped = CollectorRegistry()
        with exported(Registry(), registry=scraped):
            text = generate_latest(scraped).decode()
            parsed = list(parse(open_metrics(scraped).decode()))
        assert 'orders_placed_total{country="d\\"e\\n"} 2.0' in text
        assert "load_ratio 0.5" in text
        assert 'payload_size_bytes_bucket{le="10.0"} 1.0' in text
        assert 'db_query_seconds_sum{table="orders"} 3.0' in text
        assert {"orders_placed", "load_ratio", "payload_size_bytes", "db_query_seconds"} <= {
            family.name for family in parsed
        }

    def test_series_may_come_while_they_are_read(self) -> None:
        orders = counter("orders", labels=("number",))
        for number in range(3):
            orders.add(number=str(number))
        readings = orders.readings()
        next(readings)
        orders.add(number="another")
        assert len(list(readings)) == 2

    def test_reading_takes_no_lock(self) -> None:
        orders = counter("orders", labels=("country",))
        orders.add(country="de")
        with orders._lock:
            assert series("orders") == {(("country", "de"),): 1}

    def test_nothing_heavy_is_imported(self) -> None:
        heavy = ("asyncio", "anyio", "trio", "prometheus_client", "opentelemetry", "structlog", "logging")
        program = f"""
import sys
import resilient
before = set(sys.modules)
from resilient.telemetry.app import counter, timer
from resilient.telemetry.observed import observed
from resilient.telemetry.process import observe_process
counter("orders").add()
with timer("query"), observed("block"), observe_process():
    pass
print([name for name in {heavy!r} if name in set(sys.modules) - before])
"""
        assert run(program) == "[]"


FORKED = """
import json, os, sys
from resilient import Registry
from resilient.telemetry.app import counter, gauge, histogram, timer
from resilient.telemetry.collecting import Collector
from resilient.telemetry.process import observe_process

orders = counter("orders", labels=("country",)); german = orders.labels(country="de"); german.add(5)
release = gauge("release"); release.set(7)
connections = gauge("connections", additive=True); connections.set(9)
sizes = histogram("sizes", buckets=(1,)); sizes.observe(0.5)
orders._lock.acquire()
read, write = os.pipe()
pid = os.fork()
if not pid:
    os.close(read)
    german.add(); orders.add(2, country="fr"); connections.add(); sizes.observe(3)
    found = {f.metric.name: [[list(k), v if isinstance(v, (int, float)) else [v.counts, v.sum]]
             for k, v in f.series.items()] for f in Collector(Registry()).collect()}
    os.write(write, json.dumps(found).encode())
    os._exit(0)
os.close(write)
os.waitpid(pid, 0)
print(os.read(read, 100_000).decode())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_tells_nothing_that_the_parent_counted() -> None:
    found = json.loads(run(FORKED))
    assert found["orders"] == [[[["country", "de"]], 1], [[["country", "fr"]], 2]]
    assert found["release"] == [[[], 7]]
    assert found["connections"] == [[[], 1]]
    assert found["sizes"] == [[[], [[0, 1], 3.0]]]
