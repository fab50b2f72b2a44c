"""Hedged async functions: cancellation, and who is left running."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import random
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import pytest
import trio
import trio.testing

from resilient import Hedge, Registry, hedge, percentile, pipeline, timeout
from resilient.core.clock import CLOCK
from resilient.testing import record_events
from tests.drivers.vloop import run as run_virtual
from tests.policies.hedge_kit import LOOPS, Attempts, Backend, raising, returning

SCHEDULES = int(os.environ.get("RESILIENT_FUZZ_PROGRAMS", "2000"))


@pytest.fixture(params=LOOPS, ids=str)
def loop(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def registry() -> Registry:
    return Registry()


def results(policy: Hedge, what: str) -> dict[str, int]:
    counts: Any = policy.snapshot()[what]
    return {result: count for result, count in counts.items() if count}


@types.coroutine
def stepped(body: Coroutine[Any, Any, Any], suspended: Callable[[int], object]) -> Generator[Any, Any, Any]:
    """Await `body`, and call `suspended` with the number of each suspension, just before it takes place."""
    resume: Callable[[Any], Any] = body.send
    argument: Any = None
    for step in itertools.count(1):
        try:
            signal = resume(argument)
        except StopIteration as stop:
            return stop.value
        suspended(step)
        try:
            argument = yield signal
            resume = body.send
        except BaseException as error:
            resume, argument = body.throw, error


def cancelled_at(loop: Backend, point: int, make: Callable[[], Coroutine[Any, Any, Any]]) -> tuple[bool, int]:
    """Run the coroutine, and cancel its task as it suspends for the `point`-th time: was it, and how many points?"""
    steps = 0

    async def main() -> bool:
        def cancel_at(cancel: Callable[[], object]) -> Callable[[int], None]:
            def suspended(step: int) -> None:
                nonlocal steps
                steps = step
                if step == point:
                    cancel()

            return suspended

        if loop.name == "trio":
            with trio.CancelScope() as scope:
                await stepped(make(), cancel_at(scope.cancel))
            return scope.cancelled_caught
        task = asyncio.current_task()
        assert task is not None
        try:
            await stepped(make(), cancel_at(task.cancel))
        except asyncio.CancelledError:
            assert task.cancelling() == 1
            task.uncancel()
            return True
        assert task.cancelling() == (1 if steps == point else 0)
        return False

    cancelled: bool = loop.run(main)
    return cancelled, steps


@pytest.mark.parametrize("scene", ["first wins", "hedge wins", "all fail", "warming up", "within a timeout"])
def test_a_cancellation_at_any_await_point_passes_and_nothing_runs_on(
    loop: Backend, scene: str, registry: Registry
) -> None:
    delay: Any = percentile(0.9, warmup=1000) if scene == "warming up" else 0
    policy = hedge(delay=delay, max_hedges=2, registry=registry)
    guard = pipeline(timeout(60, registry=registry), policy, registry=registry) if "timeout" in scene else policy
    bodies: list[Attempts] = []

    async def a_while() -> None:
        for _ in range(3):
            await loop.checkpoint()

    async def late() -> None:
        try:
            await a_while()
            await loop.event().wait()
        finally:
            if loop.name == "asyncio":  # trio allows no await in here without a shield
                await a_while()

    async def fail() -> None:
        await a_while()
        raise ConnectionError

    async def call() -> None:
        plans = {
            "first wins": [a_while, late, late],
            "all fail": [fail, fail, fail],
            "warming up": [a_while],
        }
        bodies.append(Attempts(*plans.get(scene, [late, late, a_while])))
        try:
            await loop.guard(guard, bodies[-1])()
        except ConnectionError:
            assert scene == "all fail"
        finally:
            assert bodies[-1].running == 0

    cancelled = 0
    with record_events(policy=policy, kinds="hedge_started") as events:
        for point in itertools.count(1):
            was_cancelled, steps = cancelled_at(loop, point, call)
            cancelled += was_cancelled
            if steps < point:
                break
    # In trio leaving a race is no point at which a cancellation arrives.
    assert cancelled >= (point - 1 if loop.name == "asyncio" else 1)
    assert point > 2
    calls, attempts = results(policy, "calls"), results(policy, "attempts")
    assert sum(calls.values()) == len(bodies) - cancelled
    # Every attempt counts, also one that was cancelled before its first step.
    assert sum(attempts.values()) == len(bodies) + len(events)


def test_the_losers_are_awaited_with_their_cleanup(loop: Backend, registry: Registry) -> None:
    policy = hedge(delay=0, registry=registry)
    cleaned: list[str] = []

    async def late() -> None:
        try:
            await loop.event().wait()
        finally:
            if loop.name == "trio":
                with trio.CancelScope(shield=True):
                    await trio.sleep(0.01)
            else:
                await asyncio.sleep(0.01)
            cleaned.append("loser")

    async def main() -> None:
        assert await loop.guard(policy, Attempts(late, returning("hedge")))() == "hedge"
        assert cleaned == ["loser"]

    loop.run(main)


def test_what_a_loser_raises_in_its_cleanup_is_dropped(loop: Backend, registry: Registry) -> None:
    policy = hedge(delay=0, registry=registry)

    async def late() -> None:
        try:
            await loop.event().wait()
        finally:
            raise KeyboardInterrupt("out of the cleanup")

    async def main() -> None:
        assert await loop.guard(policy, Attempts(late, returning("hedge")))() == "hedge"

    loop.run(main)


def test_the_losers_leave_no_task_and_no_complaint_of_the_loop(registry: Registry) -> None:
    policy = hedge(delay=0, max_hedges=3, registry=registry)
    complaints: list[object] = []

    async def late() -> None:
        await asyncio.sleep(60)

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        for kind in (ConnectionError, KeyboardInterrupt, SystemExit):
            with pytest.raises(kind):
                await policy.call_async(
                    Attempts(late, late, late, raising(kind()))
                    if kind is not ConnectionError
                    else Attempts(*[raising(kind())] * 4)
                )
        assert len(asyncio.all_tasks()) == 1
        assert [timer for timer in asyncio.get_running_loop()._scheduled if not timer.cancelled()] == []  # type: ignore[attr-defined]

    asyncio.run(main())
    gc.collect()
    assert complaints == []


def test_a_cancelled_error_that_the_body_raises_by_itself_passes(registry: Registry) -> None:
    policy = hedge(delay=60, max_hedges=3, registry=registry)
    error = asyncio.CancelledError("by itself")

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        with pytest.raises(asyncio.CancelledError) as caught:
            await policy.call_async(raising(error))
        assert caught.value is error
        assert task.cancelling() == 0

    asyncio.run(main())
    assert results(policy, "attempts") == {"cancelled": 1}


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_an_attempt_that_somebody_else_cancels_ends_the_call(steps: int, registry: Registry) -> None:
    policy = hedge(delay=60, registry=registry)

    async def main() -> None:
        me = asyncio.current_task()
        call = asyncio.ensure_future(policy.call_async(asyncio.sleep, 60))
        attempts: set[Any] = set()
        while not attempts:
            await asyncio.sleep(0)
            attempts = asyncio.all_tasks() - {me, call}
        for _ in range(steps):
            await asyncio.sleep(0)
        attempts.pop().cancel()
        await asyncio.wait([call], timeout=5)
        assert call.cancelled()

    asyncio.run(main())


def test_a_cancellation_while_the_losers_are_awaited_is_not_lost(registry: Registry) -> None:
    policy = hedge(delay=0, registry=registry)
    cleaning = asyncio.Event()
    ends: list[str] = []

    async def late() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cleaning.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                ends.append("cleanup cancelled, too")
                raise

    async def main() -> None:
        call = asyncio.ensure_future(policy.call_async(Attempts(late, returning("won"))))
        await cleaning.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert call.cancelled()

    asyncio.run(main())
    assert ends == ["cleanup cancelled, too"]
    assert results(policy, "calls") == {}
    assert results(policy, "attempts") == {"cancelled": 2}


def test_a_timeout_of_asyncio_around_the_call_is_told_from_other_cancellations(registry: Registry) -> None:
    policy = hedge(delay=1, registry=registry)

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await policy.call_async(asyncio.sleep, 60)
        assert task.cancelling() == 0
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(policy.call_async(asyncio.sleep, 60), 0.5)

    run_virtual(main())


def test_a_coroutine_that_is_closed_ends_without_awaiting(registry: Registry) -> None:
    policy = hedge(delay=60, registry=registry)
    body = Attempts(lambda: asyncio.sleep(60))

    async def main() -> None:
        call = policy.call_async(body)
        call.send(None)
        await asyncio.sleep(0)
        assert body.running == 1
        call.close()
        while body.running:
            await asyncio.sleep(0)

    asyncio.run(main())
    assert results(policy, "calls") == {}
    assert results(policy, "attempts") == {"cancelled": 1}


def test_a_call_that_outlives_its_loop_ends_in_silence(registry: Registry) -> None:
    policy = hedge(delay=60, registry=registry)
    loop = asyncio.new_event_loop()
    task = loop.create_task(policy.call_async(asyncio.sleep, 60))
    for _ in range(3):
        loop.run_until_complete(asyncio.sleep(0))
    call = task.get_coro()
    assert isinstance(call, Coroutine)
    loop.close()
    call.close()
    for attempt in list(asyncio.all_tasks(loop)):
        attempt._log_destroy_pending = False  # type: ignore[attr-defined]


def test_keyboard_interrupt_of_the_program_cancels_the_call(registry: Registry) -> None:
    """Ctrl-C on asyncio: the runner cancels the main task, and raises in its place."""
    import signal

    policy = hedge(delay=60, registry=registry)
    ended: list[str] = []

    async def body() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
            await asyncio.sleep(60)
        finally:
            ended.append("body")

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(policy.call_async(body))
    assert ended == ["body"]


@pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="tasks begin at once from Python 3.12 on")
def test_tasks_that_begin_at_once_are_no_trouble(registry: Registry) -> None:
    policy = hedge(delay=60, registry=registry)

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined, unused-ignore]
        assert await policy.call_async(Attempts(raising(ConnectionError()), returning(2))) == 2

    asyncio.run(main())


Plan = tuple[float, float, float, bool, bool, float | None]


def random_plan(seed: int) -> Plan:
    """Delay, how long the first and the second attempt take, whether they fail, and when the caller is cancelled."""
    rng = random.Random(seed)
    delay, first, second = (round(rng.uniform(0.1, 5), 4), round(rng.uniform(0, 10), 4), round(rng.uniform(0, 10), 4))
    cancelled = round(rng.uniform(0, 12), 4) if rng.random() < 0.4 else None
    return delay, first, second, rng.random() < 0.3, rng.random() < 0.3, cancelled


def expected(plan: Plan) -> tuple[str, float]:
    """What must come of it, and when."""
    delay, first, second, first_fails, second_fails, cancelled = plan
    second_from = min(delay, first) if first_fails else delay
    ends = [(first, "first")] if not first_fails else []
    if first > delay or first_fails:
        ends += [(second_from + second, "second")] if not second_fails else []
        end, what = min(ends) if ends else max((first, "first fails"), (second_from + second, "second fails"))
    else:
        end, what = ends[0]
    return ("cancelled", cancelled) if cancelled is not None and cancelled < end else (what, end)


def outcome_of(plan: Plan, sleep: Callable[[float], Any]) -> tuple[Callable[[], Any], Callable[[], int]]:
    delay, *takes, first_fails, second_fails, _ = plan
    turns = iter([(takes[0], first_fails, "first"), (takes[1], second_fails, "second")])
    running = 0

    async def body() -> str:
        nonlocal running
        seconds, fails, name = next(turns)
        running += 1
        try:
            await sleep(seconds)
            if fails:
                raise ValueError(f"{name} fails")
            return name
        finally:
            running -= 1

    guarded = hedge(delay=delay, registry=Registry())(body)

    async def call() -> str:
        try:
            return await guarded()
        except ValueError as error:
            return str(error)

    return call, lambda: running


def test_random_schedules_end_as_they_must_on_asyncio(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(SCHEDULES // 2):
        plan = random_plan(seed)

        async def main(plan: Plan = plan) -> tuple[Any, ...]:
            loop = asyncio.get_running_loop()
            monkeypatch.setattr(CLOCK, "now", loop.time)
            call, running = outcome_of(plan, asyncio.sleep)
            task = loop.create_task(call())
            if plan[-1] is not None:
                loop.call_at(plan[-1], task.cancel)
            try:
                what = await task
            except asyncio.CancelledError:
                what = "cancelled"
            ended = loop.time()
            left = running()
            await asyncio.sleep(30)
            return what, pytest.approx(ended), left, running(), len(asyncio.all_tasks()), task.cancelling()

        what, end = expected(plan)
        assert run_virtual(main()) == (what, end, 0, 0, 1, int(what == "cancelled")), (seed, plan)


def test_random_schedules_end_as_they_must_on_trio(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(SCHEDULES // 4):
        plan = random_plan(seed)

        async def main(plan: Plan = plan) -> tuple[Any, ...]:
            start = trio.current_time()
            monkeypatch.setattr(CLOCK, "now", trio.current_time)
            call, running = outcome_of(plan, trio.sleep)
            what = "cancelled"
            with trio.CancelScope(deadline=float("inf") if plan[-1] is None else start + plan[-1]):
                what = await call()
            return what, pytest.approx(trio.current_time() - start), running()

        what, end = expected(plan)
        assert trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0)) == (what, end, 0), (seed, plan)
