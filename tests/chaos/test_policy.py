"""The chaos policy in all its faces."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from statistics import mean
from typing import Any

import pytest
import trio

from resilient import (
    CircuitOpenError,
    ConfigurationError,
    Pipeline,
    Registry,
    TimeoutExceededError,
    circuit_breaker,
    fallback,
    pipeline,
    retry,
    timeout,
)
from resilient.chaos import Chaos, chaos
from resilient.core.deadline import DEADLINE, shorten_deadline
from resilient.testing import FakeClock, disabled, fake_clock


@pytest.fixture
def clock() -> Iterator[FakeClock]:
    with fake_clock() as clock:
        yield clock


@pytest.fixture
def registry() -> Registry:
    return Registry()


class Body:
    """What is guarded; counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        return "mine"

    async def later(self) -> str:
        return self()


@pytest.fixture
def body() -> Body:
    return Body()


Guard = Chaos | Pipeline


def decorated(guard: Guard, body: Body) -> object:
    @guard
    def work() -> str:
        return body()

    return work()


def called(guard: Guard, body: Body) -> object:
    return guard.call(body)


def block(guard: Guard, body: Body) -> object:
    with guard:
        return body()


def generator(guard: Guard, body: Body) -> object:
    @guard
    def items() -> Iterator[str]:
        yield body()
        yield "more"

    everything = list(items())
    return everything[0]


async def async_decorated(guard: Guard, body: Body) -> object:
    @guard
    async def work() -> str:
        return body()

    return await work()


async def async_called(guard: Guard, body: Body) -> object:
    return await guard.call_async(body.later)


async def async_block(guard: Guard, body: Body) -> object:
    async with guard:
        return body()


async def async_generator(guard: Guard, body: Body) -> object:
    @guard
    async def items() -> AsyncIterator[str]:
        yield body()
        yield "more"

    everything = [item async for item in items()]
    return everything[0]


Face = Callable[[Guard, Body], object]


def on_asyncio(face: Callable[[Guard, Body], Any]) -> Face:
    return lambda guard, body: asyncio.run(face(guard, body))


def on_trio(face: Callable[[Guard, Body], Any]) -> Face:
    return lambda guard, body: trio.run(face, guard, body)


FUNCTIONS: dict[str, Face] = {
    "decorated": decorated,
    "called": called,
    "asyncio-decorated": on_asyncio(async_decorated),
    "asyncio-called": on_asyncio(async_called),
    "trio-decorated": on_trio(async_decorated),
    "trio-called": on_trio(async_called),
}
FACES: dict[str, Face] = {
    **FUNCTIONS,
    "block": block,
    "generator": generator,
    "asyncio-block": on_asyncio(async_block),
    "asyncio-generator": on_asyncio(async_generator),
    "trio-block": on_trio(async_block),
    "trio-generator": on_trio(async_generator),
}
every_face = pytest.mark.parametrize("use", FACES.values(), ids=FACES.keys())
every_function = pytest.mark.parametrize("use", FUNCTIONS.values(), ids=FUNCTIONS.keys())


