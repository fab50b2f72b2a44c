"""Waiting, at startup, until what a service depends on is there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from random import random
from typing import TYPE_CHECKING, Final, TypeAlias, Union
from urllib.parse import urlsplit

from resilient.core.backoff import Backoff, exponential
from resilient.core.checks import Checker, Seconds, refuse
from resilient.core.clock import CLOCK
from resilient.decorate import name_of
from resilient.drivers import tasks, threads
from resilient.errors import ResilienceError
from resilient.health.checks import Check, CheckFunction, Report, run_checks, run_checks_async
from resilient.health.ready_made import http, tcp
from resilient.health.scrubbing import scrub

if TYPE_CHECKING:
    from resilient.health.health import Health

_BACKOFF: Final = exponential(initial=0.1, factor=2.0, max=2.0, jitter="equal")
_ALLOWED: Final = "checks, functions, a Health, or URLs such as tcp://db:5432 and http://api/health"
_NO_ANSWER: Final = "no answer yet"

Dependency: TypeAlias = Union[Check, CheckFunction, str, "Health"]


class NotHealthyError(ResilienceError, TimeoutError):
    """Not all that was waited for has become healthy in time.

    Attributes:
        missing: what is not, with the newest error of each.
        seconds: how long it was waited for.
    """

    missing: dict[str, str]
    seconds: float

    def __init__(self, message: str = "", *, missing: Mapping[str, str] | None = None, seconds: float = 0.0) -> None:
        super().__init__(message)
        self.missing = dict(missing or {})
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the wait has come, after each round.

    Attributes:
        turn: number of the round, from 1 on.
        seconds: waited so far.
        remaining: seconds left.
        healthy: what has passed, in order of names given.
        missing: what has not, with its newest error.
    """

    turn: int
    seconds: float
    remaining: float
    healthy: tuple[str, ...]
    missing: Mapping[str, str]


def wait_until_healthy(
    checks: Dependency | Iterable[Dependency],
    timeout: Seconds = 60.0,
    *,
    check_timeout: Seconds = 2.0,
    backoff: Backoff = _BACKOFF,
    on_progress: Callable[[Progress], object] | None = None,
) -> None:
    """Block until each of these has passed once, asking again and again.

    Args:
        checks: checks; functions as for `Health.add`; the checks of a `Health`; `tcp://host:port`, which has to take a
            connection; `http://...` or `https://...`, which has to answer a GET with a status from 200 to 299.
        timeout: seconds for all of them together.
        check_timeout: seconds for one try of a URL or function; a `Check` has its own.
        backoff: waits between rounds, from `resilient.backoff`. What has passed is not asked again.
        on_progress: called after each round. What it raises ends the wait.

    Raises:
        NotHealthyError: the time is over; it says what is missing, and why.
        ConfigurationError: a setting is wrong, or a URL of another kind.

    Example:
        >>> from resilient.health import wait_until_healthy
        >>> wait_until_healthy([lambda: True], timeout=5, on_progress=lambda progress: print(progress.turn))
        1
    """
    threads.warn_if_loop_runs("wait_until_healthy", "`await wait_until_healthy_async(...)`")
    wait = _Wait(checks, timeout, check_timeout, backoff, on_progress)
    while (pause := wait.note(run_checks(wait.missing(), until=wait.until, fresh=True))) is not None:
        threads.sleep(pause)


async def wait_until_healthy_async(
    checks: Dependency | Iterable[Dependency],
    timeout: Seconds = 60.0,
    *,
    check_timeout: Seconds = 2.0,
    backoff: Backoff = _BACKOFF,
    on_progress: Callable[[Progress], object] | None = None,
) -> None:
    """The same in a task of asyncio or trio."""
    wait = _Wait(checks, timeout, check_timeout, backoff, on_progress)
    while (pause := wait.note(await run_checks_async(wait.missing(), until=wait.until, fresh=True))) is not None:
        await tasks.sleep(pause)


