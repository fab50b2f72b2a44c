"""Pages and docstrings that set up logging, metrics or traces for the whole process leave them as they were."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.util._once import Once

from tests.telemetry.own_kit import no_metrics_of_others
from tests.telemetry.untouched import untouched_logging


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # A provider can be set once in a process; pages and other tests each need theirs.
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())
    with untouched_logging(), no_metrics_of_others():
        yield
