"""Cancelling a task at each of its suspension points in turn."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from contextvars import ContextVar
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


_SUSPENDED: ContextVar[Callable[[], object]] = ContextVar("suspended")


async def stepped(body: Coroutine[Any, Any, Any]) -> Any:
    """Await `body` in a task that a run has started; its suspensions count as suspensions of the run."""
    suspended = _SUSPENDED.get(None)
    return await (body if suspended is None else _stepped(body, suspended))


@types.coroutine
def _stepped(body: Coroutine[Any, Any, Any], suspended: Callable[[], object]) -> Generator[Any, Any, Any]:
    """Await `body`, and call `suspended` just before each suspension."""
    resume: Callable[[Any], Any] = body.send
    argument: Any = None
    while True:
        try:
            signal = resume(argument)
        except StopIteration as stop:
            return stop.value
        suspended()
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
    otherwise: Callable[[], object] = lambda: None,
) -> Run:
    """Run `body`, and ask for its cancellation as it suspends for the `point`-th time; 0: before it begins.

    `before` and `after` are called at the same instant, before and after the cancellation is asked for; `otherwise` at
    all other suspensions. Fails if the count of cancellations that asyncio keeps for the task is not as it was.
    """
    steps = 0
    run = _on_asyncio if loop.name == "asyncio" else _on_trio

    async def counted(cancel: Callable[[], object]) -> Any:
        def reach(step: int) -> None:
            if step == point:
                before()
                cancel()
                after()
            elif step:
                otherwise()

        def suspended() -> None:
            nonlocal steps
            steps += 1
            reach(steps)

        reach(0)
        token = _SUSPENDED.set(suspended)
        try:
            return await _stepped(body, suspended)
        finally:
            _SUSPENDED.reset(token)

    try:
        cancelled, result = await run(counted)
    except Exception as error:
        return Run(steps, error=error)
    return Run(steps, cancelled, result)


async def _on_asyncio(counted: Callable[[Callable[[], object]], Coroutine[Any, Any, Any]]) -> tuple[bool, object]:
    task = asyncio.current_task()
    assert task is not None
    asked = 0

    def cancel() -> None:
        nonlocal asked
        asked += 1
        task.cancel()

    try:
        return False, await counted(cancel)
    except asyncio.CancelledError:
        assert asked, "cancelled, but not by the test"
        return True, None
    finally:
        assert task.cancelling() == asked
        for _ in range(asked):
            task.uncancel()


async def _on_trio(counted: Callable[[Callable[[], object]], Coroutine[Any, Any, Any]]) -> tuple[bool, object]:
    result: object = None
    with trio.CancelScope() as scope:
        result = await counted(scope.cancel)
    return scope.cancelled_caught, result