class TestFaces:
    @every_face
    def test_an_error_is_raised_in_the_place_of_the_call(
        self, use: Face, body: Body, registry: Registry, clock: FakeClock
    ) -> None:
        policy = chaos(error=ConnectionError("reset"), registry=registry)
        with pytest.raises(ConnectionError, match="reset"):
            use(policy, body)
        assert (body.calls, clock.sleeps) == (0, [])

    @every_face
    def test_a_latency_is_waited_for_before_the_call(
        self, use: Face, body: Body, registry: Registry, clock: FakeClock
    ) -> None:
        assert use(chaos(latency=2.5, registry=registry), body) == "mine"
        assert (body.calls, clock.sleeps) == (1, [2.5])

    @every_face
    def test_the_latency_comes_before_the_error(
        self, use: Face, body: Body, registry: Registry, clock: FakeClock
    ) -> None:
        raised_at: list[float] = []
        started = clock.now()

        def refuse() -> Exception:
            raised_at.append(clock.now() - started)
            return ConnectionError()

        with pytest.raises(ConnectionError):
            use(chaos(latency=2.5, error=refuse, registry=registry), body)
        assert raised_at == [2.5]
        assert body.calls == 0

    @every_function
    def test_a_result_is_returned_in_the_place_of_the_call(
        self, use: Face, body: Body, registry: Registry, clock: FakeClock
    ) -> None:
        answer = object()
        assert use(chaos(latency=1, result=answer, registry=registry), body) is answer
        assert use(chaos(result=lambda: answer, registry=registry), body) is answer
        assert use(chaos(result=None, registry=registry), body) is None
        assert (body.calls, clock.sleeps) == (0, [1.0])

    @every_face
    def test_a_call_that_is_not_hit_is_left_alone(
        self, use: Face, body: Body, registry: Registry, clock: FakeClock
    ) -> None:
        policy = chaos(latency=1, error=ConnectionError, rate=0, registry=registry)
        assert use(policy, body) == "mine"
        assert (body.calls, clock.sleeps) == (1, [])
        assert policy.snapshot()["calls"] == {"passed": 1, "hit": 0}

    @every_face
    def test_policies_around_it_take_the_error_for_the_functions_own(
        self, use: Face, body: Body, registry: Registry, clock: FakeClock
    ) -> None:
        guard = pipeline(
            circuit_breaker(consecutive_failures=2, registry=registry),
            chaos(error=ConnectionError, registry=registry),
            registry=registry,
        )
        for _ in range(2):
            with pytest.raises(ConnectionError):
                use(guard, body)
        with pytest.raises(CircuitOpenError):
            use(guard, body)

    @every_face
    def test_disabled_with_all_others_it_injects_nothing(self, use: Face, body: Body, registry: Registry) -> None:
        policy = chaos(error=ConnectionError, registry=registry)
        with disabled():
            assert use(policy, body) == "mine"

    def test_stacked_decorators_are_one_pipeline(self, registry: Registry, clock: FakeClock) -> None:
        @retry(attempts=3, backoff=1, registry=registry)
        @chaos(error=[ConnectionError], rate=1, registry=registry)
        def work() -> str:
            raise AssertionError

        with pytest.raises(ConnectionError):
            work()
        assert clock.sleeps == [1.0, 1.0]
        assert registry.all(Chaos)[0].snapshot()["calls"] == {"passed": 0, "hit": 3}

    def test_methods_of_a_client_can_be_hit_through_a_stand_in(self, registry: Registry) -> None:
        class Client:
            def get(self) -> str:
                return "got"

            def close(self) -> str:
                return "closed"

        client = chaos(error=ConnectionError, registry=registry).proxy(Client(), methods={"get"})
        with pytest.raises(ConnectionError):
            client.get()
        assert client.close() == "closed"

    def test_a_block_has_no_result(self, registry: Registry) -> None:
        policy = chaos(result=1, registry=registry)
        with pytest.raises(TypeError, match="a block has no result to replace"):
            with policy:
                pass

        async def use() -> None:
            async with policy:
                pass

        with pytest.raises(TypeError, match="a block has no result to replace"):
            asyncio.run(use())

    def test_a_generator_has_no_result(self, registry: Registry) -> None:
        def items() -> Iterator[int]:
            yield 1

        with pytest.raises(TypeError, match="can't stand in for the items of generator functions"):
            chaos(result=[1], registry=registry)(items)

    def test_two_in_one_pipeline_hit_apart(self, body: Body, registry: Registry) -> None:
        guard = pipeline(
            "payments",
            chaos(error=ConnectionError, enabled=False, registry=registry),
            chaos(result="theirs", registry=registry),
            registry=registry,
        )
        assert guard.call(body) == "theirs"
        assert [policy.name for policy in guard.policies] == ["payments", "payments#2"]


