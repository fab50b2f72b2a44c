"""Every test of this folder that asks for `face` runs over WSGI, and over ASGI on asyncio and on trio."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from resilient import Registry
from resilient import registry as default_registry
from resilient.testing import FakeClock, fake_clock
from tests.health.kit import FACES, Face


def _name(face: Face) -> str:
    return face.name


@pytest.fixture(params=FACES, ids=_name)
def face(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def private() -> Registry:
    """A registry of the test's own."""
    return Registry()


@pytest.fixture
def clock() -> Iterator[FakeClock]:
    with fake_clock() as clock:
        yield clock


@pytest.fixture(autouse=True)
def _clean_registry() -> Iterator[None]:
    yield
    default_registry.clear()
