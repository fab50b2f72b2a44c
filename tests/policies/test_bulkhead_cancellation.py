"""Calls that are cancelled, or ended by Ctrl-C, before the bulkhead, in its queue and inside it: no permit is lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import trio

from resilient import Bulkhead
from resilient.drivers.waiters import ThreadWaiter
from tests.behaviour.cancelling import cancelled_at
from tests.behaviour.kit import SCOPE_FACES, Asyncio, Backend, Trio
from tests.policies.bulkhead_kit import (
    ASYNC,
    SYNC_FACES,
    Through,
    at_rest,
    fresh,
)

LOOPS: list[Backend] = [Asyncio(), Trio()]

each_face = pytest.mark.parametrize("face", SCOPE_FACES)
on_loops = pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.name)


@on_loops
@each_face
def test_a_cancellation_at_any_await_point_of_the_body_gives_the_permit_back(loop: Backend, face: str) -> None:
    async def body() -> str:
        await loop.checkpoint()
        await loop.checkpoint()
        return "result"

    async def main() -> None:
        whole = await cancelled_at(loop, None, loop.use(face, fresh(), body))
        assert (whole.result, whole.steps >= 2) == ("result", True)
        for point in range(whole.steps + 1):
            policy = fresh(max_concurrent=1)
            run = await cancelled_at(loop, point, loop.use(face, policy, body))
            assert run.cancelled
            assert at_rest(policy)

    loop.run(main)


@on_loops
@each_face
def test_a_cancellation_in_the_queue_leaves_nobody_there(loop: Backend, face: str) -> None:
    async def main() -> None:
        for point in (0, 1):
            policy = fresh(max_concurrent=1, max_queue=1, queue_timeout=60.0)
            assert policy._permits.try_acquire()
            run = await cancelled_at(loop, point, loop.use(face, policy, loop.checkpoint))
            assert run.cancelled
            assert (policy.in_flight, policy.queued) == (1, 0)
            policy._permits.release()
            assert at_rest(policy)

    loop.run(main)


@pytest.mark.parametrize("order", ["first", "second"])
@each_face
def test_a_cancellation_on_asyncio_of_the_instant_at_which_the_permit_comes_loses_none(face: str, order: str) -> None:
    loop = Asyncio()
    policy = fresh(max_concurrent=1, max_queue=1, queue_timeout=60.0)

    async def main() -> None:
        assert policy._permits.try_acquire()
        task = asyncio.ensure_future(loop.use(face, policy, loop.checkpoint))
        while not policy.queued:
            await asyncio.sleep(0)
        for act in (task.cancel, policy._permits.release)[:: 1 if order == "first" else -1]:
            act()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert at_rest(policy)

    loop.run(main)


@pytest.mark.parametrize("order", ["first", "second"])
@each_face
def test_a_cancellation_on_trio_of_the_instant_at_which_the_permit_comes_loses_none(face: str, order: str) -> None:
    loop = Trio()
    policy = fresh(max_concurrent=1, max_queue=1, queue_timeout=60.0)

    async def main() -> None:
        assert policy._permits.try_acquire()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(loop.use, face, policy, loop.checkpoint)
            while not policy.queued:
                await trio.lowlevel.checkpoint()
            for act in (nursery.cancel_scope.cancel, policy._permits.release)[:: 1 if order == "first" else -1]:
                act()
        assert at_rest(policy)

    loop.run(main)


# Among others that wait


async def crowd_on_asyncio(policy: Bulkhead, face: Any, victim: int, turns: int) -> bool:
    """Three calls for one permit; the victim is cancelled after so many turns of the loop. Had it ended before?"""

    async def slow() -> None:
        async with policy:
            for _ in range(3):
                await asyncio.sleep(0)

    tasks = [asyncio.create_task(slow()) for _ in range(3)]
    tasks.insert(victim, asyncio.create_task(face(policy, lambda: None)))
    for _ in range(turns):
        await asyncio.sleep(0)
    ended = tasks[victim].done()
    tasks[victim].cancel()
    await asyncio.wait(tasks)
    assert sum(task.cancelled() for task in tasks) == (not ended)
    return ended


@pytest.mark.parametrize("face", ASYNC)
def test_a_cancellation_at_any_await_of_an_asyncio_task_loses_no_permit(face: Any) -> None:
    for victim in range(4):
        turns = 0
        while True:
            policy = fresh(max_concurrent=1, max_queue=5)
            ended = asyncio.run(crowd_on_asyncio(policy, face, victim, turns))
            assert at_rest(policy)
            if ended:
                break
            turns += 1
        assert turns >= victim * 3


async def crowd_on_trio(policy: Bulkhead, face: Any, turns: int) -> bool:
    ended = False
    scope = trio.CancelScope()

    async def slow() -> None:
        async with policy:
            for _ in range(3):
                await trio.lowlevel.checkpoint()

    async def doomed() -> None:
        nonlocal ended
        with scope:
            await face(policy, lambda: None)
            await trio.lowlevel.checkpoint()
            ended = True

    async with trio.open_nursery() as nursery:
        for task in (slow, slow, doomed, slow):
            nursery.start_soon(task)
        for _ in range(turns):
            await trio.lowlevel.checkpoint()
        before = ended
        scope.cancel()
    return before


@pytest.mark.parametrize("face", ASYNC)
def test_a_cancellation_at_any_checkpoint_of_a_trio_task_loses_no_permit(face: Any) -> None:
    most = 0
    # Trio runs the tasks of one turn in random order, so the victim's place among them changes from run to run.
    for _ in range(8):
        turns = 0
        while True:
            policy = fresh(max_concurrent=1, max_queue=5)
            ended = trio.run(crowd_on_trio, policy, face, turns)
            assert at_rest(policy)
            if ended:
                break
            turns += 1
        most = max(most, turns)
    assert most >= 3


# Threads


@pytest.mark.parametrize("through", SYNC_FACES)
@pytest.mark.parametrize("comes", [False, True])
def test_ctrl_c_in_the_wait_of_a_thread_leaves_nobody_in_the_queue(
    through: Through, comes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = fresh(max_concurrent=1, max_queue=1)
    pressed = KeyboardInterrupt()

    def wait_until(self: ThreadWaiter, at: float) -> bool:
        if comes:
            policy._permits.release()
        raise pressed

    monkeypatch.setattr(ThreadWaiter, "wait_until", wait_until)
    assert policy._permits.try_acquire()
    with pytest.raises(KeyboardInterrupt) as caught:
        through(policy, lambda: None)
    assert caught.value is pressed
    assert policy.queued == 0
    if not comes:
        policy._permits.release()
    assert at_rest(policy)
