"""Spans of generators: current in their own steps and their clean-up, and never in the code that iterates."""

from __future__ import annotations

import gc
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Iterator

import pytest
from opentelemetry import trace

from resilient import Registry, TimeoutExceededError, circuit_breaker, pipeline, timeout
from resilient.testing import FakeClock
from tests.behaviour.kit import Asyncio, Backend, Threads, Trio
from tests.telemetry.spans_kit import Seen, Tree, recording

PATIENCE = 20.0
TASKS: list[Backend] = [Asyncio(), Trio()]

over_all = pytest.mark.parametrize("loop", [Threads(), *TASKS], ids=lambda loop: loop.name)
over_tasks = pytest.mark.parametrize("loop", TASKS, ids=lambda loop: loop.name)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    with recording(monkeypatch) as seen:
        yield seen


@pytest.fixture
def registry() -> Registry:
    return Registry()


def current() -> str | None:
    return getattr(trace.get_current_span(), "name", None)


def guarded_steps(seen: Seen, registry: Registry) -> Callable[[], Generator[int, None, None]]:
    @pipeline("pay", circuit_breaker(registry=registry), registry=registry)
    def steps() -> Generator[int, None, None]:
        try:
            for number in range(3):
                with seen.user("step"):
                    pass
                yield number
        finally:
            with seen.user("clean-up"):
                pass

    return steps


def guarded_async_steps(seen: Seen, registry: Registry, loop: Backend) -> Callable[[], AsyncGenerator[int, None]]:
    @pipeline("pay", circuit_breaker(registry=registry), registry=registry)
    async def steps() -> AsyncGenerator[int, None]:
        try:
            for number in range(3):
                with seen.user("step"):
                    await loop.checkpoint()
                yield number
        finally:
            with seen.user("clean-up"):
                pass

    return steps


class TestGenerators:
    def test_only_its_own_steps_are_inside(self, seen: Seen, registry: Registry) -> None:
        for _ in guarded_steps(seen, registry)():
            assert current() is None
            with seen.user("consumer"):
                pass
        ours: tuple[str, Tree] = ("execute pay", [("step", []), ("step", []), ("step", []), ("clean-up", [])])
        assert sorted(seen.tree()) == [("consumer", []), ("consumer", []), ("consumer", []), ours]

    @pytest.mark.parametrize("how", ["close", "throw", "thread", "gc"])
    def test_its_clean_up_is_inside_too(self, seen: Seen, registry: Registry, how: str) -> None:
        steps = guarded_steps(seen, registry)()
        next(steps)
        if how == "close":
            steps.close()
        elif how == "throw":
            with pytest.raises(LookupError):
                steps.throw(LookupError())
        elif how == "thread":
            thread = threading.Thread(target=steps.close)
            thread.start()
            thread.join(PATIENCE)
        del steps
        gc.collect()
        assert seen.tree() == [("execute pay", [("step", []), ("clean-up", [])])]
        expected = "failure" if how == "throw" else "cancelled"
        assert seen.named("execute pay")[0]["resilience.outcome"] == expected

    @pytest.mark.parametrize("loop", [Threads(), *TASKS], ids=lambda loop: loop.name)
    def test_its_clean_up_is_inside_also_where_a_policy_ends_it(
        self, seen: Seen, registry: Registry, loop: Backend, fake_clock: FakeClock
    ) -> None:
        late = timeout(5, name="pay", interrupt="never", registry=registry)

        @late
        def steps() -> Generator[None, None, None]:
            try:
                fake_clock.advance(6)
                yield
            finally:
                with seen.user("clean-up"):
                    pass

        @late
        async def async_steps() -> AsyncGenerator[None, None]:
            try:
                fake_clock.advance(6)
                yield
            finally:
                with seen.user("clean-up"):
                    pass

        async def main() -> None:
            if loop.name == "threads":
                list(steps())
            else:
                [item async for item in async_steps()]

        with pytest.raises(TimeoutExceededError):
            loop.run(main)
        ((execute, below),) = seen.tree()
        assert (execute[:7], below) == ("execute", [("clean-up", [])])

    def test_each_step_may_run_on_another_thread(self, seen: Seen, registry: Registry) -> None:
        steps = guarded_steps(seen, registry)()
        for _ in range(4):
            thread = threading.Thread(target=next, args=(steps, None))
            thread.start()
            thread.join(PATIENCE)
        assert seen.tree() == [("execute pay", [("step", []), ("step", []), ("step", []), ("clean-up", [])])]

    @over_tasks
    def test_only_the_steps_of_an_async_one_are_inside(self, seen: Seen, registry: Registry, loop: Backend) -> None:
        async def main() -> None:
            async for _ in guarded_async_steps(seen, registry, loop)():
                assert current() is None
                with seen.user("consumer"):
                    await loop.checkpoint()

        loop.run(main)
        ours: tuple[str, Tree] = ("execute pay", [("step", []), ("step", []), ("step", []), ("clean-up", [])])
        assert sorted(seen.tree()) == [("consumer", []), ("consumer", []), ("consumer", []), ours]

    @over_tasks
    @pytest.mark.parametrize("how", ["here", "another task", "gc"])
    def test_an_async_one_may_be_closed_anywhere(self, seen: Seen, registry: Registry, loop: Backend, how: str) -> None:
        async def main() -> None:
            steps = guarded_async_steps(seen, registry, loop)()
            with seen.user("around"):
                await anext(steps)
                assert current() == "around"
                if how == "here":
                    await steps.aclose()
                elif how == "another task":
                    async with loop.group() as spawn:
                        spawn(steps.aclose)
                else:
                    del steps
                    gc.collect()
                    for _ in range(9):
                        await loop.checkpoint()
                assert current() == "around"

        if how == "gc" and loop.name == "trio":
            with pytest.warns(ResourceWarning):
                loop.run(main)
        else:
            loop.run(main)
        assert seen.tree() == [("around", [("execute pay", [("step", []), ("clean-up", [])])])]

    @over_tasks
    def test_steps_of_two_in_turn(self, seen: Seen, registry: Registry, loop: Backend) -> None:
        async def main() -> None:
            make = guarded_async_steps(seen, registry, loop)
            one, two = make(), make()
            for _ in range(3):
                await anext(one)
                await anext(two)
            await one.aclose()
            await two.aclose()

        loop.run(main)
        ours: tuple[str, Tree] = ("execute pay", [("step", []), ("step", []), ("step", []), ("clean-up", [])])
        assert seen.tree() == [ours, ours]
