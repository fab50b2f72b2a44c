"""Every test of this folder that asks for `backend` runs over threads, asyncio and trio."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from resilient import Registry
from resilient import registry as default_registry
from tests.behaviour.kit import Asyncio, Backend, Threads, Trio

LOOPS: list[Backend] = [Asyncio(), Trio()]
BACKENDS: list[Backend] = [Threads(), *LOOPS]


def _name(backend: Backend) -> str:
    return backend.name


@pytest.fixture(params=BACKENDS, ids=_name)
def backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=LOOPS, ids=_name)
def loop(request: pytest.FixtureRequest) -> Any:
    """A backend with tasks, which can be cancelled."""
    return request.param


@pytest.fixture
def private() -> Registry:
    """A registry of the test's own."""
    return Registry()


@pytest.fixture(autouse=True)
def _clean_registry() -> Iterator[None]:
    yield
    default_registry.clear()
