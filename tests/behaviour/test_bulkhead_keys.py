"""One set of permits a key, over threads, asyncio and trio."""

from __future__ import annotations

import json
from typing import Any

import pytest

from resilient import Bulkhead, BulkheadFullError, Registry, adaptive, bulkhead
from resilient.testing import FakeClock, record_events
from tests.behaviour.kit import CALL_FACES, Backend, Body

call_faces = pytest.mark.parametrize("face", CALL_FACES)


def by_tenant(registry: Registry, **settings: Any) -> Bulkhead:
    settings = {"max_concurrent": 1, **settings}
    return bulkhead("tenants", key=lambda tenant, *rest: tenant, registry=registry, **settings)


def nested(backend: Backend, face: str, room: Bulkhead, inner: Body, *args: Any) -> Body:
    """A body that makes another call of the same bulkhead while it holds its own permit."""

    async def outer(tenant: str) -> Any:
        return await backend.use(face, room, inner, *args)

    return outer


async def answer(tenant: str) -> str:
    return tenant


@call_faces
def test_a_full_key_refuses_its_own_calls_only(
    backend: Backend, face: str, private: Registry, fake_clock: FakeClock
) -> None:
    room = by_tenant(private)
    seen: list[Any] = []

    async def look(tenant: str) -> str:
        seen.append(room.snapshot())
        assert room.in_flight == 2
        return tenant

    async def main() -> None:
        assert await backend.use(face, room, nested(backend, face, room, look, "b"), "a") == "b"
        with pytest.raises(BulkheadFullError, match="'tenants', for the key of this call, is full"):
            await backend.use(face, room, nested(backend, face, room, answer, "a"), "a")

    backend.run(main)
    assert seen[0]["keys"] == {
        "a": {"limit": 1, "in_flight": 1, "queued": 0},
        "b": {"limit": 1, "in_flight": 1, "queued": 0},
    }
    json.dumps(seen[0])
    after = room.snapshot()
    assert (after["keys"], after["in_flight"], after["rejected"]) == ({}, 0, 1)


@call_faces
def test_no_key_with_a_call_inside_is_forgotten(
    backend: Backend, face: str, private: Registry, fake_clock: FakeClock
) -> None:
    room = by_tenant(private, max_keys=1)

    async def main() -> None:
        async def others(tenant: str) -> None:
            for number in range(5):
                await backend.use(face, room, answer, f"other {number}")
            await backend.use(face, room, answer, tenant)

        with pytest.raises(BulkheadFullError):
            await backend.use(face, room, others, "a")
        await backend.use(face, room, answer, "b")

    backend.run(main)
    assert room._keyed is not None
    assert len(room._keyed) == 1
    assert not room._keyed._borrowed


@call_faces
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_a_call_raises_gives_everything_back(
    backend: Backend, face: str, error: type[BaseException], private: Registry, fake_clock: FakeClock
) -> None:
    room = by_tenant(private)

    async def failing(tenant: str) -> None:
        raise error

    async def main() -> None:
        with pytest.raises(error):
            await backend.use(face, room, failing, "a")
        assert await backend.use(face, room, answer, "a") == "a"

    backend.run(main)
    assert room.in_flight == 0
    assert room._keyed is not None
    assert not room._keyed._borrowed


@call_faces
def test_resize_holds_for_keys_that_are_there_and_for_those_to_come(
    backend: Backend, face: str, private: Registry, fake_clock: FakeClock
) -> None:
    room = by_tenant(private)

    async def main() -> None:
        await backend.use(face, room, answer, "a")
        room.resize(2)
        for tenant in "ab":
            await backend.use(face, room, nested(backend, face, room, answer, tenant), tenant)

    with record_events() as events:
        backend.run(main)
    assert room.limit == 2
    assert [dict(event.data) for event in events] == [{"from": 1, "to": 2, "reason": "resized"}]


@call_faces
def test_each_key_finds_a_limit_of_its_own(
    backend: Backend, face: str, private: Registry, fake_clock: FakeClock
) -> None:
    limit = adaptive(initial=20, minimum=1, maximum=200, algorithm="aimd")
    room = by_tenant(private, max_concurrent=limit)

    async def late(tenant: str) -> None:
        raise TimeoutError

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await backend.use(face, room, late, "a")
        await backend.use(face, room, answer, "b")

    backend.run(main)
    assert room._keyed is not None
    assert {key: permits.limit for key, permits in room._keyed.items()} == {"a": 18, "b": 20}


def test_a_key_is_made_of_arguments_so_blocks_and_generators_are_refused(private: Registry) -> None:
    room = by_tenant(private)
    with pytest.raises(TypeError, match="key=, which is made of a call's arguments"), room:
        pass
    with pytest.raises(TypeError, match="not generators"):

        @room
        def steps(tenant: str) -> Any:
            yield tenant