class TestErrors:
    def test_each_call_has_an_exception_of_its_own(self, body: Body, registry: Registry) -> None:
        given = ConnectionResetError(104, "reset by peer")
        given.add_note("from the rack in the cellar")
        given.__cause__ = cause = OSError("cable")
        policy = chaos("payments", error=given, registry=registry)
        raised: list[BaseException] = []
        for _ in range(2):
            with pytest.raises(ConnectionResetError) as info:
                policy.call(body)
            raised.append(info.value)
        assert raised[0] is not raised[1]
        for error in raised:
            assert error is not given
            assert error.args == (104, "reset by peer")
            assert error.__cause__ is cause
            assert error.__notes__ == ["from the rack in the cellar", "injected by chaos 'payments'"]
        assert given.__notes__ == ["from the rack in the cellar"]
        assert given.__traceback__ is None

    def test_an_exception_that_wants_more_than_it_keeps_can_be_given(self, body: Body, registry: Registry) -> None:
        class StatusError(Exception):
            def __init__(self, message: str, *, status: int) -> None:
                super().__init__(message)
                self.status = status

        policy = chaos(error=StatusError("unavailable", status=503), registry=registry)
        with pytest.raises(StatusError, match="unavailable") as info:
            policy.call(body)
        assert info.value.status == 503

    @pytest.mark.parametrize("given", [KeyError, lambda: KeyError, lambda: KeyError()])
    def test_a_class_or_a_function_makes_it(self, body: Body, registry: Registry, given: Any) -> None:
        with pytest.raises(KeyError) as info:
            chaos(error=given, registry=registry).call(body)
        assert info.value.args == ()
        assert info.value.__notes__ == ["injected by chaos"]

    def test_a_function_may_want_none_this_time(self, body: Body, registry: Registry) -> None:
        turns = iter([None, KeyError(), None])
        policy = chaos(error=lambda: next(turns), registry=registry)
        assert policy.call(body) == "mine"
        with pytest.raises(KeyError):
            policy.call(body)
        assert policy.call(body) == "mine"
        assert policy.snapshot()["faults"] == {"latency": 0, "error": 1, "result": 0}

    def test_one_that_a_function_gives_again_and_again_collects_no_notes(self, body: Body, registry: Registry) -> None:
        same = KeyError()
        policy = chaos(error=lambda: same, registry=registry)
        for _ in range(3):
            with pytest.raises(KeyError):
                policy.call(body)
        assert same.__notes__ == ["injected by chaos"]

    @pytest.mark.parametrize("given", ["nothing", KeyboardInterrupt(), KeyboardInterrupt, 3, int])
    def test_what_is_no_exception_is_not_raised(self, body: Body, registry: Registry, given: Any) -> None:
        with pytest.raises(TypeError, match="neither an Exception nor None"):
            chaos(error=lambda: given, registry=registry).call(body)

    def test_some_are_more_frequent_than_others(self, registry: Registry) -> None:
        policy = chaos(
            error=[(ConnectionError("a"), 6), TimeoutError, (lambda: KeyError("c"), 3)], seed=1, registry=registry
        )
        seen: dict[type[Exception], int] = {}
        for _ in range(10_000):
            with pytest.raises((ConnectionError, TimeoutError, KeyError)) as info:
                policy.call(int)
            seen[info.type] = seen.get(info.type, 0) + 1
        assert seen[ConnectionError] == pytest.approx(6000, abs=250)
        assert seen[TimeoutError] == pytest.approx(1000, abs=150)
        assert seen[KeyError] == pytest.approx(3000, abs=250)

    def test_errors_of_the_users_own_functions_pass(self, body: Body, registry: Registry) -> None:
        def broken() -> Any:
            raise ZeroDivisionError

        for settings in ({"error": broken}, {"latency": broken}, {"result": broken}):
            with pytest.raises(ZeroDivisionError):
                chaos(registry=registry, **settings).call(body)
        with pytest.raises(ZeroDivisionError):
            chaos(error=KeyError, enabled=broken, registry=registry).call(body)


