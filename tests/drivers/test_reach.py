# ruff: noqa: PT012 - the body of a block is what is tested, and has as many statements as it takes
"""What can be interrupted where: blocking calls, other threads, foreign handlers, forked children."""

from __future__ import annotations

import os
import queue
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from resilient.drivers import interrupts, reach
from resilient.drivers.interrupts import TimeoutInterrupt, can_interrupt
from resilient.drivers.reach import Reach
from tests.drivers.interrupt_kit import (
    LONG,
    SHORT,
    SLACK,
    Limit,
    TimesUp,
    call_forever,
    guarded,
    hand_moved_time,
    loop_forever,
    nothing_is_left,
    on_another_thread,
    pretend_that_an_interrupt_is_on_its_way,
)

__all__ = ["nothing_is_left"]


def block_on_lock() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


# Made once: an interrupt between making one and keeping it would leave it open.
CHILDREN: list[subprocess.Popen[bytes]] = []
SOCKETS = socket.socketpair()
PIPE = os.pipe()


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


@pytest.fixture(scope="module", autouse=True)
def opened_and_closed() -> Iterator[None]:
    CHILDREN.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]))
    yield
    CHILDREN[0].kill()
    CHILDREN[0].wait()
    for end in SOCKETS:
        end.close()
    for descriptor in PIPE:
        os.close(descriptor)


BLOCKING: dict[str, Callable[[], object]] = {
    "sleep": lambda: time.sleep(LONG),
    "lock": block_on_lock,
    "socket": lambda: SOCKETS[0].recv(1),
    "queue": lambda: queue.Queue[None]().get(),
    "event": lambda: threading.Event().wait(),
    "child process": lambda: CHILDREN[0].wait(),
    "select": lambda: select.select([SOCKETS[0]], [], []),
    "pipe": lambda: os.read(PIPE[0], 1),
    "empty loop": loop_forever,
    "calling loop": call_forever,
}


@pytest.mark.realtime
@pytest.mark.parametrize("body", BLOCKING.values(), ids=BLOCKING.keys())
def test_a_blocking_call_on_the_main_thread_ends_at_the_deadline(body: Callable[[], object]) -> None:
    began = time.monotonic()
    with pytest.raises(TimesUp) as caught:
        guarded(SHORT, body)
    assert not caught.value.at_edge
    assert SHORT <= time.monotonic() - began < SLACK


@pytest.mark.realtime
@pytest.mark.parametrize("body", BLOCKING.values(), ids=BLOCKING.keys())
def test_a_blocking_call_in_a_with_statement_ends_at_the_deadline(body: Callable[[], object]) -> None:
    began = time.monotonic()
    with pytest.raises(TimesUp), Limit(SHORT):
        body()
    assert SHORT <= time.monotonic() - began < SLACK


@pytest.mark.realtime
def test_a_function_written_in_c_that_our_own_frame_calls_is_interrupted() -> None:
    taken = threading.Lock()
    taken.acquire()
    with pytest.raises(TimesUp):
        guarded(SHORT, taken.acquire)


class TestOtherThreads:
    def test_only_the_main_thread_is_interrupted_unless_asked_for(self) -> None:
        assert can_interrupt(False)
        assert can_interrupt(True)
        assert not on_another_thread(lambda: can_interrupt(False))
        assert on_another_thread(lambda: can_interrupt(True))

    @pytest.mark.realtime
    @pytest.mark.parametrize("body", [loop_forever, call_forever])
    def test_python_code_on_another_thread_ends_at_the_deadline(self, body: Callable[[], object]) -> None:
        began = time.monotonic()
        with pytest.raises(TimesUp):
            on_another_thread(lambda: guarded(SHORT, body, always=True))
        assert SHORT <= time.monotonic() - began < SLACK

    @pytest.mark.realtime
    def test_a_blocking_call_on_another_thread_ends_when_it_returns(self) -> None:
        def body() -> None:
            time.sleep(3 * SHORT)
            loop_forever()

        with pytest.raises(TimesUp):
            on_another_thread(lambda: guarded(SHORT, body, always=True))

    @pytest.mark.realtime
    def test_the_outer_of_two_blocks_wins_on_another_thread_too(self) -> None:
        def body() -> None:
            with Limit(SHORT, always=True) as outer, pytest.raises(TimeoutInterrupt) as passed:
                with Limit(LONG, always=True):
                    loop_forever()
            assert passed.value.block is outer.block

        with pytest.raises(TimesUp):
            on_another_thread(body)

    def test_a_thread_that_ends_leaves_nothing_behind(self) -> None:
        on_another_thread(lambda: guarded(LONG, lambda: None, always=True))
        before = len(interrupts._WATCHDOG._watched)
        for _ in range(20):
            on_another_thread(lambda: guarded(LONG, lambda: None, always=True))
        assert len(interrupts._WATCHDOG._watched) <= before

    def test_one_thread_watches_over_all(self) -> None:
        for _ in range(5):
            on_another_thread(lambda: guarded(LONG, lambda: None, always=True))
        assert [thread.name for thread in threading.enumerate()].count("resilient-watchdog") == 1


