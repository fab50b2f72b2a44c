"""Checks: what is asked whether a service can work, once at a time however many want to know.

`Check.begin` starts a run, joins the one under way, or gives the newest report; it never waits. Whoever got a run
waits for it, as a thread or in a task of any event loop, until its time is over. A plain function runs on a thread of
its own, because nothing else can leave it behind; a coroutine in a task of the loop that asks first, or of a loop in
the background where a thread asks.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from math import inf
from threading import Thread
from typing import Any, Final, Literal

from resilient.core.checks import Checker, Seconds, refuse
from resilient.core.clock import CLOCK
from resilient.core.fork import new_lock, renew_after_fork
from resilient.decorate import kind_of
from resilient.drivers.tasks import TaskTimeouts, running_backend
from resilient.drivers.waiters import ThreadWaiter, task_waiter
from resilient.health.background import BACKGROUND
from resilient.health.scrubbing import describe_error, scrub_details
from resilient.telemetry.loop_lag import Loop, loop_of

Status = Literal["healthy", "degraded", "unhealthy"]
CheckFunction = Callable[[], object | Awaitable[object]]

_TURNS: Final = 3


@dataclass(frozen=True, slots=True)
class Report:
    """What a run of a check has found.

    Attributes:
        passed: did this run pass?
        status: "unhealthy" from the `fail_after`-th failure in a row on.
        failures: failed runs in a row; a run that hangs counts once more each time its timeout has passed again.
        seconds: how long the run took, or has taken so far.
        error: why it failed, without credentials and query strings, at most 200 characters.
        details: what the check gave beside its verdict.
        at: the instant, in seconds of the monotonic clock.
    """

    passed: bool
    status: Status
    failures: int
    seconds: float
    error: str | None
    details: Mapping[str, object] | None
    at: float


class Run:
    """One run of a check, for all who ask meanwhile."""

    __slots__ = ("_check", "_waiting", "due", "ended", "loop", "report", "started", "task")

    def __init__(self, check: Check, started: float) -> None:
        self._check = check
        self._waiting: list[Callable[[], object]] = []
        self.started = started
        self.due = started + check.timeout
        self.report: Report | None = None
        self.ended = False
        self.loop: Loop | None = None
        # An event loop holds its tasks only weakly.
        self.task: object = None

    def wait(self, until: float = inf) -> Report | None:
        """The report, once it is there; None at `until`, or where the run was given up with its event loop."""
        waiter = ThreadWaiter()
        if self._join(waiter.wake):
            waiter.wait_until(min(self.due, until))
        return self._outcome()

    async def wait_async(self, until: float = inf) -> Report | None:
        waiter = task_waiter()
        if self._join(waiter.wake):
            await waiter.wait_until(min(self.due, until))
        return self._outcome()

    def _join(self, wake: Callable[[], object]) -> bool:
        with self._check._lock:
            if self.ended or self.report is not None:
                return False
            self._waiting.append(wake)
            return True

    def _outcome(self) -> Report | None:
        with self._check._lock:
            self._check._expire_locked(self, CLOCK.now())
            return self.report

    def leave_waiting(self) -> list[Callable[[], object]]:
        waiting, self._waiting = self._waiting, []
        return waiting


class Check:
    """One check of a service; made by `Health.check`, `Health.add`, or by itself for `wait_until_healthy`.

    The function passes by returning, fails by raising or by returning False. A mapping that it returns is shown as
    details. Whatever it returns else means nothing.

    Args:
        name: how it is called in answers.
        function: takes no arguments; plain or async.
        timeout: seconds after which a run has failed. A coroutine is cancelled; a plain function goes on on its
            thread, no second one is started beside it, and the check fails until it is back.
        ttl: seconds for which a report is given again without a new run; 0: each who asks when none is under way
            makes one.
        critical: does its failure make the service unhealthy, or degraded only?
        fail_after: it is unhealthy from so many failures in a row on.
        startup: must it have passed once before `/startup` is healthy?

    Raises:
        ConfigurationError: a setting is wrong.

    Example:
        >>> from resilient.health import Check
        >>> Check("memory", lambda: True).run().status
        'healthy'
    """

    def __init__(
        self,
        name: str,
        function: CheckFunction,
        *,
        timeout: Seconds = 2.0,
        ttl: Seconds = 1.0,
        critical: bool = True,
        fail_after: int = 1,
        startup: bool = False,
    ) -> None:
        check = Checker("health check", name)
        if not isinstance(name, str):
            refuse("health check", "name", name, "a string that is not empty")
        kind = kind_of(function) if callable(function) else None
        if kind not in ("function", "async function"):
            refuse(check.policy, "function", function, "a function without arguments, plain or async")
        for setting, value in (("critical", critical), ("startup", startup)):
            check.instance(setting, value, bool)
        self.name: Final = name
        self.function: Final = function
        self.timeout: Final = check.seconds("timeout", timeout)
        self.ttl: Final = check.seconds("ttl", ttl, zero=True)
        self.critical: Final = critical
        self.fail_after: Final = check.whole("fail_after", fail_after)
        self.startup: Final = startup
        self._is_async: Final = kind == "async function"
        self._timeouts: Final = TaskTimeouts(self.timeout)
        self._timed_out: Final = f"timed out after {self.timeout:g} s"
        self._lock: Final = new_lock()
        self._run: Run | None = None
        self._latest: Report | None = None
        self._failures = 0
        self._has_passed = False
        renew_after_fork(self)

    def __repr__(self) -> str:
        return f"<Check {self.name}>"

    @property
    def has_passed(self) -> bool:
        """Has any run passed so far?"""
        return self._has_passed

    def run(self) -> Report:
        """What the check finds, from a run of its own only where none is under way and the newest is too old."""
        return run_checks((self,))[self.name]

    async def run_async(self) -> Report:
        """The same in a task of asyncio or trio."""
        return (await run_checks_async((self,)))[self.name]

    def begin(self, *, in_task: bool = False, fresh: bool = False) -> Report | Run:
        """The newest report, or the run that is going to make one. Never waits.

        Args:
            in_task: a coroutine may run in the event loop of the caller.
            fresh: no report that was there before.
        """
        now = CLOCK.now()
        with self._lock:
            run = self._run
            if run is not None:
                self._expire_locked(run, now)
                if run.report is None:
                    return run
                if run.loop is None or not run.loop.is_over():
                    return self._stuck_locked(run, now)
            elif not fresh and self._latest is not None and now < self._latest.at + self.ttl:
                return self._latest
            run = self._run = Run(self, now)
        self._launch(run, in_task)
        return run

    def after_fork(self, now: float) -> None:
        """The thread or the loop that runs it is in the parent only, and verdicts were on that."""
        self._run = self._latest = None
        self._failures = 0

    def _launch(self, run: Run, in_task: bool) -> None:
        try:
            if not self._is_async:
                work = partial(Context().run, self._work, run)
                Thread(target=work, name=f"resilient-health-{self.name}", daemon=True).start()
                return
            backend = running_backend() if in_task else None
            if backend is None:
                BACKGROUND.spawn(partial(self._work_async, run))
                return
            run.loop = loop_of(None)
            if backend == "trio":
                sys.modules["trio"].lowlevel.spawn_system_task(self._work_async, run, context=Context())
            else:
                import asyncio

                run.task = asyncio.get_running_loop().create_task(self._work_async(run), context=Context())
        except RuntimeError as error:
            # No more threads, or a loop that is closing.
            self._end(run, describe_error(error))

    def _work(self, run: Run) -> None:
        try:
            result: Any = self.function()
        except BaseException as error:  # noqa: BLE001 - on a thread of ours nobody else would hear of it
            self._end(run, describe_error(error))
            return
        if isinstance(result, Awaitable):
            close = getattr(result, "close", None)
            if close is not None:
                close()
            self._end(run, "the function gave something to await: write it as an async def")
            return
        self._end(run, None, result)

    async def _work_async(self, run: Run) -> None:
        function: Any = self.function
        block = self._timeouts.block()
        block.enter()
        try:
            try:
                result = await function()
            except BaseException as error:
                if block.exit(error):
                    self._end(run, self._timed_out)
                    return
                raise
            block.exit(None)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - what a check raises is its verdict
            self._end(run, describe_error(error))
        except BaseException:
            # The loop ends. That says nothing about what was checked: others may ask anew.
            self._give_up(run)
            raise
        else:
            self._end(run, None, result)

    def _end(self, run: Run, error: str | None, result: object = None) -> None:
        if error is None and result is False:
            error = "the check returned False"
        details = scrub_details(result) if isinstance(result, Mapping) else None
        now = CLOCK.now()
        with self._lock:
            if self._run is not run:
                return
            self._expire_locked(run, now)
            if run.report is None:
                run.report = self._record_locked(error, details, now - run.started, now)
            elif error != self._timed_out:
                # It was late. Whoever asks next gets a run of his own, however young the verdict on this one.
                self._failures = self._stuck_locked(run, now).failures
                self._latest = None
            waiting = self._close_locked(run)
        for wake in waiting:
            wake()

    def _give_up(self, run: Run) -> None:
        with self._lock:
            if self._run is not run:
                return
            waiting = self._close_locked(run)
        for wake in waiting:
            wake()

    def _close_locked(self, run: Run) -> list[Callable[[], object]]:
        self._run = None
        run.ended = True
        return run.leave_waiting()

    def _expire_locked(self, run: Run, now: float) -> None:
        if run.report is None and not run.ended and now >= run.due:
            run.report = self._record_locked(self._timed_out, None, now - run.started, now)

    def _record_locked(
        self, error: str | None, details: Mapping[str, object] | None, seconds: float, now: float
    ) -> Report:
        passed = error is None
        self._failures = 0 if passed else self._failures + 1
        self._has_passed = self._has_passed or passed
        report = Report(passed, self._status(self._failures), self._failures, seconds, error, details, now)
        self._latest = report
        return report

    def _stuck_locked(self, run: Run, now: float) -> Report:
        """A run that is not back from a time that has passed, maybe more than once since."""
        seconds = now - run.started
        failures = self._failures + max(0, int(seconds / self.timeout) - 1)
        error = f"still running since {seconds:.1f} s (timeout {self.timeout:g} s)"
        return Report(False, self._status(failures), failures, seconds, error, None, now)

    def _status(self, failures: int) -> Status:
        return "unhealthy" if failures >= self.fail_after else "healthy"


def run_checks(checks: Iterable[Check], *, until: float = inf, fresh: bool = False) -> dict[str, Report]:
    """The reports of all these checks, run side by side; those that are not there at `until` are left out."""
    started = [(check, check.begin(fresh=fresh)) for check in checks]
    reports: dict[str, Report] = {}
    for check, first in started:
        for turn in range(_TURNS):
            begun = check.begin(fresh=fresh) if turn else first
            report = begun if isinstance(begun, Report) else begun.wait(until)
            if report is not None or CLOCK.now() >= until:
                break
        else:
            report = _interrupted(check)
        if report is not None:
            reports[check.name] = report
    return reports


async def run_checks_async(checks: Iterable[Check], *, until: float = inf, fresh: bool = False) -> dict[str, Report]:
    """The same in a task of asyncio or trio."""
    started = [(check, check.begin(in_task=True, fresh=fresh)) for check in checks]
    reports: dict[str, Report] = {}
    for check, first in started:
        for turn in range(_TURNS):
            begun = check.begin(in_task=True, fresh=fresh) if turn else first
            report = begun if isinstance(begun, Report) else await begun.wait_async(until)
            if report is not None or CLOCK.now() >= until:
                break
        else:
            report = _interrupted(check)
        if report is not None:
            reports[check.name] = report
    return reports


def _interrupted(check: Check) -> Report:
    """The check has ended again and again as if its event loop were ending."""
    return Report(False, "unhealthy", check.fail_after, 0.0, "cancelled by something else", None, CLOCK.now())
