"""The faces of a policy that replaces results: decorator and call, on a thread, on asyncio and on trio."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import trio

from resilient.drivers import tasks
from resilient.pipeline import Faces

Backend = Literal["thread", "asyncio", "trio"]


class Face(NamedTuple):
    """One way to call a function through a policy. The body is written as a plain function in all of them."""

    backend: Backend
    form: Literal["decorator", "call"]

    def __str__(self) -> str:
        return f"{self.backend} {self.form}"

    def guard(self, policy: Faces, body: Callable[..., Any]) -> Callable[..., Any]:
        """A plain function that calls the body through the policy and gives back what came out."""
        if self.backend == "thread":
            return policy(body) if self.form == "decorator" else partial(policy.call, body)
        body = as_async(body)
        guarded = policy(body) if self.form == "decorator" else partial(policy.call_async, body)
        return lambda *args, **kwargs: run(self.backend, partial(guarded, *args, **kwargs))


FACES = [Face(backend, form) for backend in ("thread", "asyncio", "trio") for form in ("decorator", "call")]


def as_async(body: Callable[..., Any]) -> Callable[..., Any]:
    async def with_a_step(*args: Any, **kwargs: Any) -> Any:
        await tasks.sleep(0)
        return body(*args, **kwargs)

    return with_a_step


def run(backend: str, main: Callable[[], Awaitable[Any]]) -> Any:
    async def awaited() -> Any:
        return await main()

    return trio.run(awaited) if backend == "trio" else asyncio.run(awaited())


def cancel_at_every_step(backend: str, main: Callable[[], Awaitable[Any]], check: Callable[[], object]) -> int:
    """Run `main` again and again, cancelled one step later each time, until it gets through; `check` after each.

    Tells how often it was cancelled.
    """
    step = 0
    while True:
        if run(backend, partial(_cancelled_after, backend, main, step)):
            check()
            return step
        check()
        step += 1
        assert step < 100


async def _cancelled_after(backend: str, main: Callable[[], Awaitable[Any]], steps: int) -> bool:
    if backend == "trio":
        finished = False

        async def body() -> None:
            nonlocal finished
            await main()
            finished = True

        async with trio.open_nursery() as nursery:
            nursery.start_soon(body)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        return finished
    task = asyncio.ensure_future(main())
    for _ in range(steps):
        await asyncio.sleep(0)
    if task.done():
        task.result()
        return True
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return False
    return True