class TestResults:
    def test_an_async_function_may_answer_for_an_async_one(self, body: Body, registry: Registry) -> None:
        async def answer() -> str:
            return "theirs"

        policy = chaos(result=answer, registry=registry)
        assert asyncio.run(policy.call_async(body.later)) == "theirs"
        assert trio.run(partial(policy.call_async, body.later)) == "theirs"

    def test_an_async_function_can_not_answer_for_a_plain_one(self, body: Body, registry: Registry) -> None:
        async def answer() -> str:
            return "theirs"

        with pytest.raises(TypeError, match="answer is async, but the guarded function is not"):
            chaos(result=answer, registry=registry)(body.__call__)
        with pytest.raises(TypeError, match="is async, but the guarded function is not"):
            pipeline(
                fallback(default=None, registry=registry),
                chaos(result=lambda: answer(), registry=registry),
                registry=registry,
            ).call(body)
        gc.collect()  # a coroutine that was never awaited would warn

    def test_a_value_is_handed_out_as_it_is(self, body: Body, registry: Registry) -> None:
        async def main() -> None:
            waiting: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            assert await chaos(result=waiting, registry=registry).call_async(body.later) is waiting  # type: ignore[comparison-overlap]

        asyncio.run(main())

    def test_an_exception_is_a_result_like_any_other(self, body: Body, registry: Registry) -> None:
        error = ValueError()
        assert chaos(result=error, registry=registry).call(body) is error  # type: ignore[comparison-overlap]


class TestLatency:
    @pytest.mark.parametrize(
        "given, waits",
        [
            (timedelta(seconds=2), [2.0, 2.0]),
            ((2, timedelta(seconds=2)), [2.0, 2.0]),
            (lambda: 2, [2.0, 2.0]),
            (lambda: timedelta(seconds=2), [2.0, 2.0]),
            (0, []),
            (lambda: 0, []),
        ],
    )
    def test_it_is_given_in_many_ways(
        self, given: Any, waits: list[float], body: Body, registry: Registry, clock: FakeClock
    ) -> None:
        policy = chaos(latency=given, registry=registry)
        policy.call(body)
        asyncio.run(policy.call_async(body.later))
        assert clock.sleeps == waits
        assert policy.snapshot()["faults"] == {"latency": len(waits), "error": 0, "result": 0}

    def test_a_pair_is_drawn_from_evenly(self, registry: Registry, clock: FakeClock) -> None:
        policy = chaos(latency=(1, 3), seed=4, registry=registry)
        for _ in range(2000):
            policy.call(int)
        assert 1 <= min(clock.sleeps) < 1.01
        assert 2.99 < max(clock.sleeps) <= 3
        assert mean(clock.sleeps) == pytest.approx(2, abs=0.05)

    @pytest.mark.parametrize("given", [-1, float("nan"), float("inf"), None, "1"])
    def test_what_a_function_gives_must_be_seconds(self, given: Any, body: Body, registry: Registry) -> None:
        with pytest.raises(ConfigurationError, match=r"chaos: latency=.* seconds of at least 0"):
            chaos(latency=lambda: given, registry=registry).call(body)

    @every_face
    def test_a_timeout_around_it_fires_in_time(
        self, use: Face, body: Body, registry: Registry, clock: FakeClock
    ) -> None:
        started = clock.now()
        guard = pipeline(timeout(2.0, registry=registry), chaos(latency=30, registry=registry), registry=registry)
        with pytest.raises(TimeoutExceededError):
            use(guard, body)
        assert 2.0 <= clock.now() - started < 2.1
        assert body.calls == 0

    def test_where_nothing_can_be_interrupted_the_wait_ends_just_after_the_deadline(
        self, body: Body, registry: Registry, clock: FakeClock
    ) -> None:
        guard = pipeline(
            timeout(2.0, interrupt="never", registry=registry), chaos(latency=30, registry=registry), registry=registry
        )
        with pytest.raises(TimeoutExceededError):
            guard.call(body)
        with pytest.raises(TimeoutExceededError):
            asyncio.run(guard.call_async(body.later))
        assert all(2.0 < wait < 2.1 for wait in clock.sleeps)
        assert body.calls == 2

    def test_a_wait_within_the_deadline_is_waited_in_full(
        self, body: Body, registry: Registry, clock: FakeClock
    ) -> None:
        token = shorten_deadline(clock.now() + 5)
        assert token is not None
        try:
            for seconds in (4, 30, 30):
                chaos(latency=seconds, registry=registry).call(body)
        finally:
            DEADLINE.reset(token)
        assert clock.sleeps == [4.0, pytest.approx(1.05), pytest.approx(0.05)]

    @pytest.mark.parametrize("face", [async_decorated, async_called, async_block, async_generator])
    def test_cancelled_it_ends_at_once_and_stays_cancelled(
        self, face: Callable[[Guard, Body], Any], body: Body, registry: Registry
    ) -> None:
        policy = chaos(latency=1000, registry=registry)

        async def on_asyncio() -> None:
            task = asyncio.create_task(face(policy, body))
            await asyncio.sleep(0)
            task.cancel()
            await task

        async def on_trio() -> bool:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(face, policy, body)
                    await trio.testing.wait_all_tasks_blocked()
                    scope.cancel()
            return scope.cancelled_caught

        with pytest.raises(asyncio.CancelledError):
            asyncio.run(on_asyncio())
        assert trio.run(on_trio)
        assert body.calls == 0

    def test_on_a_loop_the_plain_form_warns_once(self, body: Body, registry: Registry, clock: FakeClock) -> None:
        policy = chaos("payments", latency=1, registry=registry)

        async def main() -> None:
            with pytest.warns(RuntimeWarning, match="chaos 'payments' blocks a thread on which an event loop"):
                policy.call(body)
            policy.call(body)

        asyncio.run(main())

    def test_threads_wait_side_by_side(self, registry: Registry) -> None:
        policy = chaos(latency=lambda: at_once.wait(30) and 0.0, registry=registry)
        at_once = threading.Barrier(4)  # passed only by four that are in there together
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(lambda _: policy.call(int), range(4))) == [0] * 4
        assert not at_once.broken


