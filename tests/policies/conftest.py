"""What the tests of the policies share."""

from __future__ import annotations

import pytest

from resilient import Registry


@pytest.fixture
def private() -> Registry:
    """A registry of the test's own."""
    return Registry()
