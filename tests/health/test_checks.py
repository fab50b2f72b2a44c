"""Checks: once at a time however many ask, never two threads, and what a run that hangs says of itself."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import trio

from resilient import ConfigurationError, current_deadline, timeout
from resilient.core.clock import CLOCK
from resilient.drivers.waiters import task_waiter
from resilient.health import Check, Report
from resilient.health.background import BackgroundLoop
from resilient.health.checks import Run
from resilient.testing import FakeClock

PATIENCE = 10.0


class Door:
    """A function that waits until it is let go, and counts who comes."""

    def __init__(self) -> None:
        self.calls = 0
        self.inside = threading.Event()
        self.opened = threading.Event()

    def __call__(self) -> None:
        self.calls += 1
        self.inside.set()
        assert self.opened.wait(PATIENCE)


def eventually(true: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < until
        time.sleep(0.001)


def forget(task: Any) -> None:
    """Let a task of a loop that is closed go without complaints."""
    task._log_destroy_pending = False
    task.get_coro().close()


def ask_on_thread(check: Check) -> tuple[threading.Thread, list[Report]]:
    found: list[Report] = []
    thread = threading.Thread(target=lambda: found.append(check.run()))
    thread.start()
    return thread, found


def waiting_for(check: Check) -> int:
    run = check._run
    return 0 if run is None else len(run._waiting)


class TestVerdicts:
    @pytest.mark.parametrize("result", [None, True, 0, "", "PONG", [], {}])
    def test_it_passes_by_returning(self, result: object) -> None:
        report = Check("one", lambda: result).run()

        assert report.passed
        assert report.status == "healthy"
        assert report.error is None

    def test_it_fails_by_returning_false(self) -> None:
        report = Check("one", lambda: False).run()

        assert (report.passed, report.status, report.error) == (False, "unhealthy", "the check returned False")

    def test_it_fails_by_raising(self) -> None:
        def refuse() -> None:
            raise ConnectionError("nobody there")

        assert Check("one", refuse).run().error == "ConnectionError: nobody there"

    @pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
    def test_what_is_no_exception_is_a_failure_on_a_thread_of_ours(self, error: BaseException) -> None:
        def end() -> None:
            raise error

        assert (Check("one", end).run().error or "").startswith(type(error).__name__)

    def test_a_coroutine_that_exits_is_a_failure_and_ends_no_loop(self) -> None:
        async def end() -> None:
            raise SystemExit(3)

        assert asyncio.run(Check("one", end).run_async()).error == "SystemExit: 3"
        assert trio.run(Check("one", end).run_async).error == "SystemExit: 3"

    def test_a_mapping_is_shown_without_its_secrets(self) -> None:
        report = Check("one", lambda: {"pool": 3, "password": "hunter2", "at": "http://db/?user=me"}).run()

        assert report.details == {"pool": 3, "password": "[redacted]", "at": "http://db/?[redacted]"}

    def test_a_function_that_gives_something_to_await_fails(self) -> None:
        async def ping() -> None: ...

        report = Check("one", lambda: ping()).run()

        assert report.error == "the function gave something to await: write it as an async def"

    def test_a_coroutine_is_run_wherever_it_is_asked_for(self) -> None:
        async def ping() -> bool:
            await asyncio.sleep(0)
            return True

        async def ping_on_trio() -> bool:
            await trio.sleep(0)
            return True

        assert Check("one", ping).run().passed
        assert asyncio.run(Check("one", ping).run_async()).passed
        assert trio.run(Check("one", ping_on_trio).run_async).passed

    def test_partials_methods_and_callable_objects_are_functions(self) -> None:
        class Async:
            async def __call__(self) -> bool:
                return False

            async def ping(self) -> bool:
                return False

        for function in (Async(), Async().ping, partial(Async().ping)):
            assert Check("one", function).run().error == "the check returned False"

    def test_the_time_that_it_took_is_told(self, clock: FakeClock) -> None:
        assert Check("one", lambda: clock.advance(0.25)).run().seconds == 0.25

    def test_no_thread_to_be_had_is_a_failure(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(self: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", refuse)

        assert Check("one", lambda: None).run().error == "RuntimeError: can't start new thread"

    def test_it_runs_in_a_context_of_its_own(self) -> None:
        deadlines: list[object] = []

        async def look() -> None:
            deadlines.append(current_deadline())

        with timeout(60.0):
            Check("one", lambda: deadlines.append(current_deadline())).run()

        async def main() -> None:
            async with timeout(60.0):
                await Check("two", look).run_async()

        asyncio.run(main())
        trio.run(main)
        assert deadlines == [None, None, None]


class TestAge:
    def test_a_report_is_given_again_until_it_is_too_old(self, clock: FakeClock) -> None:
        door = Door()
        door.opened.set()
        check = Check("one", door, ttl=5.0)

        check.run()
        clock.advance(4.999)
        check.run()
        assert door.calls == 1
        clock.advance(0.001)
        check.run()
        assert door.calls == 2

    def test_without_a_time_to_live_each_who_asks_makes_a_run(self, clock: FakeClock) -> None:
        door = Door()
        door.opened.set()
        check = Check("one", door, ttl=0)

        check.run()
        check.run()

        assert door.calls == 2

    def test_failures_are_given_again_too(self, clock: FakeClock) -> None:
        calls: list[int] = []

        def fail() -> bool:
            calls.append(1)
            return False

        check = Check("one", fail, ttl=5.0)
        assert [check.run().failures for _ in range(3)] == [1, 1, 1]
        assert len(calls) == 1


class TestFailAfter:
    def test_it_is_unhealthy_from_so_many_failures_in_a_row_on(self, clock: FakeClock) -> None:
        outcomes = iter([False, False, True, False, False, False, True])
        check = Check("one", lambda: next(outcomes), ttl=0, fail_after=3)

        reports = [check.run() for _ in range(7)]

        assert [report.status for report in reports] == ["healthy"] * 5 + ["unhealthy", "healthy"]
        assert [report.failures for report in reports] == [1, 2, 0, 1, 2, 3, 0]
        assert [report.passed for report in reports] == [False, False, True, False, False, False, True]

    def test_having_passed_once_is_remembered(self, clock: FakeClock) -> None:
        outcomes = iter([False, True, False])
        check = Check("one", lambda: next(outcomes), ttl=0)

        passed = []
        for _ in range(3):
            check.run()
            passed.append(check.has_passed)

        assert passed == [False, True, True]


class TestSingleFlight:
    def test_two_hundred_threads_run_it_once(self) -> None:
        door = Door()
        check = Check("one", door, timeout=PATIENCE, ttl=0)
        with ThreadPoolExecutor(200) as pool:
            futures = [pool.submit(check.run) for _ in range(200)]
            eventually(lambda: waiting_for(check) == 200)
            door.opened.set()
            reports = {id(future.result()) for future in futures}

        assert door.calls == 1
        assert len(reports) == 1

    @pytest.mark.parametrize("run", [asyncio.run, lambda main: trio.run(lambda: main)], ids=["asyncio", "trio"])
    def test_two_hundred_tasks_run_it_once(self, run: Callable[[Any], Any]) -> None:
        door = Door()
        check = Check("one", door, timeout=PATIENCE, ttl=0)

        async def open_it() -> None:
            while waiting_for(check) < 200:
                await task_waiter().wait_until(CLOCK.now() + 0.001)
            door.opened.set()

        async def on_asyncio() -> list[Report]:
            *reports, _ = await asyncio.gather(*(check.run_async() for _ in range(200)), open_it())
            return [report for report in reports if isinstance(report, Report)]

        async def on_trio() -> list[Report]:
            reports: list[Report] = []

            async def ask() -> None:
                reports.append(await check.run_async())

            async with trio.open_nursery() as nursery:
                for _ in range(200):
                    nursery.start_soon(ask)
                nursery.start_soon(open_it)
            return reports

        reports = run(on_asyncio() if run is asyncio.run else on_trio())

        assert door.calls == 1
        assert len({id(report) for report in reports}) == 1

    def test_threads_two_loops_and_trio_share_one_run(self) -> None:
        door = Door()
        check = Check("one", door, timeout=PATIENCE, ttl=0)
        asks: list[Callable[[], Report]] = [
            check.run,
            lambda: asyncio.run(check.run_async()),
            lambda: asyncio.run(check.run_async()),
            lambda: trio.run(check.run_async),
        ]
        with ThreadPoolExecutor(4) as pool:
            futures = [pool.submit(ask) for ask in asks]
            eventually(lambda: waiting_for(check) == 4)
            door.opened.set()

            assert len({id(future.result(PATIENCE)) for future in futures}) == 1
        assert door.calls == 1

    def test_a_coroutine_of_one_loop_answers_threads_and_other_loops(self) -> None:
        calls: list[int] = []
        opened = threading.Event()

        async def slow() -> None:
            calls.append(1)
            while not opened.is_set():
                await asyncio.sleep(0.001)

        check = Check("one", slow, timeout=PATIENCE, ttl=0)
        with ThreadPoolExecutor(3) as pool:
            first = pool.submit(lambda: asyncio.run(check.run_async()))
            eventually(lambda: bool(calls))
            others = [pool.submit(check.run), pool.submit(lambda: trio.run(check.run_async))]
            eventually(lambda: waiting_for(check) == 3)
            opened.set()
            reports = {id(future.result(PATIENCE)) for future in (first, *others)}

        assert len(calls) == 1
        assert len(reports) == 1

    @pytest.mark.parametrize("loop", ["asyncio", "trio"])
    def test_one_who_stops_asking_stops_nobody_else(self, loop: str) -> None:
        opened = threading.Event()
        ended: list[str] = []

        async def slow() -> None:
            sleep = asyncio.sleep if loop == "asyncio" else trio.sleep
            try:
                while not opened.is_set():
                    await sleep(0.001)
            except BaseException:
                ended.append("cancelled")
                raise

        check = Check("one", slow, timeout=PATIENCE, ttl=0)

        async def on_asyncio() -> Report:
            first = asyncio.create_task(check.run_async())
            await asyncio.sleep(0)
            second = asyncio.create_task(check.run_async())
            await asyncio.sleep(0.005)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            opened.set()
            return await second

        async def on_trio() -> Report:
            reports: list[Report] = []

            async def ask() -> None:
                reports.append(await check.run_async())

            async with trio.open_nursery() as nursery:
                with trio.move_on_after(0.005):
                    await check.run_async()
                nursery.start_soon(ask)
                await trio.sleep(0.005)
                opened.set()
            return reports[0]

        report = asyncio.run(on_asyncio()) if loop == "asyncio" else trio.run(on_trio)

        assert report.passed
        assert not ended

    def test_where_its_loop_ends_the_others_ask_anew(self) -> None:
        began = threading.Event()
        turns: list[int] = []

        async def check_it() -> None:
            turns.append(1)
            if len(turns) == 1:
                began.set()
                await asyncio.sleep(PATIENCE)

        check = Check("one", check_it, timeout=PATIENCE, ttl=0)
        leave = threading.Event()

        async def ask_and_leave() -> None:
            task = asyncio.create_task(check.run_async())
            while not leave.is_set():
                await asyncio.sleep(0.001)
            task.cancel()

        thread = threading.Thread(target=lambda: asyncio.run(ask_and_leave()))
        thread.start()
        assert began.wait(PATIENCE)
        other, found = ask_on_thread(check)
        eventually(lambda: waiting_for(check) == 2)
        leave.set()
        other.join(PATIENCE)
        thread.join(PATIENCE)

        assert len(turns) == 2
        assert found[0].passed

    def test_one_that_cancels_itself_again_and_again_is_unhealthy(self) -> None:
        calls: list[int] = []

        async def cancel() -> None:
            calls.append(1)
            raise asyncio.CancelledError

        for report in (asyncio.run(Check("one", cancel).run_async()), Check("one", cancel).run()):
            assert (report.status, report.error) == ("unhealthy", "cancelled by something else")
        assert len(calls) == 6

    def test_a_run_that_died_with_its_loop_is_begun_anew_once_its_time_is_over(self, clock: FakeClock) -> None:
        turns: list[int] = []

        async def check_it() -> None:
            turns.append(1)
            if len(turns) == 1:
                await asyncio.get_running_loop().create_future()

        check = Check("one", check_it, timeout=2.0, ttl=0)
        loop = asyncio.new_event_loop()
        task = loop.create_task(check.run_async())
        loop.run_until_complete(asyncio.sleep(0.001))
        run = check._run
        # As a program does that stops a loop and forgets its tasks.
        loop.close()
        clock.advance(2.0)

        assert check.run().passed
        assert len(turns) == 2
        for left in (task, None if run is None else run.task):
            forget(left)


class TestTimeout:
    @pytest.mark.parametrize("loop", ["asyncio", "trio"])
    def test_a_coroutine_is_cancelled(self, loop: str, clock: FakeClock) -> None:
        cancelled: list[bool] = []

        async def hang() -> None:
            clock.advance(2.0)
            try:
                await (asyncio.sleep(PATIENCE) if loop == "asyncio" else trio.sleep(PATIENCE))
            except BaseException:
                cancelled.append(True)
                raise

        check = Check("one", hang, timeout=2.0)

        async def main() -> Report:
            report = await check.run_async()
            # Before the loop ends, which cancels all.
            for _ in range(100):
                if cancelled:
                    return report
                await (asyncio.sleep(0.001) if loop == "asyncio" else trio.sleep(0.001))
            raise AssertionError

        report = asyncio.run(main()) if loop == "asyncio" else trio.run(main)

        assert (report.status, report.error, report.seconds) == ("unhealthy", "timed out after 2 s", 2.0)
        assert cancelled == [True]

    def test_a_coroutine_that_a_thread_asks_for_is_cancelled_too(self, clock: FakeClock) -> None:
        cancelled = threading.Event()
        inside = threading.Event()

        async def hang() -> None:
            try:
                inside.set()
                await asyncio.sleep(PATIENCE)
            except asyncio.CancelledError:
                cancelled.set()
                raise

        check = Check("one", hang, timeout=2.0, ttl=0)
        thread, found = ask_on_thread(check)
        assert inside.wait(PATIENCE)
        eventually(lambda: waiting_for(check) == 1)
        clock.advance(2.0)
        thread.join(PATIENCE)

        assert found[0].error == "timed out after 2 s"
        assert cancelled.wait(PATIENCE)

    def test_a_function_that_hangs_never_gets_a_second_thread(self, clock: FakeClock) -> None:
        door = Door()
        check = Check("one", door, timeout=2.0, ttl=0)
        thread, found = ask_on_thread(check)
        assert door.inside.wait(PATIENCE)
        eventually(lambda: waiting_for(check) == 1)
        clock.advance(2.0)
        thread.join(PATIENCE)
        assert found[0].error == "timed out after 2 s"

        clock.advance(10.3)
        reports = [check.run() for _ in range(5)]

        assert door.calls == 1
        assert [thread.name for thread in threading.enumerate()].count("resilient-health-one") == 1
        assert {report.error for report in reports} == {"still running since 12.3 s (timeout 2 s)"}
        assert {report.status for report in reports} == {"unhealthy"}
        door.opened.set()
        eventually(lambda: check._run is None)

    def test_each_timeout_that_passes_is_one_more_failure(self, clock: FakeClock) -> None:
        door = Door()
        check = Check("one", door, timeout=2.0, ttl=0, fail_after=3)
        run = check.begin()
        assert isinstance(run, Run)
        found = []
        for _ in range(4):
            clock.advance(2.0)
            report = check.begin()
            assert isinstance(report, Report)
            found.append((report.failures, report.status))

        assert found == [(1, "healthy"), (2, "healthy"), (3, "unhealthy"), (4, "unhealthy")]
        door.opened.set()
        eventually(lambda: check._run is None)

    def test_a_late_success_does_not_count_and_the_next_who_asks_gets_a_run(self, clock: FakeClock) -> None:
        door = Door()
        check = Check("one", door, timeout=2.0, ttl=60.0)
        run = check.begin()
        assert isinstance(run, Run)
        clock.advance(7.0)
        assert not check.has_passed
        report = run.wait()
        assert report is not None
        assert report.error == "timed out after 2 s"
        door.opened.set()
        eventually(lambda: check._run is None)

        assert not check.has_passed
        assert check._failures == 3
        assert check.run().passed
        assert door.calls == 2

    def test_one_that_nobody_waited_for_any_more_has_timed_out(self, clock: FakeClock) -> None:
        door = Door()
        check = Check("one", door, timeout=2.0, ttl=0)
        check.begin()
        assert door.inside.wait(PATIENCE)
        clock.advance(2.0)
        door.opened.set()
        eventually(lambda: check._run is None)

        assert (check._failures, check.has_passed) == (1, False)

    def test_the_child_of_a_fork_begins_anew(self, clock: FakeClock) -> None:
        door = Door()
        check = Check("one", door, timeout=2.0, ttl=0)
        check.begin()
        assert door.inside.wait(PATIENCE)
        door.opened.set()

        check.after_fork(clock.now())

        assert check.run().passed
        assert door.calls == 2

    def test_the_child_of_a_fork_does_not_answer_for_its_parent(self, clock: FakeClock) -> None:
        outcomes = iter([True, False, False, False])
        check = Check("one", lambda: next(outcomes), ttl=60.0, fail_after=2)
        assert check.run().passed
        check.after_fork(clock.now())
        assert (check.run().failures, check.has_passed) == (1, True)
        check.after_fork(clock.now())
        assert check.run().failures == 1


class TestBackground:
    def test_its_loop_is_kept_and_ends_with_its_tasks(self) -> None:
        known = set(threading.enumerate())
        background = BackgroundLoop()
        loops: list[object] = []
        began, cancelled = threading.Event(), threading.Event()

        async def look() -> None:
            loops.append(asyncio.get_running_loop())
            began.set()
            try:
                await asyncio.sleep(PATIENCE)
            except asyncio.CancelledError:
                cancelled.set()
                raise

        for _ in range(2):
            background.spawn(look)
            assert began.wait(PATIENCE)
            began.clear()
        background.stop()
        background.stop()
        assert cancelled.is_set()
        assert len(set(loops)) == 1

        background.spawn(look)
        assert began.wait(PATIENCE)
        background.stop()
        assert len(set(loops)) == 2
        assert "resilient-health-loop" not in {thread.name for thread in threading.enumerate() if thread not in known}

    @pytest.mark.realtime
    def test_a_program_that_used_it_ends_in_silence(self) -> None:
        program = """
import asyncio
from resilient.health import Check
async def quick(): ...
async def slow(): await asyncio.sleep(60)
assert Check("quick", quick).run().passed
Check("slow", slow).begin()
"""
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program],
            check=False,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": 3},
        {"name": None},
        {"function": "SELECT 1"},
        {"timeout": 0},
        {"timeout": None},
        {"ttl": -1},
        {"fail_after": 0},
        {"critical": "yes"},
        {"startup": 1},
    ],
)
def test_a_wrong_setting_is_refused_when_the_check_is_made(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Check(**{"name": "one", "function": print, **wrong})
    assert caught.value.setting == next(iter(wrong))


def test_a_generator_is_no_check() -> None:
    def steps() -> Any:
        yield 1

    with pytest.raises(ConfigurationError):
        Check("one", steps)