class TestRateAndSeed:
    @pytest.mark.parametrize("rate", [0.0, 0.01, 0.3, 0.99, 1.0])
    def test_so_many_calls_are_hit(self, rate: float, registry: Registry) -> None:
        policy = chaos(result="theirs", rate=rate, seed=3, registry=registry)
        hits = sum(policy.call(int) == "theirs" for _ in range(5000))  # type: ignore[comparison-overlap]
        assert hits == pytest.approx(5000 * rate, abs=100)
        if rate in (0.0, 1.0):
            assert hits == 5000 * rate
        assert policy.snapshot()["calls"] == {"passed": 5000 - hits, "hit": hits}

    @staticmethod
    def hits(policy: Chaos, calls: int = 64) -> str:
        def pattern() -> Iterator[str]:
            for _ in range(calls):
                try:
                    yield "." if policy.call(int) == 0 else "x"
                except KeyError:
                    yield "x"

        return "".join(pattern())

    @pytest.mark.parametrize("seed", [0, 7, -1, "a week in March"])
    def test_a_seed_hits_the_same_calls_again(self, seed: int | str, registry: Registry) -> None:
        patterns = {self.hits(chaos(error=KeyError, rate=0.5, seed=seed, registry=registry)) for _ in range(3)}
        assert len(patterns) == 1
        assert 8 < patterns.pop().count("x") < 56

    def test_it_hits_the_same_calls_whatever_they_are_hit_by(self, registry: Registry, clock: FakeClock) -> None:
        make = partial(chaos, rate=0.5, seed=7, registry=registry)
        patterns = {
            self.hits(make(error=KeyError)),
            self.hits(make(error=[KeyError, (KeyError("other"), 2)])),
            self.hits(make(latency=(1, 2), error=KeyError)),
            self.hits(make(result=1)),
        }
        assert len(patterns) == 1

    def test_a_higher_rate_hits_the_same_calls_and_more(self, registry: Registry) -> None:
        low, high = (self.hits(chaos(error=KeyError, rate=rate, seed=7, registry=registry)) for rate in (0.2, 0.6))
        assert all(more == "x" for less, more in zip(low, high, strict=True) if less == "x")
        assert low.count("x") < high.count("x")

    def test_latencies_and_kinds_of_errors_are_the_same_again(self, registry: Registry) -> None:
        def run() -> tuple[list[float], list[type[Exception]]]:
            policy = chaos(latency=(0, 10), error=[KeyError, IndexError], seed=5, registry=registry)
            kinds: list[type[Exception]] = []
            with fake_clock() as clock:
                for _ in range(30):
                    with pytest.raises(LookupError) as info:
                        policy.call(int)
                    kinds.append(info.type)
            return clock.sleeps, kinds

        assert run() == run()
        assert len(set(run()[1])) == 2

    def test_other_seeds_and_no_seed_hit_others(self, registry: Registry) -> None:
        patterns = {
            self.hits(chaos(error=KeyError, rate=0.5, seed=seed, registry=registry)) for seed in (1, 2, "1", None, None)
        }
        assert len(patterns) == 5

    def test_without_a_seed_latencies_differ_from_policy_to_policy(self, registry: Registry, clock: FakeClock) -> None:
        for _ in range(3):
            chaos(latency=(1, 2), registry=registry).call(int)
        assert len(set(clock.sleeps)) == 3

    def test_it_leaves_the_programs_own_chance_alone(self, registry: Registry) -> None:
        import random

        random.seed(5)
        expected = random.random()
        random.seed(5)
        first = self.hits(chaos(error=KeyError, rate=0.5, seed=1, registry=registry))
        self.hits(chaos(error=KeyError, rate=0.5, registry=registry))
        assert random.random() == expected
        random.seed(6)
        assert self.hits(chaos(error=KeyError, rate=0.5, seed=1, registry=registry)) == first

    def test_restarted_it_begins_the_sequence_anew(self, registry: Registry) -> None:
        policy = chaos(error=KeyError, rate=0.5, seed=1, registry=registry)
        first = self.hits(policy)
        assert self.hits(policy) != first
        policy.restart()
        assert self.hits(policy) == first

    def test_forked_workers_are_not_hit_in_step_unless_they_are_meant_to(self, registry: Registry) -> None:
        by_chance = chaos(error=KeyError, rate=0.5, registry=registry)
        by_seed = chaos(error=KeyError, rate=0.5, seed=1, registry=registry)
        whole = self.hits(chaos(error=KeyError, rate=0.5, seed=1, registry=registry))
        self.hits(by_seed, 10)
        before = by_chance._dice._hits.getstate()
        for policy in (by_chance, by_seed):
            policy.after_fork(0.0)  # what a fork does in its child
        assert by_chance._dice._hits.getstate() != before
        assert self.hits(by_seed, 54) == whole[10:]

    def test_calls_are_counted_exactly_from_many_threads(self, registry: Registry) -> None:
        policy = chaos(result=1, rate=0.5, seed=1, registry=registry)
        with ThreadPoolExecutor(8) as pool:
            hits = sum(pool.map(lambda _: policy.call(int), range(4000)))
        assert policy.snapshot()["calls"] == {"passed": 4000 - hits, "hit": hits}
        assert policy.snapshot()["faults"] == {"latency": 0, "error": 0, "result": hits}


