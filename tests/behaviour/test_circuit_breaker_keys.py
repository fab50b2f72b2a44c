"""One circuit a key, over threads, asyncio and trio."""

from __future__ import annotations

import json
from typing import Any

import pytest

from resilient import CircuitBreaker, CircuitOpenError, CircuitState, Registry, circuit_breaker
from resilient.testing import FakeClock, record_events
from tests.behaviour.kit import CALL_FACES, Backend

call_faces = pytest.mark.parametrize("face", CALL_FACES)


async def charge(tenant: str, *, works: bool = True) -> str:
    if not works:
        raise ConnectionError
    return tenant


async def failing(tenant: str) -> str:
    return await charge(tenant, works=False)


def by_tenant(registry: Registry, **settings: Any) -> CircuitBreaker:
    settings = {"consecutive_failures": 1, "open_duration": 10.0, **settings}
    return circuit_breaker("tenants", key=lambda tenant: tenant, registry=registry, **settings)


async def fail(backend: Backend, face: str, breaker: CircuitBreaker, tenant: str) -> None:
    with pytest.raises(ConnectionError):
        await backend.use(face, breaker, failing, tenant)


@call_faces
def test_one_keys_failures_open_its_own_circuit_only(
    backend: Backend, face: str, private: Registry, fake_clock: FakeClock
) -> None:
    breaker = by_tenant(private)

    async def main() -> None:
        await fail(backend, face, breaker, "a")
        with pytest.raises(CircuitOpenError, match="'tenants', for the key of this call, is open") as caught:
            await backend.use(face, breaker, charge, "a")
        assert (caught.value.retry_after, caught.value.last_error) == (10.0, "ConnectionError")
        assert await backend.use(face, breaker, charge, "b") == "b"

    backend.run(main)
    assert breaker.state is CircuitState.OPEN
    snapshot = breaker.snapshot()
    keys: Any = snapshot["keys"]
    assert list(keys) == ["a"]
    assert (keys["a"]["state"], keys["a"]["retry_after"], keys["a"]["last_error"]) == ("open", 10.0, "ConnectionError")
    assert snapshot["totals"] == {"success": 1, "failure": 1, "slow": 0, "ignored": 0, "rejected": 1}
    json.dumps(snapshot)


@call_faces
def test_each_key_has_a_break_and_probes_of_its_own(
    backend: Backend, face: str, private: Registry, fake_clock: FakeClock
) -> None:
    breaker = by_tenant(private)

    async def main() -> None:
        await fail(backend, face, breaker, "a")
        fake_clock.advance(6.0)
        await fail(backend, face, breaker, "b")
        fake_clock.advance(4.0)
        assert await backend.use(face, breaker, charge, "a") == "a"
        with pytest.raises(CircuitOpenError) as caught:
            await backend.use(face, breaker, charge, "b")
        assert caught.value.retry_after == 6.0
        fake_clock.advance(6.0)
        await fail(backend, face, breaker, "b")

    backend.run(main)
    assert list(breaker.snapshot()["keys"]) == ["b"]  # type: ignore[call-overload]


@call_faces
def test_the_least_recently_used_key_is_forgotten(
    backend: Backend, face: str, private: Registry, fake_clock: FakeClock
) -> None:
    breaker = by_tenant(private, max_keys=2)

    async def main() -> None:
        await fail(backend, face, breaker, "a")
        for tenant in "bc":
            await backend.use(face, breaker, charge, tenant)
        assert await backend.use(face, breaker, charge, "a") == "a"

    backend.run(main)
    assert breaker.state is CircuitState.CLOSED
    assert breaker.snapshot()["keys"] == {}


@call_faces
def test_by_hand_all_keys_are_moved_at_once(
    backend: Backend, face: str, private: Registry, fake_clock: FakeClock
) -> None:
    breaker = by_tenant(private)

    async def main() -> None:
        await fail(backend, face, breaker, "a")
        breaker.disable()
        assert await backend.use(face, breaker, charge, "a") == "a"
        await fail(backend, face, breaker, "b")
        breaker.force_open()
        for tenant in "abc":
            with pytest.raises(CircuitOpenError, match="forced open"):
                await backend.use(face, breaker, charge, tenant)
        breaker.reset()
        for tenant in "abc":
            assert await backend.use(face, breaker, charge, tenant) == tenant
        breaker.trip(5.0)
        for tenant in "abc":
            with pytest.raises(CircuitOpenError) as caught:
                await backend.use(face, breaker, charge, tenant)
            assert caught.value.retry_after == 5.0
        fake_clock.advance(5.0)
        assert await backend.use(face, breaker, charge, "c") == "c"
        assert breaker.state is CircuitState.CLOSED

    backend.run(main)


