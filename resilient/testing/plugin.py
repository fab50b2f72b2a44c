"""The pytest plugin: the testing kit as fixtures."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from resilient.testing import FakeClock, RecordedEvents, record_events
from resilient.testing import fake_clock as make_fake_clock


@pytest.fixture
def fake_clock() -> Iterator[FakeClock]:
    """Every policy on virtual time; see `resilient.testing.fake_clock`."""
    with make_fake_clock() as clock:
        yield clock


@pytest.fixture
def resilience_events() -> Iterator[RecordedEvents]:
    """The events that policies tell during the test; see `resilient.testing.record_events`."""
    with record_events() as events:
        yield events