class TestEnabled:
    def test_it_can_be_switched_at_any_time(self, body: Body, registry: Registry) -> None:
        policy = chaos(error=KeyError, enabled=False, registry=registry)
        guarded = policy(body)
        assert guarded() == "mine"
        policy.enabled = True
        assert policy.enabled
        with pytest.raises(KeyError):
            guarded()
        policy.enabled = False
        assert not policy.enabled
        assert guarded() == "mine"
        assert policy.snapshot()["calls"] == {"passed": 2, "hit": 1}

    def test_a_function_is_asked_at_each_call(self, body: Body, registry: Registry) -> None:
        answers = iter([True, False, 1, ""])
        policy = chaos(error=KeyError, enabled=lambda: next(answers), registry=registry)
        for expected in (True, False, True, False):
            if expected:
                with pytest.raises(KeyError):
                    policy.call(body)
            else:
                assert policy.call(body) == "mine"

    def test_a_snapshot_asks_nobody(self, registry: Registry) -> None:
        policy = chaos(error=KeyError, rate=0.5, enabled=lambda: 1 / 0, registry=registry)
        assert policy.snapshot() == {
            "enabled": "function",
            "rate": 0.5,
            "calls": {"passed": 0, "hit": 0},
            "faults": {"latency": 0, "error": 0, "result": 0},
        }
        policy.enabled = False
        assert policy.snapshot()["enabled"] is False

    def test_switched_off_it_draws_nothing(self, registry: Registry) -> None:
        policy = chaos(error=KeyError, rate=0.5, seed=1, registry=registry)
        whole = TestRateAndSeed.hits(policy)
        policy.restart()
        policy.enabled = False
        TestRateAndSeed.hits(policy)
        policy.enabled = True
        assert TestRateAndSeed.hits(policy) == whole

    @pytest.mark.parametrize("value", [1, None, "yes"])
    def test_it_is_set_to_nothing_else(self, value: Any, registry: Registry) -> None:
        policy = chaos("payments", error=KeyError, registry=registry)
        with pytest.raises(ConfigurationError, match="chaos 'payments': enabled="):
            policy.enabled = value
        assert policy.enabled


