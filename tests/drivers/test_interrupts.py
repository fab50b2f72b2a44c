# ruff: noqa: PT012 - the body of a block is what is tested, and has as many statements as it takes
"""Which block an interrupt is for, what its end answers, and where an interrupt may be raised."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from resilient.core.clock import CLOCK
from resilient.drivers import interrupts, safe_points
from resilient.drivers.interrupts import TimeoutInterrupt, can_interrupt, fire_due, open_block
from resilient.drivers.safe_points import INTERRUPTIBLE
from tests.drivers.interrupt_kit import (
    LONG,
    SHORT,
    SLACK,
    Limit,
    TimesUp,
    guarded,
    hand_moved_time,
    in_package,
    nothing_is_left,
    pretend_that_an_interrupt_is_on_its_way,
)

__all__ = ["nothing_is_left"]


def test_a_body_that_ends_in_time_keeps_its_result_and_its_error() -> None:
    def fail() -> None:
        raise KeyError("mine")

    assert guarded(LONG, lambda: 42) == 42
    with pytest.raises(KeyError, match="mine"):
        guarded(LONG, fail)


class TestNesting:
    @pytest.mark.realtime
    def test_the_inner_deadline_ends_the_inner_block_only(self) -> None:
        with Limit(LONG):
            with pytest.raises(TimesUp) as caught, Limit(SHORT) as inner:
                time.sleep(LONG)
            assert caught.value.block is inner.block

    @pytest.mark.realtime
    def test_the_outer_deadline_passes_through_the_inner_block(self) -> None:
        passed: list[BaseException] = []
        with pytest.raises(TimesUp) as caught, Limit(SHORT) as outer:
            try:
                with Limit(LONG):
                    time.sleep(LONG)
            except BaseException as error:
                passed.append(error)
                raise
        assert caught.value.block is outer.block
        assert [type(error) for error in passed] == [TimeoutInterrupt]

    @pytest.mark.realtime
    def test_the_outer_block_is_still_armed_after_the_inner_one_ran_out(self) -> None:
        with pytest.raises(TimesUp) as caught, Limit(2 * SHORT) as outer:
            with pytest.raises(TimesUp), Limit(SHORT):
                time.sleep(LONG)
            time.sleep(LONG)
        assert caught.value.block is outer.block

    @pytest.mark.realtime
    def test_the_outer_block_is_still_armed_after_the_inner_one_ended_in_time(self) -> None:
        with pytest.raises(TimesUp) as caught, Limit(2 * SHORT) as outer:
            with Limit(SHORT):
                pass
            time.sleep(LONG)
        assert caught.value.block is outer.block

    def test_of_two_that_are_due_the_outer_one_is_interrupted(self) -> None:
        with hand_moved_time() as clock:
            with pytest.raises(TimesUp) as caught, Limit(2.0) as outer, Limit(1.0):
                clock.instant += 3.0
                fire_due()
            assert caught.value.block is outer.block

    def test_a_block_that_is_being_left_is_not_interrupted_once_more(self) -> None:
        with hand_moved_time() as clock:
            with pytest.raises(TimesUp) as caught, Limit(1.0) as outer, Limit(2.0):
                clock.instant += 1.5
                with pytest.raises(TimeoutInterrupt):
                    fire_due()
                clock.instant += 1.5
                fire_due()
            assert caught.value.block is outer.block

    def test_an_enclosing_interrupt_passes_a_block_that_swallowed_its_own(self) -> None:
        with hand_moved_time() as clock:
            with pytest.raises(TimesUp) as caught, Limit(2.0) as outer, Limit(1.0):
                clock.instant += 1.5
                with pytest.raises(TimeoutInterrupt):
                    fire_due()
                clock.instant += 1.5
                fire_due()
            assert caught.value.block is outer.block

    def test_leaving_a_block_raises_the_interrupt_of_an_enclosing_one_that_is_due(self) -> None:
        with hand_moved_time() as clock:
            with pytest.raises(TimesUp) as caught, Limit(2.0) as outer:
                inner = Limit(1.0)
                with pytest.raises(TimeoutInterrupt) as passed, inner:
                    clock.instant += 3.0
                    pretend_that_an_interrupt_is_on_its_way(inner.block)
                assert passed.value.block is outer.block
                raise passed.value
            assert caught.value.block is outer.block


class TestTheVerdict:
    def time_out_within(self, body: Callable[[], object]) -> object:
        """Run `body` after the interrupt was raised in it and caught there."""

        def interrupted() -> object:
            clock.instant += 2.0
            try:
                fire_due()
            except TimeoutInterrupt:
                return body()
            raise AssertionError("not interrupted")

        with hand_moved_time() as clock:
            return guarded(1.0, interrupted)

    def test_a_body_that_swallows_the_interrupt_still_times_out(self) -> None:
        with pytest.raises(TimesUp):
            self.time_out_within(lambda: 42)

    @pytest.mark.parametrize("kind", [ValueError, TimeoutError, KeyboardInterrupt, SystemExit, GeneratorExit])
    def test_what_the_body_raises_instead_passes(self, kind: type[BaseException]) -> None:
        def fail() -> None:
            raise kind

        with pytest.raises(kind):
            self.time_out_within(fail)

    def test_an_interrupt_in_a_group_by_itself_is_a_timeout(self) -> None:
        def body() -> None:
            clock.instant += 2.0
            try:
                fire_due()
            except TimeoutInterrupt as interrupt:
                raise BaseExceptionGroup("tasks", [BaseExceptionGroup("more", [interrupt])]) from None

        with hand_moved_time() as clock, pytest.raises(TimesUp):
            guarded(1.0, body)

    def test_a_group_that_holds_another_error_passes(self) -> None:
        def body() -> None:
            clock.instant += 2.0
            try:
                fire_due()
            except TimeoutInterrupt as interrupt:
                raise BaseExceptionGroup("tasks", [interrupt, ValueError()]) from None

        with hand_moved_time() as clock, pytest.raises(BaseExceptionGroup):
            guarded(1.0, body)

    def test_except_exception_does_not_swallow_it(self) -> None:
        def body() -> None:
            clock.instant += 2.0
            try:
                fire_due()
            except Exception:
                pytest.fail("swallowed")

        with hand_moved_time() as clock, pytest.raises(TimesUp):
            guarded(1.0, body)

    def test_an_interrupt_on_its_way_when_the_body_ends_is_a_timeout_and_comes_no_more(self) -> None:
        with hand_moved_time() as clock:
            limit = Limit(1.0)
            with pytest.raises(TimesUp) as caught, limit:
                clock.instant += 2.0
                pretend_that_an_interrupt_is_on_its_way(limit.block)
            assert caught.value.block is limit.block
            assert not caught.value.at_edge
            interrupts._on_signal(signal.SIGURG, sys._getframe())

    def test_a_block_can_be_closed_twice(self) -> None:
        block = open_block(lambda: TimesUp(None), False, CLOCK.now() + LONG, sys._getframe())
        assert block is not None
        assert block.exit(None) is False
        assert block.exit(None) is False


class TestTheEdge:
    def test_an_interrupt_before_the_body_is_protected_is_the_public_error_at_once(self) -> None:
        limit = Limit(1.0)
        reached: list[str] = []

        @in_package
        def enter_and_let_time_pass(frame: object) -> None:
            limit.opened = open_block(limit.expired, False, CLOCK.now() + 1.0, sys._getframe(1))
            clock.instant += 2.0
            fire_due()

        with hand_moved_time() as clock, pytest.raises(TimesUp) as caught:
            assert can_interrupt(False)
            enter_and_let_time_pass(None)
            reached.append("the statement after")
        assert caught.value.at_edge
        assert limit.edges == 1
        assert reached == []
        assert limit.block.exit(caught.value) is False

    def test_a_block_entered_through_an_exit_stack_raises_the_public_error_in_the_body(self) -> None:
        with hand_moved_time() as clock, pytest.raises(TimesUp) as caught, ExitStack() as stack:
            limit = stack.enter_context(Limit(1.0))
            clock.instant += 2.0
            fire_due()
        assert caught.value.at_edge
        assert limit.edges == 1

    def test_a_block_whose_function_has_ended_is_dropped(self) -> None:
        def leave_open() -> None:
            open_block(lambda: TimesUp(None), False, CLOCK.now() + 1.0, sys._getframe())
            try:
                return
            finally:
                pass

        with hand_moved_time() as clock:
            assert can_interrupt(False)
            leave_open()
            with pytest.raises(TimesUp) as caught, Limit(2.0) as limit:
                clock.instant += 1.5
                fire_due()
                clock.instant += 1.5
                fire_due()
            assert caught.value.block is limit.block


class TestSafePoints:
    @pytest.mark.realtime
    def test_a_permit_can_not_be_lost_between_two_bytecodes_of_a_shell(self) -> None:
        permits: list[str] = ["permit"]

        @in_package
        def shell() -> None:
            permit = permits.pop()
            for _ in range(20):
                len(permits)
            try:
                user_code()
            finally:
                for _ in range(20):
                    len(permits)
                permits.append(permit)

        def user_code() -> None:
            pass

        def body() -> None:
            while True:
                shell()

        for step in range(60):
            with pytest.raises(TimesUp):
                guarded(0.001 + step * 1e-5, body)
            assert permits == ["permit"]

    @pytest.mark.realtime
    def test_an_interruptible_function_of_ours_ends_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(safe_points, "GRACE", LONG)

        @in_package
        def wait() -> None:
            time.sleep(LONG)

        INTERRUPTIBLE.add(wait.__code__)
        try:
            began = time.monotonic()
            with pytest.raises(TimesUp):
                guarded(SHORT, wait)
            assert time.monotonic() - began < SLACK
        finally:
            INTERRUPTIBLE.discard(wait.__code__)

    @pytest.mark.realtime
    def test_a_wait_that_is_always_within_the_standard_library_is_interrupted_after_the_grace(self) -> None:
        began = time.monotonic()
        with pytest.raises(TimesUp):
            guarded(SHORT, lambda: threading.Event().wait())
        assert time.monotonic() - began < SLACK

    @pytest.mark.realtime
    def test_an_interrupt_is_not_lost_in_a_finalizer(self) -> None:
        class Slow:
            def __del__(self) -> None:
                until = time.monotonic() + 2 * SHORT
                while time.monotonic() < until:
                    pass

        def body() -> None:
            Slow()
            time.sleep(LONG)

        began = time.monotonic()
        with pytest.raises(TimesUp):
            guarded(SHORT, body)
        assert time.monotonic() - began < SLACK


class TestVirtualTime:
    def test_moving_time_past_the_deadline_interrupts_the_thread_that_moves_it(self) -> None:
        reached: list[str] = []

        def body() -> None:
            clock.instant += 0.5
            fire_due()
            reached.append("before")
            clock.instant += 0.5
            fire_due()
            reached.append("after")

        with hand_moved_time() as clock, pytest.raises(TimesUp):
            guarded(1.0, body)
        assert reached == ["before"]

    @pytest.mark.realtime
    def test_real_time_does_not_count(self) -> None:
        with hand_moved_time():
            guarded(SHORT, lambda: time.sleep(3 * SHORT))

    @pytest.mark.realtime
    def test_time_moved_by_another_thread_interrupts_this_one(self) -> None:
        started = threading.Event()

        def body() -> None:
            started.set()
            time.sleep(LONG)

        def move() -> None:
            started.wait()
            time.sleep(SHORT)
            clock.instant += 2.0
            fire_due()

        with hand_moved_time() as clock:
            mover = threading.Thread(target=move)
            mover.start()
            began = time.monotonic()
            with pytest.raises(TimesUp):
                guarded(1.0, body)
            mover.join()
        assert time.monotonic() - began < SLACK

    @pytest.mark.realtime
    def test_the_watchdog_goes_back_to_real_time(self) -> None:
        with hand_moved_time():
            guarded(SHORT, lambda: None)
        with pytest.raises(TimesUp):
            guarded(SHORT, lambda: time.sleep(LONG))

    def test_moving_time_outside_all_blocks_does_nothing(self) -> None:
        with hand_moved_time() as clock:
            clock.instant += 100.0
            fire_due()
