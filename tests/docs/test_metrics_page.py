"""The page of metrics against the catalogue."""

from __future__ import annotations

from resilient.telemetry.catalogue import CATALOGUE, prometheus_label
from resilient.telemetry.values import own_attributes, values_of
from tools.metrics_page import BUILT, build

PAGE = BUILT.read_text(encoding="utf-8")


def test_the_page_is_what_the_catalogue_says() -> None:
    assert build() == PAGE, "run `python -m tools.metrics_page`"


def test_each_metric_has_a_row_with_its_names_attributes_and_values() -> None:
    rows = {line.split("`")[1]: line for line in PAGE.splitlines() if line.startswith("| `")}

    assert list(rows) == [metric.name for metric in CATALOGUE]
    for metric in CATALOGUE:
        row = rows[metric.name]
        assert row.count(" | ") == 4
        assert f"`{metric.prometheus_samples[0].removesuffix('_bucket')}`" in row
        assert metric.meaning in row
        assert f"`{metric.unit}`" in row
        for attribute in own_attributes(metric):
            assert f"`{attribute}`" in row
            assert all(f"`{value}`" in row for value in values_of(metric, attribute) or ())


def test_the_labels_of_owners_are_told() -> None:
    for metric in CATALOGUE:
        for attribute in set(metric.attributes) - set(own_attributes(metric)):
            assert f"`{prometheus_label(attribute)}`" in PAGE
