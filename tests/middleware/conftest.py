"""Each test runs over all kinds of applications, and leaves nothing bound and nothing registered."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from resilient import context, current_deadline, registry
from tests.middleware.kit import LOOPS, TWINS, Twin


@pytest.fixture(params=TWINS, ids=lambda twin: twin.name)
def twin(request: pytest.FixtureRequest) -> Twin:
    chosen: Twin = request.param
    return chosen


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    registry.clear()
    yield
    registry.clear()
    assert dict(context.bound()) == {}
    assert current_deadline() is None
