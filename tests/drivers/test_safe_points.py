from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from resilient.drivers import safe_points
from resilient.drivers.safe_points import GRACE, INTERRUPTIBLE, Fate, Hesitation, fate
from tests.drivers.interrupt_kit import in_package

STEP = 1 / 256
STEPS_TO_GRACE = 13  # 13 / 256 is the first to pass 0.05

LIBRARY = os.path.dirname(threading.__file__)


def placed(function: Any, filename: str, name: str | None = None) -> Any:
    """Make `function` look as if it stood in another file."""
    code = function.__code__
    function.__code__ = code.replace(co_filename=filename, co_name=name or code.co_name)
    return function


def in_library(function: Any, module: str, name: str | None = None) -> Any:
    return placed(function, os.path.join(LIBRARY, *module.split("/")), name)


def waits(frame: FrameType, *block_frames: FrameType) -> bool:
    return Hesitation().put_off(frame, block_frames, object())


def call(function: Callable[[], Any]) -> Any:
    return function()


def own_frame() -> FrameType:
    return sys._getframe()


def innermost() -> FrameType:
    return sys._getframe(1)


class TestWhereAnInterruptWaits:
    def test_not_in_user_code(self) -> None:
        assert not waits(sys._getframe())

    def test_in_our_own_code(self) -> None:
        assert waits(in_package(lambda: sys._getframe())())

    def test_not_in_user_code_that_ours_called(self) -> None:
        assert not waits(in_package(lambda: own_frame())())

    def test_in_a_library_function_that_ours_called(self) -> None:
        drawn = in_library(lambda: sys._getframe(), "random.py")
        assert waits(in_package(lambda: drawn())())

    def test_not_in_a_library_function_that_the_user_called(self) -> None:
        drawn = in_library(lambda: sys._getframe(), "random.py")
        assert not waits(call(drawn))

    def test_not_in_a_function_of_ours_that_is_listed_nor_in_what_it_calls(self) -> None:
        read: Callable[[], FrameType] = in_library(lambda: sys._getframe(), "socket.py")
        listed: Any = in_package(lambda: (sys._getframe(), read()))
        INTERRUPTIBLE.add(listed.__code__)
        try:
            assert not any(waits(frame) for frame in listed())
        finally:
            INTERRUPTIBLE.discard(listed.__code__)

    @pytest.mark.parametrize(
        "module",
        [
            "queue.py",
            "threading.py",
            "logging/__init__.py",
            "concurrent/futures/_base.py",
            "contextlib.py",
            "weakref.py",
        ],
    )
    def test_in_the_parts_of_the_library_that_lock_and_in_what_they_call(self, module: str) -> None:
        assert waits(in_library(lambda: sys._getframe(), module)())
        assert waits(in_library(lambda: call(innermost), module)())

    def test_while_a_module_is_imported(self) -> None:
        assert waits(placed(lambda: call(innermost), "<frozen importlib._bootstrap>")())

    def test_not_for_what_lies_outside_the_block(self) -> None:
        def opens_the_block() -> tuple[FrameType, FrameType]:
            return innermost_of(sys._getframe())

        def innermost_of(block_frame: FrameType) -> tuple[FrameType, FrameType]:
            return sys._getframe(), block_frame

        frame, block_frame = in_library(lambda: opens_the_block(), "queue.py")()
        assert waits(frame)
        assert not waits(frame, block_frame)

    @pytest.mark.parametrize("name", ["run", "_bootstrap_inner", "_worker"])
    def test_not_for_the_bottom_of_a_thread(self, name: str) -> None:
        assert not waits(in_library(lambda: call(innermost), "threading.py", name)())

    def test_in_the_tracer_of_coverage_which_locks_while_it_notes_a_file(self) -> None:
        tracer = os.path.join(LIBRARY, "site-packages", "coverage", "collector.py")
        assert waits(placed(own_frame, tracer, "lock_data")())
        assert not waits(placed(lambda: call(innermost), os.path.join("app", "coverage.py"))())

    def test_in_a_finalizer_where_an_exception_is_dropped(self) -> None:
        frames: list[FrameType] = []

        class Finalized:
            def __del__(self) -> None:
                frames.append(innermost())

        Finalized()
        assert waits(frames[0])


