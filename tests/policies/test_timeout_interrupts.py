"""What a timeout interrupts: on the main thread, on other threads, and at which instant."""

from __future__ import annotations

import os
import queue
import signal
import socket
import time
from contextlib import ExitStack
from itertools import count
from typing import Any

import pytest

from resilient import (
    Registry,
    TimeoutExceededError,
    circuit_breaker,
    current_deadline,
    pipeline,
    timeout,
)
from resilient.drivers.interrupts import TimeoutInterrupt
from resilient.testing import FakeClock
from tests.policies.interrupting import interrupted_at
from tests.policies.timeout_kit import PATIENCE, calls_of, on_another_thread


class TestOnTheMainThread:
    @pytest.mark.realtime
    @pytest.mark.parametrize("interrupt", ["auto", "always", "scope"])
    def test_a_blocking_system_call_is_broken(self, interrupt: Any, private: Registry) -> None:
        reader, writer = socket.socketpair()
        begun = time.monotonic()
        with reader, writer, pytest.raises(TimeoutExceededError):
            timeout(0.05, interrupt=interrupt, registry=private).call(reader.recv, 1)
        assert 0.04 < time.monotonic() - begun < 10.0

    @pytest.mark.realtime
    def test_a_queue_that_was_waited_for_is_not_left_locked(self, private: Registry) -> None:
        waited_for: queue.Queue[None] = queue.Queue()
        with pytest.raises(TimeoutExceededError), timeout(0.05, registry=private):
            waited_for.get()
        waited_for.put_nowait(None)
        assert waited_for.get_nowait() is None

    @pytest.mark.realtime
    def test_with_never_the_call_takes_as_long_as_it_takes(self, private: Registry) -> None:
        begun = time.monotonic()
        with pytest.raises(TimeoutExceededError):
            timeout(0.02, interrupt="never", registry=private).call(time.sleep, 0.1)
        assert time.monotonic() - begun >= 0.1

    def test_inside_the_body_it_is_no_exception(self, private: Registry, fake_clock: FakeClock) -> None:
        seen: list[BaseException] = []

        def body() -> None:
            try:
                fake_clock.advance(5.0)
            except Exception:
                raise AssertionError("swallowed") from None
            except BaseException as error:
                seen.append(error)
                raise

        with pytest.raises(TimeoutExceededError) as caught:
            timeout(3.0, registry=private).call(body)
        assert type(seen[0]) is TimeoutInterrupt
        assert caught.value.__cause__ is seen[0]

    def test_a_body_that_swallows_it_all_the_same_is_late(self, private: Registry, fake_clock: FakeClock) -> None:
        def stubborn() -> str:
            try:
                fake_clock.advance(5.0)
            except BaseException:
                pass
            return "result"

        limit = timeout(3.0, registry=private)
        with pytest.raises(TimeoutExceededError):
            limit.call(stubborn)
        assert calls_of(limit) == (0, 1)

    def test_an_interrupt_at_any_instruction_of_a_block_never_escapes_it(self, fake_clock: FakeClock) -> None:
        outcomes: set[str] = set()
        for instruction in count():
            registry = Registry()
            limit = timeout(3.0, name="block", registry=registry)
            breaker = circuit_breaker("block", registry=registry)
            guarding = pipeline("block", breaker, limit, registry=registry)

            def block(guarding: Any = guarding) -> str:
                with guarding:
                    str(guarding)
                return "the end"

            try:
                reached = interrupted_at(instruction, block, fake_clock)
            except TimeoutExceededError:
                outcomes.add("timed out")
                assert calls_of(limit) == (0, 1)
            else:
                if not reached:
                    break
                outcomes.add("the end")
                assert calls_of(limit) == (1, 0)
            fake_clock.advance(60.0)
            assert current_deadline() is None
            counted: Any = registry.snapshot()["pipeline"]["block"]
            assert (counted["active"], sum(counted["calls"].values())) == (0, 1), instruction
            totals: Any = breaker.snapshot()["totals"]
            assert sum(totals.values()) == 1
        assert outcomes == {"timed out", "the end"}

    def test_a_block_works_in_an_exit_stack(self, private: Registry, fake_clock: FakeClock) -> None:
        with pytest.raises(TimeoutExceededError), ExitStack() as stack:  # noqa: PT012 - the block, or loop, is what is tested
            stack.enter_context(timeout(3.0, interrupt="never", registry=private))
            fake_clock.advance(5.0)
        assert current_deadline() is None

    @pytest.mark.torture
    def test_where_the_application_has_the_signal_only_the_deadline_is_left(
        self, private: Registry, fake_clock: FakeClock
    ) -> None:
        reached: list[str] = []

        def body() -> None:
            fake_clock.advance(5.0)
            reached.append("the end")

        def application(number: int, frame: object) -> None: ...

        child = os.fork()
        if child == 0:
            # A process of its own: what was found out about the main thread is kept.
            status = 1
            try:
                signal.signal(signal.SIGURG, application)
                try:
                    timeout(3.0, registry=private).call(body)
                except TimeoutExceededError:
                    status = 0 if reached == ["the end"] else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


