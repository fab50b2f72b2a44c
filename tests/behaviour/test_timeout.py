"""Timeout over threads, asyncio and trio, through every face that it has.

`threads` is the main thread here, where a timeout interrupts; what other threads get is in tests/policies.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from resilient import Registry, TimeoutExceededError, current_deadline, timeout
from resilient.testing import FakeClock
from tests.behaviour.kit import SCOPE_FACES, Backend

every_face = pytest.mark.parametrize("face", SCOPE_FACES)


@every_face
@pytest.mark.parametrize("interrupt", ["auto", "scope", "always"])
def test_a_body_that_takes_too_long_is_ended_there_and_then(
    backend: Backend, face: str, interrupt: str, fake_clock: FakeClock, private: Registry
) -> None:
    limit = timeout(3.0, name="payments", interrupt=interrupt, registry=private)  # type: ignore[arg-type]
    reached: list[str] = []

    async def main() -> None:
        async def body() -> None:
            await backend.spend(fake_clock, 2.0)
            reached.append("before")
            await backend.spend(fake_clock, 1.0)
            reached.append("after")

        with pytest.raises(TimeoutExceededError) as caught:
            await backend.use(face, limit, body)
        assert isinstance(caught.value, TimeoutError)
        assert (caught.value.seconds, caught.value.policy) == (3.0, "payments")

    backend.run(main)
    assert reached == ["before"]
    assert limit.snapshot()["calls"] == {"completed": 0, "timed_out": 1}


@every_face
def test_a_result_in_time_is_handed_back_and_nothing_comes_after_it(
    backend: Backend, face: str, fake_clock: FakeClock, private: Registry
) -> None:
    limit = timeout(3.0, registry=private)

    async def main() -> None:
        async def body() -> str:
            await backend.spend(fake_clock, 2.9)
            return "result"

        assert await backend.use(face, limit, body) == "result"
        await backend.spend(fake_clock, 60.0)
        await backend.checkpoint()

    backend.run(main)
    assert limit.snapshot()["calls"] == {"completed": 1, "timed_out": 0}


@every_face
def test_the_bodys_own_timeout_error_is_the_bodys(
    backend: Backend, face: str, fake_clock: FakeClock, private: Registry
) -> None:
    limit = timeout(3.0, registry=private)
    own = TimeoutError("the socket's")

    async def main() -> None:
        async def body() -> None:
            raise own

        with pytest.raises(TimeoutError) as caught:
            await backend.use(face, limit, body)
        assert caught.value is own

    backend.run(main)
    assert limit.snapshot()["calls"] == {"completed": 1, "timed_out": 0}


@every_face
def test_what_the_body_raises_after_it_was_ended_passes(
    backend: Backend, face: str, fake_clock: FakeClock, private: Registry
) -> None:
    own = ValueError("while cleaning up")

    async def main() -> None:
        async def body() -> None:
            try:
                await backend.spend(fake_clock, 9.0)
            finally:
                raise own

        with pytest.raises(ValueError, match="cleaning") as caught:
            await backend.use(face, timeout(3.0, registry=private), body)
        assert caught.value is own

    backend.run(main)


@every_face
def test_no_except_exception_of_the_body_swallows_it(
    backend: Backend, face: str, fake_clock: FakeClock, private: Registry
) -> None:
    async def main() -> None:
        async def body() -> None:
            try:
                await backend.spend(fake_clock, 9.0)
            except Exception:
                raise AssertionError("caught as an Exception") from None

        with pytest.raises(TimeoutExceededError):
            await backend.use(face, timeout(3.0, registry=private), body)

    backend.run(main)


@every_face
def test_with_never_the_body_runs_on_and_its_late_result_is_not_used(
    backend: Backend, face: str, fake_clock: FakeClock, private: Registry
) -> None:
    limit = timeout(3.0, interrupt="never", registry=private)
    reached: list[str] = []

    async def main() -> None:
        async def body() -> str:
            deadline = current_deadline()
            assert deadline is not None
            await backend.spend(fake_clock, 3.0)
            assert deadline.expired
            reached.append("the end")
            return "late"

        with pytest.raises(TimeoutExceededError):
            await backend.use(face, limit, body)

    backend.run(main)
    assert reached == ["the end"]
    assert limit.snapshot()["calls"] == {"completed": 0, "timed_out": 1}


@every_face
def test_the_deadline_is_there_inside_and_gone_outside(
    backend: Backend, face: str, fake_clock: FakeClock, private: Registry
) -> None:
    async def main() -> None:
        async def body() -> None:
            deadline = current_deadline()
            assert deadline is not None
            assert deadline.remaining() == 3.0
            await backend.spend(fake_clock, 1.0)
            assert deadline.remaining() == 2.0

        assert current_deadline() is None
        await backend.use(face, timeout(3.0, registry=private), body)
        assert current_deadline() is None

    backend.run(main)


@every_face
@pytest.mark.parametrize("outer, inner, first", [(5.0, 3.0, 3.0), (3.0, 5.0, 3.0), (3.0, 3.0, 3.0)])
def test_an_inner_timeout_can_only_shorten_the_deadline(
    backend: Backend, face: str, outer: float, inner: float, first: float, fake_clock: FakeClock, private: Registry
) -> None:
    around = timeout(outer, name="outer", registry=private)
    within = timeout(inner, name="inner", registry=private)

    async def main() -> None:
        async def body() -> None:
            deadline = current_deadline()
            assert deadline is not None
            assert deadline.remaining() == first
            while True:
                await backend.spend(fake_clock, 0.5)

        async def nested() -> None:
            await backend.use(face, within, body)

        with pytest.raises(TimeoutExceededError) as caught:
            await backend.use(face, around, nested)
        assert caught.value.seconds == first
        assert current_deadline() is None

    backend.run(main)


@every_face
def test_the_outer_of_two_that_are_due_raises_and_the_inner_does_not_count(
    backend: Backend, face: str, fake_clock: FakeClock, private: Registry
) -> None:
    around = timeout(3.0, name="outer", registry=private)
    within = timeout(5.0, name="inner", registry=private)

    async def main() -> None:
        async def nested() -> None:
            with pytest.raises(BaseException) as caught:  # noqa: PT011
                await backend.use(face, within, backend.spend, fake_clock, 4.0)
            assert not isinstance(caught.value, Exception)
            raise caught.value

        with pytest.raises(TimeoutExceededError) as caught:
            await backend.use(face, around, nested)
        assert caught.value.policy == "outer"

    backend.run(main)
    assert within.snapshot()["calls"] == {"completed": 1, "timed_out": 0}
    assert around.snapshot()["calls"] == {"completed": 0, "timed_out": 1}


def test_a_generator_whose_consumer_lets_time_run_out_raises_at_its_next_step(
    backend: Backend, fake_clock: FakeClock, private: Registry
) -> None:
    limit = timeout(3.0, registry=private)
    cleaned_up: list[str] = []

    async def main() -> None:
        if backend.name == "threads":

            @limit
            def numbers() -> Iterator[int]:
                try:
                    yield from (1, 2, 3)
                finally:
                    cleaned_up.append("yes")

            steps = numbers()
            assert next(steps) == 1
            fake_clock.advance(5.0)  # the consumer's own code, which no timeout of the generator may end
            with pytest.raises(TimeoutExceededError):
                next(steps)
            return

        @limit
        async def more_numbers() -> AsyncIterator[int]:
            try:
                for number in (1, 2, 3):
                    yield number
            finally:
                cleaned_up.append("yes")

        async_steps = more_numbers()
        assert await anext(async_steps) == 1
        await backend.spend(fake_clock, 5.0)
        with pytest.raises(TimeoutExceededError):
            await anext(async_steps)

    backend.run(main)
    assert cleaned_up == ["yes"]
    assert limit.snapshot()["calls"] == {"completed": 0, "timed_out": 1}


@pytest.mark.parametrize("face", ["decorated", "called", "block"])
def test_a_result_that_is_there_before_the_cancellation_wins(
    loop: Backend, face: str, fake_clock: FakeClock, private: Registry
) -> None:
    limit = timeout(3.0, registry=private)

    async def main() -> None:
        async def body() -> str:
            fake_clock.advance(9.0)
            return "result"

        assert await loop.use(face, limit, body) == "result"
        for _ in range(3):
            await loop.checkpoint()

    loop.run(main)
    assert limit.snapshot()["calls"] == {"completed": 1, "timed_out": 0}