class TestTheSignal:
    @pytest.fixture
    def fresh_reach(self) -> Iterator[None]:
        record = interrupts._here.record
        record.reach = Reach.UNKNOWN
        try:
            yield
        finally:
            signal.signal(signal.SIGURG, signal.SIG_DFL)
            record.reach = Reach.UNKNOWN

    @pytest.mark.usefixtures("fresh_reach")
    def test_a_handler_of_the_application_is_never_displaced(self) -> None:
        def handler(*_: object) -> None: ...

        signal.signal(signal.SIGURG, handler)
        assert not can_interrupt(False)
        assert can_interrupt(True)
        assert signal.getsignal(signal.SIGURG) is handler

    @pytest.mark.realtime
    @pytest.mark.usefixtures("fresh_reach")
    def test_without_the_signal_python_code_on_the_main_thread_can_still_be_interrupted(self) -> None:
        signal.signal(signal.SIGURG, lambda *_: None)
        with pytest.raises(TimesUp):
            guarded(SHORT, loop_forever, always=True)

    @pytest.mark.usefixtures("fresh_reach")
    def test_a_handler_set_later_gets_no_signals_of_ours_and_the_block_times_out_at_its_end(self) -> None:
        got: list[object] = []
        with hand_moved_time() as clock:
            with pytest.raises(TimesUp), Limit(1.0):
                signal.signal(signal.SIGURG, lambda *_: got.append(None))
                clock.instant += 2.0
                interrupts._WATCHDOG.wake()
                wait_until(lambda: interrupts._here.record.reach is Reach.UNKNOWN)
            assert got == []
            assert not can_interrupt(False)

    def test_a_signal_of_somebody_else_does_nothing(self) -> None:
        with Limit(LONG):
            signal.raise_signal(signal.SIGURG)
        signal.raise_signal(signal.SIGURG)

    @pytest.mark.realtime
    def test_a_keyboard_interrupt_passes_through_and_disarms(self) -> None:
        def body() -> None:
            signal.raise_signal(signal.SIGINT)

        with pytest.raises(KeyboardInterrupt):
            guarded(SHORT, body)
        time.sleep(2 * SHORT)


class TestWhereNothingCanBeInterrupted:
    @pytest.fixture(autouse=True)
    def fresh_reach(self) -> Iterator[None]:
        record = interrupts._here.record
        record.reach = Reach.UNKNOWN
        yield
        record.reach = Reach.UNKNOWN

    @pytest.mark.parametrize("test", ["_can_throw", "_under_gevent", "_in_subinterpreter"])
    def test_not_even_with_always(self, monkeypatch: pytest.MonkeyPatch, test: str) -> None:
        monkeypatch.setattr(reach, test, lambda: test != "_can_throw")
        assert not can_interrupt(False)
        assert not can_interrupt(True)

    def test_a_patched_thread_module_is_seen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Monkey:
            @staticmethod
            def is_module_patched(name: str) -> bool:
                return name == "threading"

        monkeypatch.setitem(sys.modules, "gevent.monkey", Monkey())
        assert not can_interrupt(True)

    def test_a_watchdog_that_can_not_start_is_no_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(_: object) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(interrupts._WATCHDOG, "_thread", None)
        monkeypatch.setattr(interrupts._WATCHDOG, "_pokes", None)
        monkeypatch.setattr(threading.Thread, "start", refuse)
        assert not can_interrupt(True)
        monkeypatch.undo()
        assert can_interrupt(False)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
class TestFork:
    def outcome_here_and_in_a_child(self, span: float, always: bool, rest: Callable[[], object]) -> tuple[bool, bool]:
        """Fork in a block and go on with `rest` on both sides: did the block time out here, and in the child?"""
        parent = os.getpid()
        child = -1
        timed_out = False
        try:
            with Limit(span, always):
                child = os.fork()
                rest()
        except TimesUp:
            timed_out = True
        finally:
            if os.getpid() != parent:
                os._exit(0 if timed_out else 1)
        if child < 0:
            pytest.skip("too busy a machine: time was up before there was a child")
        return timed_out, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    @pytest.mark.realtime
    def test_a_child_interrupts_blocks_that_it_opens(self) -> None:
        guarded(LONG, lambda: None)
        child = os.fork()
        if child == 0:
            try:
                guarded(SHORT, lambda: time.sleep(LONG))
            except TimesUp:
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    @pytest.mark.realtime
    def test_parent_and_child_both_interrupt_blocks_that_were_open_when_they_parted(self) -> None:
        assert self.outcome_here_and_in_a_child(0.2, False, lambda: time.sleep(LONG)) == (True, True)

    def test_a_child_is_sent_again_what_was_on_its_way_to_the_parent(self) -> None:
        with hand_moved_time() as clock:
            limit = Limit(1.0)
            with pytest.raises(TimesUp), limit:
                clock.instant += 2.0
                pretend_that_an_interrupt_is_on_its_way(limit.block)
                child = os.fork()
                if child == 0:
                    try:
                        time.sleep(LONG)
                    except TimeoutInterrupt:
                        os._exit(0)
                    finally:
                        os._exit(1)
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    @pytest.mark.realtime
    def test_so_do_those_that_parted_on_another_thread(self) -> None:
        def body() -> tuple[bool, bool]:
            return self.outcome_here_and_in_a_child(0.2, True, loop_forever)

        assert on_another_thread(body) == (True, True)


def test_importing_the_driver_starts_nothing() -> None:
    package = os.path.dirname(os.path.dirname(interrupts.__file__))
    program = (
        "import signal, sys, threading, types\n"
        "package = sys.modules['resilient'] = types.ModuleType('resilient')\n"
        f"package.__path__ = [{package!r}]\n"
        "import resilient.drivers.interrupts\n"
        "assert signal.getsignal(signal.SIGURG) is signal.SIG_DFL\n"
        "assert threading.active_count() == 1\n"
        "heavy = {'asyncio', 'ctypes', 'dis', 'logging', 'queue', 'concurrent.futures'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-S", "-c", program], check=True)
