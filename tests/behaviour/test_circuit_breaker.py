"""The circuit breaker over threads, asyncio and trio, through every face that it has."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from resilient import BulkheadFullError, CircuitOpenError, CircuitState, Registry, circuit_breaker
from resilient.testing import FakeClock
from tests.behaviour.kit import CALL_FACES, SCOPE_FACES, Backend

every_face = pytest.mark.parametrize("face", SCOPE_FACES)
call_faces = pytest.mark.parametrize("face", CALL_FACES)


async def fine() -> str:
    return "fine"


async def broken() -> None:
    raise ConnectionError("broken")


async def refused_further_in() -> None:
    raise BulkheadFullError("full")


async def unreached() -> None:
    raise AssertionError("an open circuit let a call through")


@every_face
def test_it_opens_at_the_last_of_the_failures_and_runs_nothing_more(
    backend: Backend, face: str, fake_clock: FakeClock, private: Registry
) -> None:
    breaker = circuit_breaker("payments", consecutive_failures=3, open_duration=20, registry=private)

    async def main() -> None:
        for _ in range(3):
            assert breaker.state is CircuitState.CLOSED
            with pytest.raises(ConnectionError):
                await backend.use(face, breaker, broken)
        assert breaker.state is CircuitState.OPEN
        fake_clock.advance(5.0)
        with pytest.raises(CircuitOpenError) as caught:
            await backend.use(face, breaker, unreached)
        assert (caught.value.policy, caught.value.retry_after) == ("payments", 15.0)
        assert caught.value.last_error == "ConnectionError"

    backend.run(main)
    assert breaker.snapshot()["totals"] == {"success": 0, "failure": 3, "slow": 0, "ignored": 0, "rejected": 1}


@every_face
def test_every_rejection_is_an_error_of_its_own(backend: Backend, face: str, private: Registry) -> None:
    breaker = circuit_breaker(registry=private)
    breaker.force_open()
    errors: list[CircuitOpenError] = []

    async def main() -> None:
        for _ in range(3):
            with pytest.raises(CircuitOpenError) as caught:
                await backend.use(face, breaker, unreached)
            errors.append(caught.value)

    backend.run(main)
    assert len({id(error) for error in errors}) == 3


@every_face
def test_a_probe_that_succeeds_closes_it_after_the_break(
    backend: Backend, face: str, fake_clock: FakeClock, private: Registry
) -> None:
    breaker = circuit_breaker(consecutive_failures=1, open_duration=20, registry=private)

    async def main() -> None:
        with pytest.raises(ConnectionError):
            await backend.use(face, breaker, broken)
        fake_clock.advance(20.0)
        assert await backend.use(face, breaker, fine) == "fine"

    backend.run(main)
    assert breaker.state is CircuitState.CLOSED
    assert breaker.snapshot()["transitions"] == {"closed->open": 1, "open->half_open": 1, "half_open->closed": 1}


@every_face
def test_a_probe_that_fails_opens_it_again(
    backend: Backend, face: str, fake_clock: FakeClock, private: Registry
) -> None:
    breaker = circuit_breaker(open_duration=20, registry=private)

    async def main() -> None:
        breaker.trip()
        fake_clock.advance(20.0)
        with pytest.raises(ConnectionError):
            await backend.use(face, breaker, broken)
        assert breaker.state is CircuitState.OPEN
        fake_clock.advance(19.0)
        with pytest.raises(CircuitOpenError):
            await backend.use(face, breaker, unreached)

    backend.run(main)


@every_face
def test_half_open_lets_no_more_in_than_it_says(
    backend: Backend, face: str, fake_clock: FakeClock, private: Registry
) -> None:
    breaker = circuit_breaker(open_duration=20, half_open_calls=2, registry=private)
    inside: list[None] = []
    rejected: list[None] = []

    async def main() -> None:
        probes_are_in, others_were_rejected = backend.event(), backend.event()

        async def probe() -> None:
            inside.append(None)
            if len(inside) == 2:
                probes_are_in.set()
            await others_were_rejected.wait()

        breaker.trip()
        fake_clock.advance(20.0)
        async with backend.group() as spawn:
            for _ in range(2):
                spawn(backend.use, face, breaker, probe)
            await probes_are_in.wait()
            for _ in range(20):
                with pytest.raises(CircuitOpenError, match="half-open"):
                    await backend.use(face, breaker, unreached)
                rejected.append(None)
            others_were_rejected.set()

    backend.run(main)
    assert (len(inside), len(rejected)) == (2, 20)
    assert breaker.state is CircuitState.CLOSED


@every_face
@pytest.mark.parametrize("late", [fine, broken], ids=["a late success", "a late failure"])
@pytest.mark.parametrize("then", ["open", "half-open", "closed again"])
def test_a_result_of_an_older_state_changes_nothing(
    backend: Backend, face: str, late: object, then: str, fake_clock: FakeClock, private: Registry
) -> None:
    breaker = circuit_breaker(consecutive_failures=1, open_duration=20, half_open_calls=2, registry=private)

    async def main() -> None:
        under_way, may_end = backend.event(), backend.event()

        async def straggler() -> object:
            under_way.set()
            await may_end.wait()
            return await late()  # type: ignore[operator, no-any-return]

        async def call() -> None:
            try:
                await backend.use(face, breaker, straggler)
            except ConnectionError:
                pass

        async with backend.group() as spawn:
            spawn(call)
            await under_way.wait()
            breaker.trip()
            if then != "open":
                fake_clock.advance(20.0)
                await backend.use(face, breaker, fine)
            if then == "closed again":
                await backend.use(face, breaker, fine)
            before = breaker.state, breaker.snapshot()["calls"], breaker.snapshot()["retry_after"]
            may_end.set()
        assert (breaker.state, breaker.snapshot()["calls"], breaker.snapshot()["retry_after"]) == before

    backend.run(main)
    assert breaker.state == {"open": "open", "half-open": "half_open", "closed again": "closed"}[then]


@every_face
def test_what_is_ignored_or_rejected_further_in_is_neutral(
    backend: Backend, face: str, fake_clock: FakeClock, private: Registry
) -> None:
    breaker = circuit_breaker(consecutive_failures=1, ignore=KeyError, open_duration=20, registry=private)

    async def missing() -> None:
        raise KeyError

    async def main() -> None:
        with pytest.raises(KeyError):
            await backend.use(face, breaker, missing)
        with pytest.raises(BulkheadFullError):
            await backend.use(face, breaker, refused_further_in)
        assert breaker.state is CircuitState.CLOSED
        breaker.trip()
        fake_clock.advance(20.0)
        for _ in range(3):
            with pytest.raises(KeyError):
                await backend.use(face, breaker, missing)
            with pytest.raises(BulkheadFullError):
                await backend.use(face, breaker, refused_further_in)
        assert breaker.state is CircuitState.HALF_OPEN
        await backend.use(face, breaker, fine)

    backend.run(main)
    assert breaker.state is CircuitState.CLOSED
    assert breaker.snapshot()["totals"] == {"success": 1, "failure": 0, "slow": 0, "ignored": 8, "rejected": 0}


@every_face
def test_an_error_that_on_does_not_name_is_a_success(backend: Backend, face: str, private: Registry) -> None:
    breaker = circuit_breaker(on=OSError, consecutive_failures=2, registry=private)

    async def wrong() -> None:
        raise ValueError

    async def main() -> None:
        for body, error in ((broken, ConnectionError), (wrong, ValueError), (broken, ConnectionError)):
            with pytest.raises(error):
                await backend.use(face, breaker, body)

    backend.run(main)
    assert breaker.state is CircuitState.CLOSED
    assert breaker.snapshot()["totals"] == {"success": 1, "failure": 2, "slow": 0, "ignored": 0, "rejected": 0}


@every_face
def test_slow_successes_open_it(backend: Backend, face: str, fake_clock: FakeClock, private: Registry) -> None:
    breaker = circuit_breaker(slow_call_rate=0.5, slow_call_duration=3, minimum_calls=4, registry=private)

    async def main() -> None:
        for seconds in (1.0, 3.0, 2.9, 3.0):
            assert breaker.state is CircuitState.CLOSED
            await backend.use(face, breaker, backend.spend, fake_clock, seconds)

    backend.run(main)
    assert breaker.state is CircuitState.OPEN
    assert breaker.snapshot()["slow_calls"] == 2


@call_faces
def test_a_result_may_be_a_failure(backend: Backend, face: str, private: Registry) -> None:
    breaker = circuit_breaker(consecutive_failures=2, on_result=lambda result: result == "fine", registry=private)

    async def main() -> None:
        for _ in range(2):
            assert await backend.use(face, breaker, fine) == "fine"
        with pytest.raises(CircuitOpenError):
            await backend.use(face, breaker, unreached)

    backend.run(main)


@every_face
def test_a_probe_that_hangs_does_not_block_it_for_ever(
    backend: Backend, face: str, fake_clock: FakeClock, private: Registry
) -> None:
    breaker = circuit_breaker(open_duration=20, half_open_timeout=5, registry=private)

    async def main() -> None:
        hanging, rescued = backend.event(), backend.event()

        async def hang() -> None:
            hanging.set()
            await rescued.wait()

        breaker.trip()
        fake_clock.advance(20.0)
        async with backend.group() as spawn:
            spawn(backend.use, face, breaker, hang)
            await hanging.wait()
            fake_clock.advance(4.9)
            with pytest.raises(CircuitOpenError, match="half-open"):
                await backend.use(face, breaker, unreached)
            fake_clock.advance(0.1)
            with pytest.raises(CircuitOpenError):
                await backend.use(face, breaker, unreached)
            assert breaker.state is CircuitState.OPEN
            fake_clock.advance(20.0)
            await backend.use(face, breaker, fine)
            assert breaker.state is CircuitState.CLOSED
            rescued.set()

    backend.run(main)
    assert breaker.state is CircuitState.CLOSED


def test_a_generator_counts_once_at_its_end_and_closing_it_early_is_neutral(
    backend: Backend, private: Registry
) -> None:
    breaker = circuit_breaker(consecutive_failures=1, registry=private)

    def items_on_threads() -> list[int]:
        @breaker
        def numbers() -> Iterator[int]:
            yield from (1, 2, 3)

        first = numbers()
        assert next(first) == 1
        first.close()  # type: ignore[attr-defined]
        return [*numbers()]

    async def items_in_tasks() -> list[int]:
        @breaker
        async def numbers() -> AsyncIterator[int]:
            for number in (1, 2, 3):
                yield number

        first = numbers()
        assert await anext(first) == 1
        await first.aclose()  # type: ignore[attr-defined]
        return [item async for item in numbers()]

    async def main() -> list[int]:
        return items_on_threads() if backend.name == "threads" else await items_in_tasks()

    assert backend.run(main) == [1, 2, 3]
    assert breaker.snapshot()["totals"] == {"success": 1, "failure": 0, "slow": 0, "ignored": 1, "rejected": 0}
