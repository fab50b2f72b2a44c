"""Blocks, generators, and the async face on both event loops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import trio

from resilient import CircuitOpenError, CircuitState
from resilient.testing import FakeClock
from tests.policies.breaker_kit import breaker, call_and_fail, rejection, shown, succeed, totals

Run = Callable[[Callable[[], Awaitable[Any]]], Any]


def run_asyncio(main: Callable[[], Awaitable[Any]]) -> Any:
    async def awaited() -> Any:
        return await main()

    return asyncio.run(awaited())


@pytest.fixture(params=[run_asyncio, trio.run], ids=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Run:
    loop: Run = request.param
    return loop


async def answer(value: object = "fine") -> object:
    return value


async def refuse(error: BaseException | None = None) -> None:
    raise ConnectionError("refused") if error is None else error


class TestBlocks:
    def test_a_block_counts_as_a_call(self) -> None:
        policy = breaker(consecutive_failures=2)
        for _ in range(2):
            with pytest.raises(ConnectionError), policy:
                raise ConnectionError
        assert policy.state is CircuitState.OPEN
        with pytest.raises(CircuitOpenError), policy:
            raise AssertionError("not reached")
        assert totals(policy) == {"failure": 2, "rejected": 1}

    def test_a_block_that_ends_well_is_a_success(self) -> None:
        policy = breaker()
        with policy:
            pass
        assert totals(policy) == {"success": 1}
        assert shown(policy, "calls") == (1,)

    def test_a_block_may_be_slow(self, fake_clock: FakeClock) -> None:
        policy = breaker(slow_call_rate=1, slow_call_duration=2, minimum_calls=1)
        with policy:
            fake_clock.advance(2)
        assert shown(policy, "state", "slow_calls") == ("open", 1)

    def test_a_probe_may_be_a_block(self, fake_clock: FakeClock) -> None:
        policy = breaker()
        policy.trip(5)
        fake_clock.advance(5)
        with suppress(KeyboardInterrupt), policy:
            rejection(policy)
            raise KeyboardInterrupt
        with policy:
            assert policy.state is CircuitState.HALF_OPEN
        assert policy.state is CircuitState.CLOSED

    def test_blocks_of_one_breaker_nest(self) -> None:
        policy = breaker()
        with policy, policy:
            pass
        assert totals(policy) == {"success": 2}


class TestGenerators:
    def test_a_generator_is_recorded_once_at_its_end(self) -> None:
        policy = breaker()

        @policy
        def items() -> Iterator[int]:
            yield from range(5)

        seen = []
        for item in items():
            assert totals(policy) == {}
            seen.append(item)
        assert seen == [0, 1, 2, 3, 4]
        assert totals(policy) == {"success": 1}

    def test_a_generator_that_fails_is_one_failure(self) -> None:
        policy = breaker(consecutive_failures=1)

        @policy
        def items() -> Iterator[int]:
            yield 1
            raise ConnectionError

        with pytest.raises(ConnectionError):
            list(items())
        assert shown(policy, "state", "failures") == ("open", 1)

    def test_closing_it_early_is_neutral(self, fake_clock: FakeClock) -> None:
        policy = breaker()

        @policy
        def items() -> Iterator[int]:
            yield from range(5)

        policy.trip(5)
        fake_clock.advance(5)
        steps = items()
        assert next(iter(steps)) == 0
        rejection(policy)
        steps.close()  # type: ignore[attr-defined]
        assert shown(policy, "state", "calls") == ("half_open", 0)
        assert totals(policy) == {"ignored": 1, "rejected": 1}
        assert list(items()) == [0, 1, 2, 3, 4]
        assert policy.state is CircuitState.CLOSED

    def test_it_is_rejected_when_it_starts_and_not_when_it_is_made(self) -> None:
        policy = breaker()

        @policy
        def items() -> Iterator[int]:
            yield 1

        steps = items()
        policy.trip()
        with pytest.raises(CircuitOpenError):
            next(steps)

    def test_the_time_of_the_consumer_counts_as_the_iteration_does(self, fake_clock: FakeClock) -> None:
        policy = breaker(slow_call_rate=1, slow_call_duration=2, minimum_calls=1)

        @policy
        def items() -> Iterator[int]:
            yield from range(2)

        for _ in items():
            fake_clock.advance(1)
        assert policy.state is CircuitState.OPEN

    def test_an_async_generator_is_recorded_once_and_closing_it_early_is_neutral(self, run: Run) -> None:
        policy = breaker()

        @policy
        async def items() -> AsyncIterator[int]:
            for item in range(3):
                yield item

        async def main() -> None:
            assert [item async for item in items()] == [0, 1, 2]
            assert totals(policy) == {"success": 1}
            steps = items()
            assert await anext(steps) == 0
            await steps.aclose()  # type: ignore[attr-defined]
            assert totals(policy) == {"success": 1, "ignored": 1}

        run(main)


class TestAsync:
    def test_calls_are_counted_and_rejected(self, run: Run, fake_clock: FakeClock) -> None:
        policy = breaker(consecutive_failures=2, open_duration=10)
        guarded = policy(refuse)

        async def main() -> None:
            assert await policy.call_async(answer, 42) == 42
            for _ in range(2):
                with pytest.raises(ConnectionError):
                    await guarded()
            with pytest.raises(CircuitOpenError) as caught:
                await policy.call_async(answer)
            assert caught.value.retry_after == 10.0
            fake_clock.advance(10)
            await policy.call_async(answer)

        run(main)
        assert policy.state is CircuitState.CLOSED
        assert totals(policy) == {"success": 2, "failure": 2, "rejected": 1}

    def test_slow_calls_results_and_time_windows_count(self, run: Run, fake_clock: FakeClock) -> None:
        policy = breaker(
            slow_call_rate=1,
            slow_call_duration=2,
            window_duration=10,
            minimum_calls=3,
            on_result=lambda result: not result,
        )

        async def slow() -> bool:
            fake_clock.advance(3)
            return True

        async def main() -> None:
            await policy.call_async(slow)
            await policy.call_async(answer, 0)
            assert shown(policy, "calls", "failures", "slow_calls") == (2, 1, 1)
            fake_clock.advance(8)
            for _ in range(3):
                await policy.call_async(slow)

        run(main)
        assert policy.state is CircuitState.OPEN

    def test_sync_and_async_callers_share_one_count(self, run: Run) -> None:
        policy = breaker(consecutive_failures=3)

        async def main() -> None:
            with pytest.raises(ConnectionError):
                await policy.call_async(refuse)
            call_and_fail(policy)
            async with policy:
                pass
            for _ in range(3):
                with pytest.raises(ConnectionError):
                    async with policy:
                        raise ConnectionError

        run(main)
        assert policy.state is CircuitState.OPEN
        assert totals(policy) == {"success": 1, "failure": 5}

    def test_so_many_probes_at_once_and_the_others_are_rejected(self, run: Run, fake_clock: FakeClock) -> None:
        policy = breaker(half_open_calls=3)
        policy.trip(5)
        fake_clock.advance(5)
        results: list[object] = []

        async def probe() -> object:
            for _ in range(3):
                await trio_or_asyncio_checkpoint()
            return "fine"

        async def one() -> None:
            try:
                results.append(await policy.call_async(probe))
            except CircuitOpenError:
                results.append("rejected")

        async def main() -> None:
            await together(*[one] * 10)

        run(main)
        assert sorted(map(str, results)) == ["fine"] * 3 + ["rejected"] * 7
        assert policy.state is CircuitState.CLOSED

    @pytest.mark.parametrize("face", ["call", "block"])
    def test_a_cancelled_probe_is_neutral_and_gives_its_permit_back_on_asyncio(
        self, face: str, fake_clock: FakeClock
    ) -> None:
        policy = breaker()
        policy.trip(5)
        fake_clock.advance(5)

        async def hang() -> None:
            await asyncio.Event().wait()

        async def in_a_block() -> None:
            async with policy:
                await hang()

        async def main() -> None:
            task = asyncio.create_task(policy.call_async(hang) if face == "call" else in_a_block())
            await asyncio.sleep(0)
            rejection(policy)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert totals(policy) == {"ignored": 1, "rejected": 1}
            await policy.call_async(answer)

        asyncio.run(main())
        assert policy.state is CircuitState.CLOSED

    @pytest.mark.parametrize("face", ["call", "block"])
    def test_a_cancelled_probe_is_neutral_and_gives_its_permit_back_on_trio(
        self, face: str, fake_clock: FakeClock
    ) -> None:
        policy = breaker()
        policy.trip(5)
        fake_clock.advance(5)

        async def in_a_block() -> None:
            async with policy:
                await trio.sleep_forever()

        async def main() -> None:
            with trio.CancelScope() as scope:
                scope.cancel()
                await (policy.call_async(trio.sleep_forever) if face == "call" else in_a_block())
            assert scope.cancelled_caught
            assert totals(policy) == {"ignored": 1}
            await policy.call_async(answer)

        trio.run(main)
        assert policy.state is CircuitState.CLOSED

    def test_a_cancellation_of_a_closed_breaker_is_neutral(self) -> None:
        policy = breaker(consecutive_failures=1)

        async def main() -> None:
            task = asyncio.create_task(policy.call_async(asyncio.Event().wait))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(main())
        assert totals(policy) == {"ignored": 1}
        assert shown(policy, "state", "calls") == ("closed", 0)

    def test_one_breaker_serves_two_loops_one_after_the_other(self) -> None:
        policy = breaker()

        async def main() -> None:
            await policy.call_async(answer)

        run_asyncio(main)
        trio.run(main)
        policy.call(succeed)
        assert totals(policy) == {"success": 3}


async def trio_or_asyncio_checkpoint() -> None:
    if trio.lowlevel.in_trio_task():
        await trio.lowlevel.checkpoint()
    else:
        await asyncio.sleep(0)


async def together(*functions: Callable[[], Awaitable[object]]) -> None:
    if trio.lowlevel.in_trio_task():
        async with trio.open_nursery() as nursery:
            for function in functions:
                nursery.start_soon(function)
    else:
        await asyncio.gather(*(function() for function in functions))