class TestOnOtherThreads:
    def test_auto_throws_nothing_into_the_body_and_a_late_result_raises(
        self, private: Registry, fake_clock: FakeClock
    ) -> None:
        limit = timeout(3.0, registry=private)
        reached: list[str] = []

        def late() -> str:
            fake_clock.advance(3.0)
            reached.append("the end")
            return "late"

        with pytest.raises(TimeoutExceededError):
            on_another_thread(lambda: limit.call(late))
        assert reached == ["the end"]
        assert calls_of(limit) == (0, 1)

    def test_a_late_block_raises_at_its_end(self, private: Registry, fake_clock: FakeClock) -> None:
        reached: list[str] = []

        def block() -> None:
            with timeout(3.0, registry=private):
                fake_clock.advance(5.0)
                reached.append("the end")
            reached.append("after it")

        with pytest.raises(TimeoutExceededError):
            on_another_thread(block)
        assert reached == ["the end"]

    def test_a_late_error_of_the_bodys_own_stays_its_own(self, private: Registry, fake_clock: FakeClock) -> None:
        limit = timeout(3.0, registry=private)
        own = ValueError("late")

        def late() -> None:
            fake_clock.advance(5.0)
            raise own

        def late_block() -> None:
            with limit:
                late()

        for call in (lambda: limit.call(late), late_block):
            with pytest.raises(ValueError, match="late") as caught:
                on_another_thread(call)
            assert caught.value is own
        assert calls_of(limit) == (2, 0)

    def test_the_deadline_is_there_to_read(self, private: Registry, fake_clock: FakeClock) -> None:
        def body() -> float:
            deadline = current_deadline()
            assert deadline is not None
            return deadline.remaining()

        assert on_another_thread(lambda: timeout(3.0, registry=private).call(body)) == 3.0

    @pytest.mark.realtime
    def test_always_interrupts_python_code_there(self, private: Registry) -> None:
        limit = timeout(0.05, interrupt="always", registry=private)

        def spin() -> None:
            until = time.monotonic() + PATIENCE
            while time.monotonic() < until:
                pass

        begun = time.monotonic()
        with pytest.raises(TimeoutExceededError):
            on_another_thread(lambda: limit.call(spin))
        assert time.monotonic() - begun < PATIENCE / 2
        assert calls_of(limit) == (0, 1)

    @pytest.mark.realtime
    @pytest.mark.parametrize("face", ["call", "block"])
    def test_always_lets_a_blocking_call_there_end_first(self, face: str, private: Registry) -> None:
        limit = timeout(0.02, interrupt="always", registry=private)

        def block() -> None:
            with limit:
                time.sleep(0.1)

        begun = time.monotonic()
        with pytest.raises(TimeoutExceededError):
            on_another_thread(block if face == "block" else lambda: limit.call(time.sleep, 0.1))
        assert time.monotonic() - begun >= 0.1