class Moving:
    """The same frame, a little further on each time."""

    def __init__(self, frame: FrameType) -> None:
        self.f_code, self.f_back, self.f_lasti = frame.f_code, None, 0

    def on(self) -> Any:
        self.f_lasti += 2
        return self


class TestHowLongItWaits:
    @pytest.fixture
    def now(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        now = [100.0]
        monkeypatch.setattr(safe_points, "real_time", lambda: now[0])
        return now

    def refusals(self, now: list[float], frame: Any, step: float, thrown: bool = False, most: int = 1000) -> int:
        """How often an interrupt is put off that is tried every `step` seconds."""
        hesitation, block = Hesitation(), object()
        for refusals in range(most):
            assert hesitation.refusals == refusals
            if not hesitation.put_off(frame.on() if isinstance(frame, Moving) else frame, (), block, thrown):
                return refusals
            now[0] += step
        return most

    def library(self) -> Any:
        return in_library(lambda: sys._getframe(), "queue.py")()

    def ours(self) -> Any:
        return in_package(lambda: sys._getframe())()

    def test_in_the_standard_library_it_waits_for_the_grace(self, now: list[float]) -> None:
        assert self.refusals(now, self.library(), STEP) == STEPS_TO_GRACE
        assert self.refusals(now, Moving(self.library()), STEP) == STEPS_TO_GRACE

    def test_time_in_which_nothing_ran_does_not_count(self, now: list[float]) -> None:
        assert self.refusals(now, Moving(self.library()), 10 * GRACE) > 5
        assert self.refusals(now, self.ours(), 10 * GRACE) > 5

    def test_each_block_has_a_grace_of_its_own(self, now: list[float]) -> None:
        hesitation, frame = Hesitation(), self.library()
        for _ in range(100):
            assert hesitation.put_off(frame, (), object())
            now[0] += STEP

    def test_our_own_code_is_left_alone_for_as_long_as_it_moves(self, now: list[float]) -> None:
        assert self.refusals(now, Moving(self.ours()), STEP) == 1000

    def test_a_blocking_call_in_our_own_code_is_broken(self, now: list[float]) -> None:
        assert self.refusals(now, self.ours(), STEP) == STEPS_TO_GRACE

    def test_a_thread_that_stands_still_is_not_thrown_at(self, now: list[float]) -> None:
        assert self.refusals(now, self.ours(), STEP, thrown=True) == 1000
        assert self.refusals(now, self.library(), STEP, thrown=True) == 1000
        assert self.refusals(now, Moving(self.library()), STEP, thrown=True) == STEPS_TO_GRACE


class Recorder:
    """Opens a block like a timeout does, and asks for its fate later on."""

    opened_at: int
    frame: FrameType

    def __enter__(self) -> Recorder:
        self.open(sys._getframe(1))
        self.on_the_way_in = self.fate()
        return self

    def __exit__(self, *_: object) -> None:
        self.on_the_way_out = self.fate()

    def open(self, frame: FrameType) -> None:
        self.frame, self.opened_at = frame, frame.f_lasti

    def fate(self) -> Fate:
        return fate(self.frame, self.opened_at, sys._getframe(1))


class TestFate:
    def test_the_body_of_a_with_statement_is_protected_and_its_edges_are_not(self) -> None:
        with Recorder() as block:
            inside = block.fate()
            nested = call(block.fate)
        assert (block.on_the_way_in, inside, nested, block.on_the_way_out) == (
            Fate.EDGE,
            Fate.CAUGHT,
            Fate.CAUGHT,
            Fate.EDGE,
        )

    def test_the_body_of_a_try_statement_is_protected_and_its_handlers_are_not(self) -> None:
        block = Recorder()
        seen = []
        block.open(sys._getframe())
        try:
            seen.append(block.fate())
            raise KeyError
        except KeyError:
            seen.append(block.fate())
        assert seen == [Fate.CAUGHT, Fate.EDGE]

    def test_handlers_inside_the_body_lead_to_it(self) -> None:
        seen = []
        inner = Recorder()
        with Recorder() as block:
            try:
                with inner:
                    seen += [block.fate(), inner.fate()]
                    raise KeyError
            except KeyError:
                seen += [block.fate(), inner.fate()]
        assert seen == [Fate.CAUGHT, Fate.CAUGHT, Fate.CAUGHT, Fate.EDGE]

    def test_loops_in_the_body_are_protected(self) -> None:
        rounds = 0
        with Recorder() as block:
            while rounds < 2:
                rounds += block.fate() is Fate.CAUGHT

    def test_a_block_entered_by_hand_has_no_handler(self) -> None:
        block = Recorder()
        block.__enter__()
        assert block.fate() is Fate.EDGE

    def test_a_block_of_a_function_that_has_ended_is_gone(self) -> None:
        def leave_open(block: Recorder) -> None:
            with block:
                pass

        block = Recorder()
        leave_open(block)
        assert block.fate() is Fate.GONE

    def test_a_closed_block_is_at_its_edge(self) -> None:
        assert fate(None, 0, sys._getframe()) is Fate.EDGE


def while_in_with(manager: Any, condition: Callable[[], bool]) -> None:
    with manager:
        while condition():
            pass


# On one line, so that no instruction stands before the loop.
TRY_AT_THE_TOP = """
def try_at_the_top():
    try:
        while True: pass
    except BaseException: return
"""


def plain() -> None:
    while True:
        pass


def back_edges(function: Callable[..., Any]) -> list[Any]:
    class AtOffset:
        def __init__(self, offset: int) -> None:
            self.f_code, self.f_lasti = code, offset

    code = function.__code__
    found = [AtOffset(at) for at in range(0, len(code.co_code), 2) if code.co_code[at] in safe_points._BACK_JUMPS]
    assert found
    return found


class TestBackEdges:
    def test_a_loop_without_handlers_has_no_blind_spot(self) -> None:
        assert not any(map(safe_points._is_blind_back_edge, back_edges(plain)))

    @pytest.mark.skipif(sys.version_info >= (3, 13), reason="looks elsewhere")
    def test_up_to_3_12_a_loop_that_begins_a_try_at_the_top_is_blind(self) -> None:
        defined: dict[str, Any] = {}
        exec(TRY_AT_THE_TOP, defined)
        assert all(map(safe_points._is_blind_back_edge, back_edges(defined["try_at_the_top"])))

    @pytest.mark.skipif(sys.version_info[:3] != (3, 13, 0), reason="a bug of 3.13.0, gh-130279")
    def test_in_3_13_0_a_while_loop_in_a_with_statement_is_blind(self) -> None:
        assert any(map(safe_points._is_blind_back_edge, back_edges(while_in_with)))

    @pytest.mark.skipif(sys.version_info >= (3, 13), reason="3.13.0 has a bug of its own")
    def test_up_to_3_12_a_while_loop_in_a_with_statement_is_not(self) -> None:
        assert not any(map(safe_points._is_blind_back_edge, back_edges(while_in_with)))


def test_the_exception_table_is_read_as_python_reads_it() -> None:
    dis = pytest.importorskip("dis")
    parse = getattr(dis, "_parse_exception_table", None)
    if parse is None:
        pytest.skip("dis no longer shows it")
    for module in (safe_points, threading, os):
        for function in vars(module).values():
            code = getattr(function, "__code__", None)
            if code is not None:
                ours = list(safe_points._handlers(code))
                assert ours == [(entry.start, entry.end, entry.target) for entry in parse(code)]
