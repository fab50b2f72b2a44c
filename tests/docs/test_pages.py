"""The tables of the documentation against the code."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

import resilient
from resilient import CircuitOpenError, Registry, TimeoutExceededError, circuit_breaker, retry, timeout
from resilient.testing import FakeClock, fake_clock, record_events

DOCS = Path(__file__).parents[2] / "docs"
MODULES = ("backoff", "chaos", "context", "deadline", "testing")


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of all tables below a heading, without backticks."""
    text = (DOCS / page).read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return [
        [cell.strip().replace("`", "") for cell in line.strip("|").split(" | ")]
        for line in text.splitlines()
        if line.startswith("| ")
    ]


@pytest.mark.parametrize("name", resilient.__all__)
def test_the_reference_has_every_public_name(name: str) -> None:
    assert re.search(rf"^\.\. auto\w+:: {name}$", (DOCS / "reference.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("module", MODULES)
def test_the_reference_has_every_public_name_of_the_modules_beside(module: str) -> None:
    text = (
        (DOCS / "reference.md").read_text().partition(f".. automodule:: resilient.{module}\n")[2].partition("\n## ")[0]
    )
    elsewhere = {"Deadline", "current_deadline", "Jitter"}
    names = set(import_module(f"resilient.{module}").__all__) - elsewhere
    assert names == set(re.findall(r"^\.\. auto(?:function|class):: (\w+)$", text, re.MULTILINE))


def test_the_table_of_events_has_their_keys() -> None:
    private = Registry()
    breaker = circuit_breaker(consecutive_failures=1, registry=private)
    again = retry(on=ConnectionError, attempts=2, registry=private)
    limit = timeout(1.0, registry=private)

    def fail() -> None:
        raise ConnectionError

    def take(clock: FakeClock) -> None:
        clock.advance(2)

    with fake_clock() as clock, record_events() as events:
        with pytest.raises(ConnectionError):
            again.call(fail)
        with pytest.raises(ConnectionError):
            breaker.call(fail)
        with pytest.raises(CircuitOpenError):
            breaker.call(fail)
        with pytest.raises(TimeoutExceededError):
            limit.call(take, clock)
    told = {event.kind: list(event.data) for event in events}
    shown = {row[0]: row[2].split(", ") for row in rows("observing.md", "Events") if row[0] in told}
    assert shown == told
    assert len(told) == 5


@pytest.mark.parametrize(
    "policy, page, heading",
    [
        (retry(), "policies/retry.md", "The settings"),
        (circuit_breaker(), "policies/circuit_breaker.md", "When it opens"),
        (timeout(1.0), "policies/timeout.md", "The settings"),
    ],
)
def test_the_table_of_settings_has_all_of_them(policy: resilient.Policy, page: str, heading: str) -> None:
    shown = {row[0] for row in rows(page, heading)} - {"setting", "name", "registry"}
    assert shown == set(policy.settings)
