"""What retry does after an attempt: an outcome goes in, a delay or the reason to stop comes out."""

from __future__ import annotations

import os
import random as random_module
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from math import inf
from typing import Final, Literal, cast

from resilient.core.backoff import Backoff, as_seconds, finite_seconds, qualified_name
from resilient.core.budget import RetryBudget
from resilient.core.checks import Matcher
from resilient.errors import ConfigurationError, RejectedError

_SOURCE: Final = random_module.Random()
if hasattr(os, "register_at_fork"):
    # Workers forked from one process must not wait in step.
    os.register_at_fork(after_in_child=_SOURCE.seed)


class Stop(Enum):
    """Why a call is not tried again."""

    NOT_RETRYABLE = ("not_retryable", "the error is not one to retry")
    EXHAUSTED = ("exhausted", "attempts exhausted")
    BUDGET = ("budget", "the retry budget is spent")
    DEADLINE = ("deadline", "the next attempt would start after the deadline")
    LATE = ("deadline", "the wait lasted until after the deadline")
    MAX_DURATION = ("deadline", "the next attempt would start after max_duration")
    RETRY_AFTER = ("exhausted", "the wait asked for is longer than retry_after_max")

    def __init__(self, result: str, reason: str) -> None:
        self.result = result
        """The value of `resilience.retry.result`."""
        self.reason = reason
        """For people."""


@dataclass(frozen=True, slots=True)
class RetryPlan:
    """The settings of a retry policy, checked and in seconds."""

    on: Matcher
    on_result: Callable[[object], object] | None
    attempts: int | None
    backoff: Backoff
    max_duration: float | None
    retry_after: Callable[[object], object] | None
    retry_after_max: float
    budget: RetryBudget | None
    on_exhausted: Literal["return", "raise"]


def add_one_note(error: Exception, note: str) -> None:
    """An exception object that is raised again and again keeps the last note of this policy, not all of them."""
    beginning = note.partition(": gave up")[0]
    notes: list[str] | None = getattr(error, "__notes__", None)
    if notes is not None:
        notes[:] = [old for old in notes if not old.startswith(beginning + ": gave up")]
    error.add_note(note)


class RetryRun:
    """One call under a plan, from its first failure on. Belongs to one call; not thread safe.

    Attributes:
        attempts: attempts made so far, the one under way included.
        delay: the last delay chosen, in seconds, or None.
    """

    __slots__ = ("_drawn", "_previous", "_random", "attempts", "delay", "plan", "started")

    def __init__(self, plan: RetryPlan, started: float, random: Callable[[], float] = _SOURCE.random) -> None:
        self.plan = plan
        self.started = started
        self.attempts = 1
        self.delay: float | None = None
        self._random = random
        self._previous: float | None = None
        self._drawn: float | None = None

    def upcoming(self) -> float | None:
        """The backoff that follows if the attempt under way fails and nobody asks for another wait; None: the last."""
        if self._exhausted():
            return None
        if self._drawn is None:
            self._drawn = self._backoff()
        return self._drawn

    def after_error(self, error: Exception, now: float, deadline: float = inf) -> float | Stop:
        """Seconds to wait before the next attempt, or why there is none."""
        on = self.plan.on
        if isinstance(error, RejectedError):
            retryable: object = _names_rejection(on, error)
        elif isinstance(on, (type, tuple)):
            retryable = isinstance(error, on)
        else:
            retryable = on(error)
            if isinstance(retryable, (int, float, timedelta)) and not isinstance(retryable, bool):
                delay = finite_seconds(retryable, "on", on)
                return Stop.EXHAUSTED if self._exhausted() else self._wait(delay, now, deadline)
        return self._next(error, now, deadline) if retryable else Stop.NOT_RETRYABLE

    def after_result(self, result: object, now: float, deadline: float = inf) -> float | Stop:
        """The same for a result that `on_result` asks to retry."""
        return self._next(result, now, deadline)

    def note(self, stop: Stop, now: float, policy: str | None = None) -> str:
        """What an exception is told about a retry that gave up; `policy` is the name of the retry policy."""
        who = "retry" if policy is None else f"retry {policy!r}"
        made = "1 attempt" if self.attempts == 1 else f"{self.attempts} attempts"
        return f"{who}: gave up after {made} in {now - self.started:.2f} s: {stop.reason}"

    def _next(self, outcome: object, now: float, deadline: float) -> float | Stop:
        if self._exhausted():
            return Stop.EXHAUSTED
        rejected = isinstance(outcome, RejectedError)
        wish = self._wish(outcome)
        if wish is not None and wish > self.plan.retry_after_max:
            return Stop.RETRY_AFTER
        if wish is None:
            delay = self._backoff()
        elif rejected:
            delay = max(wish, self._backoff())
        else:
            delay = wish
        return self._wait(delay, now, deadline)

    def _exhausted(self) -> bool:
        return self.plan.attempts is not None and self.attempts >= self.plan.attempts

    def _wish(self, outcome: object) -> float | None:
        """The wait asked for by the server or by the policy that refused: at least 0, perhaps inf."""
        read = self.plan.retry_after
        if isinstance(outcome, RejectedError):
            wish = as_seconds(getattr(outcome, "retry_after", None))
        elif read is None:
            return None
        else:
            answer = read(outcome)
            wish = as_seconds(answer)
            if answer is not None and wish is None:
                allowed = "seconds (a number or a timedelta) or None"
                raise ConfigurationError(
                    f"retry: retry_after={qualified_name(read)} returned {answer!r}, which is not allowed: {allowed}",
                    setting="retry_after",
                    value=answer,
                    allowed=allowed,
                )
        return wish if wish is not None and wish >= 0 else None

    def _backoff(self) -> float:
        if self._drawn is not None:
            drawn, self._drawn = self._drawn, None
            return drawn
        backoff = self.plan.backoff
        delay = finite_seconds(backoff.delay(self.attempts, self._previous, self._random), "backoff", backoff)
        self._previous = delay
        return delay

    def _wait(self, delay: float, now: float, deadline: float) -> float | Stop:
        plan = self.plan
        starts = now + delay
        if starts >= deadline:
            return Stop.DEADLINE
        if plan.max_duration is not None and starts >= self.started + plan.max_duration:
            return Stop.MAX_DURATION
        # Last, so that only a retry that takes place is paid for.
        if plan.budget is not None and not plan.budget.withdraw(now):
            return Stop.BUDGET
        self.attempts += 1
        self.delay = delay
        self._drawn = None
        return delay


def _names_rejection(on: Matcher, error: RejectedError) -> bool:
    """Does a class of rejections in `on` match? `Exception` is none, and predicates are not asked."""
    if not isinstance(on, (type, tuple)):
        return False
    classes = cast(tuple[type[BaseException], ...], on if isinstance(on, tuple) else (on,))
    return any(issubclass(cls, RejectedError) and isinstance(error, cls) for cls in classes)
