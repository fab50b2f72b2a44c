"""Cancelling a task at each of its suspension points in turn."""

from __future__ import annotations

import asyncio
import itertools
import types
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import Any

import trio

from tests.behaviour.kit import Backend


@dataclass(frozen=True)
class Run:
    """How a run ended: with a result, with an error, or cancelled; and how often it suspended."""

    steps: int
    cancelled: bool = False
    result: object = None
    error: Exception | None = None


@types.coroutine
def _stepped(body: Coroutine[Any, Any, Any], suspended: Callable[[int], object]) -> Generator[Any, Any, Any]:
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


async def cancelled_at(
    loop: Backend,
    point: int | None,
    body: Coroutine[Any, Any, Any],
    before: Callable[[], object] = lambda: None,
    after: Callable[[], object] = lambda: None,
) -> Run:
    """Run `body`, and ask for its cancellation as it suspends for the `point`-th time; 0: before it begins.

    `before` and `after` are called at the same instant, before and after the cancellation is asked for. Fails if the
    count of cancellations that asyncio keeps for the task is not as it was.
    """
    steps = 0
    run = _on_asyncio if loop.name == "asyncio" else _on_trio

    def cancel_at(cancel: Callable[[], object]) -> Callable[[int], None]:
        def suspended(step: int) -> None:
            nonlocal steps
            steps = step
            if step == point:
                before()
                cancel()
                after()

        return suspended

    async def stepped(cancel: Callable[[], object]) -> Any:
        suspended = cancel_at(cancel)
        if point == 0:
            suspended(0)
        return await _stepped(body, suspended)

    try:
        cancelled, result = await run(stepped)
    except Exception as error:
        return Run(steps, error=error)
    return Run(steps, cancelled, result)


async def _on_asyncio(stepped: Callable[[Callable[[], object]], Coroutine[Any, Any, Any]]) -> tuple[bool, object]:
    task = asyncio.current_task()
    assert task is not None
    asked = 0

    def cancel() -> None:
        nonlocal asked
        asked += 1
        task.cancel()

    try:
        return False, await stepped(cancel)
    except asyncio.CancelledError:
        assert asked, "cancelled, but not by the test"
        return True, None
    finally:
        assert task.cancelling() == asked
        for _ in range(asked):
            task.uncancel()


async def _on_trio(stepped: Callable[[Callable[[], object]], Coroutine[Any, Any, Any]]) -> tuple[bool, object]:
    result: object = None
    with trio.CancelScope() as scope:
        result = await stepped(scope.cancel)
    return scope.cancelled_caught, result
