"""What every test runs under."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

# How long an example takes says something about the machine, not about the code.
settings.register_profile("resilient", deadline=None)
settings.load_profile("resilient")


@pytest.fixture(autouse=True)
def _tracing_as_before() -> Iterator[None]:
    """A provider that a test has set is that test's: it would trace all others of the process."""
    yield
    trace = sys.modules.get("opentelemetry.trace")
    if trace is not None and trace._TRACER_PROVIDER is not None:
        trace._TRACER_PROVIDER = None
        trace._TRACER_PROVIDER_SET_ONCE = type(trace._TRACER_PROVIDER_SET_ONCE)()