class TestEvents:
    def test_each_fault_tells_before_it_happens(self, body: Body, registry: Registry, clock: FakeClock) -> None:
        policy = chaos("storm", latency=2, error=ConnectionError("secret"), registry=registry)
        told: list[tuple[Any, ...]] = []
        policy.subscribe(lambda event: told.append((event, clock.now(), body.calls)))
        started = clock.now()
        with pytest.raises(ConnectionError):
            policy(body)()
        (first, first_at, _), (second, second_at, _) = told
        assert (first.kind, first.policy_kind, first.policy) == ("fault_injected", "chaos", "storm")
        assert first.data == {"fault": "latency", "delay": 2.0, "error": None}
        assert second.data == {"fault": "error", "delay": None, "error": "ConnectionError"}
        assert (first_at - started, second_at - started) == (0.0, 2.0)
        assert first.operation == second.operation
        assert first.operation is not None

    def test_a_result_tells_nothing_about_itself(self, body: Body, registry: Registry) -> None:
        policy = chaos("storm", result="secret", registry=registry)
        told: list[Any] = []
        policy.subscribe(told.append)
        policy.call(body)
        assert [event.data for event in told] == [{"fault": "result", "delay": None, "error": None}]

    def test_a_call_that_passes_tells_nothing(self, body: Body, registry: Registry) -> None:
        policy = chaos(error=KeyError, rate=0, registry=registry)
        told: list[Any] = []
        policy.subscribe(told.append)
        policy.call(body)
        assert told == []


async def answer_async() -> int:
    return 1


class NeedsArguments(Exception):
    def __init__(self, first: int, second: int) -> None:
        super().__init__(first)


class Uncopyable(Exception):
    def __copy__(self) -> Exception:
        return self


