"""The values that attributes are said to take, against what policies say of themselves."""

from __future__ import annotations

import pytest

from resilient import Registry
from resilient.telemetry import catalogue as m
from resilient.telemetry.collecting import Collector, Family
from resilient.telemetry.values import own_attributes, values_of
from tests.telemetry.every_policy import breaker, run

NAMED_BY_USERS = {
    "error.type",
    "resilience.degradation.level",
    "resilience.exporter.name",
    "resilience.metric.name",
}
# Transitions have series for the usual ones, and for others once they happen.
SEEN_IN_PART = {m.CIRCUIT_TRANSITIONS.name}
KNOWN = [
    (metric, attribute)
    for metric in m.CATALOGUE
    for attribute in own_attributes(metric)
    if attribute not in NAMED_BY_USERS
]


@pytest.fixture(scope="module")
def families() -> dict[str, Family]:
    registry = Registry()
    run(registry)
    breaker(registry).trip()
    return {family.metric.name: family for family in Collector(registry).collect()}


@pytest.mark.parametrize("metric, attribute", KNOWN, ids=lambda one: one if isinstance(one, str) else one.name)
def test_an_attribute_takes_the_values_that_it_is_said_to_take(
    metric: m.Metric, attribute: str, families: dict[str, Family]
) -> None:
    said = values_of(metric, attribute)
    seen = {dict(key)[attribute] for key in families[metric.name].series}

    assert said is not None
    assert len(set(said)) == len(said)
    if metric.name in SEEN_IN_PART:
        assert seen < set(said)
    else:
        assert seen == set(said)


def test_names_that_users_give_are_not_known_beforehand() -> None:
    free = {(metric, attribute) for metric in m.CATALOGUE for attribute in metric.attributes} - set(KNOWN)

    assert all(values_of(metric, attribute) is None for metric, attribute in free)
    assert {attribute for _, attribute in free} == NAMED_BY_USERS | {m.PIPELINE, m.POLICY}
