"""Timeouts that run the body on a helper thread."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context

import pytest

from resilient import (
    Registry,
    TimeoutExceededError,
    current_deadline,
    timeout,
)
from resilient.testing import FakeClock
from tests.policies.timeout_kit import PATIENCE, calls_of


class TestHelperThread:
    @contextmanager
    def body_that_runs_on(self) -> Iterator[tuple[Callable[[], str], threading.Event]]:
        """A body that ends when the test is over or sets the event."""
        end = threading.Event()

        def body() -> str:
            end.wait(PATIENCE)
            return "late"

        try:
            yield body, end
        finally:
            end.set()

    def advance_once_waiting(self, clock: FakeClock, seconds: float) -> threading.Thread:
        """Move virtual time as soon as somebody waits for it."""

        def move() -> None:
            until = time.monotonic() + PATIENCE
            while not any(timer.fire for _, _, timer in clock._timers) and time.monotonic() < until:
                time.sleep(0.0005)
            clock.advance(seconds)

        thread = threading.Thread(target=move, daemon=True)
        thread.start()
        return thread

    def wait_until(self, condition: Callable[[], bool]) -> None:
        until = time.monotonic() + PATIENCE
        while not condition() and time.monotonic() < until:
            time.sleep(0.0005)
        assert condition()

    def test_the_caller_gets_the_error_in_time_while_the_body_runs_on_and_counts(
        self, private: Registry, fake_clock: FakeClock
    ) -> None:
        limit = timeout(3.0, interrupt="thread", registry=private)
        with self.body_that_runs_on() as (body, end):
            mover = self.advance_once_waiting(fake_clock, 3.0)
            with pytest.raises(TimeoutExceededError):
                limit.call(body)
            mover.join(PATIENCE)
            assert limit.snapshot()["orphaned"] == 1
            end.set()
            self.wait_until(lambda: limit.snapshot()["orphaned"] == 0)
        assert calls_of(limit) == (0, 1)

    def test_a_result_or_error_in_time_is_handed_over(self, private: Registry, fake_clock: FakeClock) -> None:
        limit = timeout(3.0, interrupt="thread", registry=private)
        own = ValueError("own")

        def fail() -> None:
            raise own

        assert limit.call(threading.get_ident) != threading.get_ident()
        with pytest.raises(ValueError, match="own") as caught:
            limit.call(fail)
        assert caught.value is own
        assert calls_of(limit) == (2, 0)
        assert limit.snapshot()["orphaned"] == 0

    def test_the_body_sees_a_copy_of_the_context(self, private: Registry, fake_clock: FakeClock) -> None:
        request: ContextVar[str] = ContextVar("request", default="none")

        def body() -> tuple[str, float]:
            deadline = current_deadline()
            assert deadline is not None
            seen = request.get()
            request.set("changed in the body")
            return seen, deadline.remaining()

        def call() -> None:
            request.set("number 1")
            assert timeout(3.0, interrupt="thread", registry=private).call(body) == ("number 1", 3.0)
            assert request.get() == "number 1"
            assert current_deadline() is None

        copy_context().run(call)

    def test_what_ends_the_wait_leaves_the_body_an_orphan(self, private: Registry, fake_clock: FakeClock) -> None:
        inner = timeout(30.0, name="inner", interrupt="thread", registry=private)
        outer = timeout(3.0, name="outer", interrupt="thread", registry=private)
        with self.body_that_runs_on() as (body, end):
            self.advance_once_waiting(fake_clock, 3.0)
            with pytest.raises(TimeoutExceededError) as caught:
                outer.call(inner.call, body)
            assert caught.value.policy == "outer"
            assert outer.snapshot()["orphaned"] == 1
            end.set()
            self.wait_until(lambda: outer.snapshot()["orphaned"] == 0)
        self.wait_until(lambda: calls_of(inner) == (1, 0))

    def test_an_interrupt_of_the_wait_leaves_the_body_an_orphan_and_no_timer(
        self, private: Registry, fake_clock: FakeClock
    ) -> None:
        inner = timeout(30.0, name="inner", interrupt="thread", registry=private)
        outer = timeout(3.0, name="outer", registry=private)
        with self.body_that_runs_on() as (body, end):
            self.advance_once_waiting(fake_clock, 3.0)
            with pytest.raises(TimeoutExceededError) as caught:
                outer.call(inner.call, body)
            assert caught.value.policy == "outer"
            assert inner.snapshot()["orphaned"] == 1
            assert not [timer for _, _, timer in fake_clock._timers if timer.fire is not None]
            end.set()
            self.wait_until(lambda: inner.snapshot()["orphaned"] == 0)
        assert calls_of(inner) == (1, 0)

    @pytest.mark.realtime
    def test_in_real_time_too(self, private: Registry) -> None:
        limit = timeout(0.02, interrupt="thread", registry=private)

        @limit
        def guarded(function: Callable[[], str]) -> str:
            return function()

        with self.body_that_runs_on() as (body, end):
            begun = time.monotonic()
            with pytest.raises(TimeoutExceededError):
                guarded(body)
            assert time.monotonic() - begun < PATIENCE / 2
            assert limit.snapshot()["orphaned"] == 1
            end.set()
            self.wait_until(lambda: limit.snapshot()["orphaned"] == 0)
        assert guarded(lambda: "in time") == "in time"

    def test_no_thread_is_left_of_calls_that_ended(self, private: Registry) -> None:
        limit = timeout(PATIENCE, interrupt="thread", registry=private)
        for _ in range(50):
            limit.call(str)
        self.wait_until(lambda: "resilient-timeout-body" not in {thread.name for thread in threading.enumerate()})

    def test_it_guards_plain_functions_and_nothing_else(self, private: Registry) -> None:
        limit = timeout(3.0, interrupt="thread", registry=private)

        async def coroutine() -> None: ...

        def generator() -> Iterator[None]:
            yield

        async def async_generator() -> AsyncIterator[None]:
            yield

        for function in (coroutine, generator, async_generator):
            with pytest.raises(TypeError, match="helper thread"):
                limit(function)
        with pytest.raises(TypeError, match="helper thread"), limit:
            pass
        with pytest.raises(TypeError, match="helper thread"):
            limit.call_async(coroutine)