class TestSettings:
    @pytest.mark.parametrize(
        "settings, setting",
        [
            *(({"latency": value}, "latency") for value in (-1, float("nan"), float("inf"), "1", True, [1, 2])),
            *(
                ({"latency": value}, "latency")
                for value in ((1,), (1, 2, 3), (2, 1), (-1, 1), ("a", "b"), answer_async)
            ),
            *(({"error": value}, "error") for value in (3, "ConnectionError", int, KeyboardInterrupt, SystemExit())),
            *(({"error": value}, "error") for value in (NeedsArguments, Uncopyable(), answer_async, [], ())),
            *(({"error": [value]}, "error") for value in (3, (KeyError, 0), (KeyError, -1), (KeyError, True), ())),
            ({"error": (KeyError, 3)}, "error"),
            *(({"error": KeyError, "rate": value}, "rate") for value in (-0.1, 1.1, float("nan"), True, "0.5", None)),
            *(({"error": KeyError, "enabled": value}, "enabled") for value in (1, None, "on", answer_async)),
            *(({"error": KeyError, "seed": value}, "seed") for value in (1.5, True, b"x", [1])),
            ({"error": KeyError, "registry": {}}, "registry"),
            ({"error": KeyError, "name": ""}, "name"),
            ({"error": KeyError, "name": 3}, "name"),
            ({"error": KeyError, "result": None}, "error and result"),
            ({}, "latency, error and result"),
            ({"rate": 0.5}, "latency, error and result"),
        ],
    )
    def test_a_wrong_one_is_refused_when_the_policy_is_made(self, settings: dict[str, Any], setting: str) -> None:
        with pytest.raises(ConfigurationError, match=r"^chaos: ") as info:
            chaos(**settings)
        assert info.value.setting == setting

    def test_the_same_name_is_the_same_policy(self, registry: Registry) -> None:
        def make() -> Chaos:
            return chaos(
                "storm",
                latency=(1, 2.0),
                error=[(ConnectionError("reset"), 2), KeyError, lambda: KeyError()],
                seed=1,
                registry=registry,
            )

        assert make() is make()
        assert registry.find(Chaos, "storm") is make()
        assert registry.snapshot()["chaos"]["storm"] == make().snapshot()

    @pytest.mark.parametrize(
        "other",
        [
            {"error": KeyError("a"), "rate": 0.5},
            {"error": KeyError("b")},
            {"error": IndexError("a")},
            {"error": KeyError},
            {"error": [KeyError("a"), KeyError("a")]},
            {"error": KeyError("a"), "seed": 1},
            {"error": KeyError("a"), "latency": 1},
            {"result": 1},
        ],
    )
    def test_other_settings_under_the_same_name_are_refused(self, other: dict[str, Any], registry: Registry) -> None:
        chaos("storm", error=KeyError("a"), registry=registry)
        with pytest.raises(ConfigurationError, match="already registered with other settings"):
            chaos("storm", registry=registry, **other)

    def test_what_was_switched_by_hand_outlives_the_same_settings_given_again(
        self, body: Body, registry: Registry
    ) -> None:
        policy = chaos("storm", error=KeyError, registry=registry)
        policy.enabled = False
        assert not chaos("storm", error=KeyError, registry=registry).enabled

    def test_one_that_takes_the_place_of_another_counts_on(self, body: Body, registry: Registry) -> None:
        for _ in range(2):
            with pytest.raises(KeyError):
                chaos(error=KeyError, registry=registry)(body.__call__)()
        [policy] = registry.all(Chaos)
        assert policy.snapshot()["calls"] == {"passed": 0, "hit": 2}

    def test_the_newer_of_two_functions_is_asked(self, body: Body, registry: Registry) -> None:
        def make(answer: bool) -> Chaos:
            return chaos("storm", error=KeyError, enabled=lambda: answer, registry=registry)

        policy = make(True)
        make(False)
        assert policy.call(body) == "mine"

    def test_it_shows_its_settings(self, registry: Registry) -> None:
        policy = chaos("storm", latency=1, error=[(KeyError, 2), IndexError], rate=0.5, seed=1, registry=registry)
        assert repr(policy) == "<Chaos storm>"
        assert {key: repr(value) for key, value in policy.settings.items()} == {
            "latency": "(1.0, 1.0)",
            "error": "[(<class 'KeyError'>, 2.0), (<class 'IndexError'>, 1.0)]",
            "result": "not given",
            "rate": "0.5",
            "enabled": "True",
            "seed": "1",
        }
        assert repr(chaos(error=KeyError, registry=registry).settings["error"]) == "<class 'KeyError'>"


def test_the_package_does_not_load_it_by_itself() -> None:
    import subprocess
    import sys

    code = "import sys, resilient; print([name for name in sys.modules if name.startswith('resilient.chaos')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