@call_faces
def test_a_late_result_of_a_key_that_was_reset_counts_nowhere(
    backend: Backend, face: str, private: Registry, fake_clock: FakeClock
) -> None:
    breaker = by_tenant(private)

    async def reset_within(tenant: str) -> None:
        breaker.reset()
        raise ConnectionError

    async def main() -> None:
        with pytest.raises(ConnectionError):
            await backend.use(face, breaker, reset_within, "a")
        assert await backend.use(face, breaker, charge, "a") == "a"

    backend.run(main)


@call_faces
def test_events_are_told_for_the_policy_and_never_name_a_key(
    backend: Backend, face: str, private: Registry, fake_clock: FakeClock
) -> None:
    breaker = by_tenant(private)

    async def main() -> None:
        for tenant in ("secret a", "secret b"):
            await fail(backend, face, breaker, tenant)
        with pytest.raises(CircuitOpenError) as caught:
            await backend.use(face, breaker, charge, "secret a")
        assert "secret" not in str(caught.value)

    with record_events() as events:
        backend.run(main)
    assert [event.kind for event in events] == ["circuit_state_changed"] * 2 + ["call_rejected"]
    assert "secret" not in repr(events)
    assert breaker.snapshot()["transitions"] == {"closed->open": 2}


def test_the_time_open_is_the_time_in_which_any_key_was_open(private: Registry, fake_clock: FakeClock) -> None:
    breaker = by_tenant(private)

    fake_clock.advance(1.0)
    for tenant in "ab":
        with pytest.raises(ZeroDivisionError):
            breaker.call(lambda tenant: 1 / 0, tenant)
        fake_clock.advance(5.0)
    fake_clock.advance(20.0)
    for tenant in "ab":
        breaker.call(str, tenant)
    fake_clock.advance(2.0)
    spent: Any = breaker.snapshot()["time_in_state"]
    assert spent == {"closed": 3.0, "open": 30.0, "half_open": 0.0, "forced_open": 0.0, "disabled": 0.0}


def test_what_was_open_and_is_forgotten_ends_the_time_open(private: Registry, fake_clock: FakeClock) -> None:
    breaker = by_tenant(private, max_keys=1)
    with pytest.raises(ZeroDivisionError):
        breaker.call(lambda tenant: 1 / 0, "a")
    fake_clock.advance(3.0)
    breaker.call(str, "b")
    fake_clock.advance(4.0)
    spent: Any = breaker.snapshot()["time_in_state"]
    assert (spent["open"], spent["closed"]) == (3.0, 4.0)


def test_only_so_many_keys_are_listed_and_the_worst_first(private: Registry, fake_clock: FakeClock) -> None:
    breaker = by_tenant(private)
    for number in range(150):
        fake_clock.advance(0.01)
        with pytest.raises(ZeroDivisionError):
            breaker.call(lambda tenant: 1 / 0, number)
    keys: Any = breaker.snapshot()["keys"]
    assert len(keys) == 100
    assert next(iter(keys)) == "149"


def test_a_key_is_made_of_arguments_so_blocks_and_generators_are_refused(private: Registry) -> None:
    breaker = by_tenant(private)
    with pytest.raises(TypeError, match="key=, which is made of a call's arguments"), breaker:
        pass
    with pytest.raises(TypeError, match="not generators"):

        @breaker
        def steps(tenant: str) -> Any:
            yield tenant


def test_settings_changed_later_hold_for_all_keys(private: Registry, fake_clock: FakeClock) -> None:
    def key(tenant: str) -> str:
        return tenant

    first = circuit_breaker("tenants", key=key, registry=private)
    first.call(str, "a")
    again = circuit_breaker("tenants", key=key, registry=private)
    assert again is first
    assert first.settings["max_keys"] == 1000


def test_the_errors_of_key_itself_are_the_callers(private: Registry) -> None:
    breaker = circuit_breaker("tenants", key=lambda tenant: tenant.missing, registry=private)
    with pytest.raises(AttributeError):
        breaker.call(str, "a")
    unhashable = circuit_breaker("lists", key=lambda tenant: [tenant], registry=private)
    with pytest.raises(TypeError, match="circuit_breaker 'lists': key= must give something hashable"):
        unhashable.call(str, "a")
