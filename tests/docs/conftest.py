"""Pages and docstrings that set up logging leave it as it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.telemetry.untouched import untouched_logging


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    with untouched_logging():
        yield
