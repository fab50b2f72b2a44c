"""What failover counts where its own settings fail."""

from __future__ import annotations

from typing import Any

import pytest

from resilient import Registry
from tests.policies.failover_kit import Provider, build, counts


@pytest.mark.parametrize("backend", ["thread", "asyncio", "trio"])
def test_a_call_whose_on_raises_has_failed_and_asks_nobody_else(backend: str) -> None:
    def broken(error: Exception) -> bool:
        raise ZeroDivisionError

    registry = Registry()
    primary, replica = Provider("primary"), Provider("replica")
    primary.error = ConnectionError("down")
    settings: dict[str, Any] = {"name": "search", "on": broken, "registry": registry}
    search = build(backend, ("primary", primary), ("replica", replica), **settings)
    with pytest.raises(ZeroDivisionError):
        search(1)
    assert replica.calls == 0
    assert counts(registry) == {"failed": 1}
