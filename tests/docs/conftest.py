"""Pages and docstrings that set up logging or metrics for the whole process leave them as they were."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.telemetry.own_kit import no_metrics_of_others
from tests.telemetry.untouched import untouched_logging


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    with untouched_logging(), no_metrics_of_others():
        yield