class _Wait:
    """What has passed, what has not, and how long to wait before asking again."""

    def __init__(
        self,
        checks: object,
        timeout: Seconds,
        check_timeout: Seconds,
        backoff: Backoff,
        on_progress: Callable[[Progress], object] | None,
    ) -> None:
        check = Checker("wait_until_healthy")
        seconds = check.seconds("timeout", timeout)
        check.instance("backoff", backoff, Backoff)
        self._on_progress = check.optional_function("on_progress", on_progress, "a function that takes a Progress")
        self._checks = _named_apart(_checks_of(checks, check.seconds("check_timeout", check_timeout)))
        self._backoff = backoff
        self._errors: dict[str, str] = dict.fromkeys(self._checks, _NO_ANSWER)
        self._turn = 0
        self._pause: float | None = None
        self._began = CLOCK.now()
        self.until = self._began + seconds

    def missing(self) -> list[Check]:
        return [check for name, check in self._checks.items() if name in self._errors]

    def note(self, reports: Mapping[str, Report]) -> float | None:
        """Take in a round; gives the seconds before the next, or None where all has passed."""
        now = CLOCK.now()
        self._turn += 1
        for name, check in self._checks.items():
            report = reports.get(check.name)
            if report is None or name not in self._errors:
                continue
            if report.passed:
                del self._errors[name]
            else:
                self._errors[name] = report.error or _NO_ANSWER
        if self._on_progress is not None:
            healthy = tuple(name for name in self._checks if name not in self._errors)
            remaining = max(0.0, self.until - now)
            self._on_progress(Progress(self._turn, now - self._began, remaining, healthy, dict(self._errors)))
        if not self._errors:
            return None
        self._pause = self._backoff.delay(self._turn, self._pause, random)
        left = self.until - CLOCK.now()
        if left <= 0:
            raise self._over()
        return min(self._pause, left)

    def _over(self) -> NotHealthyError:
        seconds = CLOCK.now() - self._began
        missing = "; ".join(f"{name} ({error})" for name, error in self._errors.items())
        return NotHealthyError(f"not healthy after {seconds:.3g} s: {missing}", missing=self._errors, seconds=seconds)


def _named_apart(checks: Iterable[Check]) -> dict[str, Check]:
    named: dict[str, Check] = {}
    for check in checks:
        if named.setdefault(check.name, check) is not check:
            refuse(
                "wait_until_healthy",
                "checks",
                check.name,
                "names that are all different: Check(name, function) has one of its own",
            )
    if not named:
        refuse("wait_until_healthy", "checks", (), "at least one check")
    return named


def _checks_of(dependencies: object, timeout: float) -> Iterable[Check]:
    held: object = getattr(dependencies, "checks", None)
    if isinstance(held, tuple):
        yield from held
    elif isinstance(dependencies, Check):
        yield dependencies
    elif isinstance(dependencies, str):
        yield _check_of_url(dependencies, timeout)
    elif isinstance(dependencies, Iterable):
        for dependency in dependencies:
            yield from _checks_of(dependency, timeout)
    elif callable(dependencies):
        yield Check(name_of(dependencies), dependencies, timeout=timeout, ttl=0)
    else:
        refuse("wait_until_healthy", "checks", dependencies, _ALLOWED)


def _check_of_url(url: str, timeout: float) -> Check:
    """A check that goes by its URL, without what is secret in it."""
    name = scrub(url)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        refuse("wait_until_healthy", "checks", name, _ALLOWED)
    if parts.scheme == "tcp" and parts.hostname and port and not parts.path.strip("/"):
        return Check(name, tcp(parts.hostname, port, timeout=timeout), timeout=timeout, ttl=0)
    if parts.scheme in ("http", "https") and parts.hostname:
        return Check(name, http(url, timeout=timeout), timeout=timeout, ttl=0)
    refuse("wait_until_healthy", "checks", name, _ALLOWED)
