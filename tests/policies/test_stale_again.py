"""A call that comes just as the load of another ends, and settings that fail."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from resilient import Registry, stale
from resilient.core.cache import Cache, Load
from tests.policies.stale_kit import Source, counts


@pytest.mark.parametrize("in_task", [False, True])
def test_a_call_that_finds_a_load_that_has_just_ended_asks_again(
    in_task: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source()
    policy = stale(60, 60, registry=Registry())
    ask = Cache.ask

    def just_ended(cache: Cache, key: Any, now: float) -> Any:
        monkeypatch.setattr(Cache, "ask", ask)
        load = Load(key)
        load.ended = True
        return load, False

    async def in_the_task() -> int:
        return source()

    monkeypatch.setattr(Cache, "ask", just_ended)
    assert (asyncio.run(policy.call_async(in_the_task)) if in_task else policy.call(source)) == 1
    assert counts(policy) == {"not_needed": 1}


def test_a_call_whose_on_raises_has_failed_once() -> None:
    def broken(error: Exception) -> bool:
        raise ZeroDivisionError

    source = Source()
    source.error = ConnectionError()
    policy = stale(60, 60, on=broken, registry=Registry())
    with pytest.raises(ZeroDivisionError):
        policy.call(source)
    assert counts(policy) == {"failed": 1}
