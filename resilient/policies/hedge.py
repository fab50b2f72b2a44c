"""Hedge: where an answer is late, ask again beside it and take the answer that comes first."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum, auto
from functools import partial
from math import inf
from types import TracebackType
from typing import Any, ClassVar, Literal, NoReturn, Self

from resilient.blocks import current_owner
from resilient.core.budget import RetryBudget
from resilient.core.checks import Checker, Matcher, Seconds, matches, names_rejections, refuse
from resilient.core.clock import CLOCK
from resilient.core.deadline import deadline_at
from resilient.core.meters_hedge import HedgeMeter
from resilient.core.quantile import RecentQuantile
from resilient.core.tracing import HEDGE_WINNER, UNTRACED, Part, note, trace_hedge
from resilient.drivers.races import Finish, ThreadRace, task_race
from resilient.drivers.threads import warn_if_loop_runs
from resilient.errors import RejectedError
from resilient.operation import Args, AsyncCall, Kwargs, Operation, SyncCall
from resilient.policies.base import Policy
from resilient.policies.hedge_settings import NO_BLOCK, HedgeSettings, Percentile
from resilient.registry import Registry, registry


class Hedge(Policy):
    """A hedge policy; made by `hedge(...)`."""

    __slots__ = ("_latency", "_meter", "_warned")

    kind: ClassVar[str] = "hedge"

    def __init__(self, name: str | None, settings: HedgeSettings, registry: Registry) -> None:
        super().__init__(name, settings, registry)
        delay = settings.delay
        self._latency = RecentQuantile(delay.share, warmup=delay.warmup) if isinstance(delay, Percentile) else None
        self._meter = HedgeMeter()
        self._warned = False

    def snapshot(self) -> dict[str, object]:
        """The delay in force (None while it warms up), and calls and attempts by result, as totals."""
        snapshot: dict[str, object] = {
            "delay": self._delay(),
            "calls": self._meter.calls(),
            "attempts": self._meter.attempts(),
        }
        if self._settings.budget is not None:
            snapshot["budget"] = self._settings.budget.snapshot()
        return snapshot

    def count_on(self, older: Hedge, /) -> None:
        self._meter = older._meter

    def refusal(self, use: str) -> str | None:
        if use.startswith("block"):
            return NO_BLOCK
        if use in ("generator", "async generator"):
            return f"{self._shown()} can't guard {use} functions: items already given out can't be taken back"
        return None

    def __enter__(self) -> NoReturn:
        raise TypeError(NO_BLOCK)

    def __aenter__(self) -> NoReturn:
        raise TypeError(NO_BLOCK)

    def wrap_sync(self, call: SyncCall, operation: Operation) -> SyncCall:
        def guarded(args: Args, kwargs: Kwargs) -> Any:
            delay = self._begin()
            if delay is None:
                with _Alone(self):
                    return call(args, kwargs)
            if not self._warned:
                self._warned = warn_if_loop_runs(self._shown(), "`async def` or call_async")
            work = partial(call, args, kwargs)
            with _Hedged(self, operation, delay, "lost") as hedged:
                with ThreadRace(current_owner()) as race:
                    step = _Step.START
                    while step is not _Step.END:
                        if step is _Step.START:
                            race.start(hedged.begin_attempt(), hedged.traced(work), hedged.due)
                        step = hedged.after(race.next())
                return hedged.outcome()

        return guarded

    def wrap_async(self, call: AsyncCall, operation: Operation) -> AsyncCall:
        async def guarded(args: Args, kwargs: Kwargs) -> Any:
            delay = self._begin()
            if delay is None:
                with _Alone(self):
                    return await call(args, kwargs)
            work = partial(call, args, kwargs)
            with _Hedged(self, operation, delay, "cancelled") as hedged:
                async with task_race() as race:
                    step = _Step.START
                    while step is not _Step.END:
                        if step is _Step.START:
                            race.start(hedged.begin_attempt(), hedged.traced_async(work), hedged.due)
                        step = hedged.after(await race.next())
                return hedged.outcome()

        return guarded

    def _begin(self) -> float | None:
        """Count the call for the budget; the delay before a hedge, or None where there is to be none."""
        budget = self._settings.budget
        if budget is not None:
            budget.deposit(CLOCK.now())
        return self._delay()

    def _delay(self) -> float | None:
        delay = self._settings.delay
        if self._latency is None:
            return float(delay)
        quantile = self._latency.value
        return None if quantile is None else max(delay.minimum, quantile)

    def _learn(self, seconds: float) -> None:
        if self._latency is not None:
            self._latency.add(seconds)

    def _may_start(self, now: float) -> bool:
        """Does the budget allow another attempt, and is there time left? The budget is asked last: it counts."""
        budget = self._settings.budget
        return now < deadline_at() and (budget is None or budget.withdraw(now))


def _within(part: Part, work: Callable[[], Any]) -> Any:
    with part:
        return work()


async def _within_async(part: Part, work: Callable[[], Awaitable[Any]]) -> Any:
    with part:
        return await work()


class _Alone:
    """A call while the percentile warms up: one attempt, where the caller is."""

    __slots__ = ("_hedge", "_started")

    def __init__(self, hedge: Hedge) -> None:
        self._hedge = hedge
        self._started = CLOCK.now()

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        meter = self._hedge._meter
        if error is None:
            meter.not_hedged += 1
            meter.attempts_won += 1
            self._hedge._learn(CLOCK.now() - self._started)
        elif isinstance(error, Exception):
            meter.failed += 1
            meter.attempts_failed += 1
        else:
            meter.attempts_cancelled += 1


class _Step(Enum):
    START = auto()
    WAIT = auto()
    END = auto()


class _Hedged:
    """The decisions of one call, and at its end its counts.

    Attributes:
        due: the instant at which the attempt begun last is late.
    """

    __slots__ = (
        "_begun",
        "_delay",
        "_hedge",
        "_last",
        "_operation",
        "_over",
        "_parts",
        "_running",
        "_started",
        "_stopped",
        "due",
    )

    def __init__(self, hedge: Hedge, operation: Operation, delay: float, stopped: Literal["lost", "cancelled"]) -> None:
        self._hedge = hedge
        self._operation = operation
        self._delay = delay
        self._stopped = stopped
        self._started = self.due = CLOCK.now()
        self._begun = self._running = 0
        self._over = False
        self._parts: dict[int, Part] = {}
        self._last: Finish | None = None

    def begin_attempt(self) -> int:
        """The number of the attempt that is about to be started."""
        now = CLOCK.now()
        self._begun += 1
        self._running += 1
        self.due = now + self._delay if self._begun <= self._hedge._settings.max_hedges else inf
        if self._begun > 1:
            data = {"attempt": self._begun, "after": now - self._started}
            self._hedge._tell("hedge_started", self._operation.name, data, now)
        return self._begun

    def traced(self, work: Callable[[], Any]) -> Callable[[], Any]:
        """The work of the attempt begun last; a hedge is a part of the trace."""
        part = self._part()
        return work if part is UNTRACED else partial(_within, part, work)

    def traced_async(self, work: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
        part = self._part()
        return work if part is UNTRACED else partial(_within_async, part, work)

    def _part(self) -> Part:
        if self._begun == 1:
            return UNTRACED
        part = trace_hedge(self._begun, lambda: self._stopped if self._over else None)
        if part is not UNTRACED:
            self._parts[self._begun] = part
        return part

    def after(self, finish: Finish | None) -> _Step:
        """What comes after an attempt has ended, or after None: the attempt begun last is late."""
        if finish is not None:
            self._last = finish
            if isinstance(finish.error, Exception) and finish.number in self._parts:
                self._parts[finish.number].settle("failed")
            if finish.error is None or not self._goes_on_after(finish.error):
                return _Step.END
        wanted = finish is None or not self._is_rejection(finish.error)
        if wanted and self._begun <= self._hedge._settings.max_hedges and self._hedge._may_start(CLOCK.now()):
            return _Step.START
        return _Step.WAIT if self._running else _Step.END

    def outcome(self) -> Any:
        """The result of the attempt that ended last, or its error raised."""
        finish, self._last = self._last, None
        assert finish is not None
        error = finish.error
        if error is None:
            self._last = finish
            return finish.result
        try:
            raise error
        finally:
            del error, finish

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        meter = self._hedge._meter
        winner, self._last = self._last, None
        self._over = True
        for number, part in self._parts.items():
            won = error is None and winner is not None and winner.number == number
            part.settle("won" if won else self._stopped)
        if error is None and winner is not None:
            self._running -= 1
            meter.attempts_won += 1
            if self._begun == 1:
                meter.not_hedged += 1
            elif winner.number == 1:
                meter.primary_won += 1
                note(HEDGE_WINNER, "primary")
            else:
                meter.hedge_won += 1
                note(HEDGE_WINNER, "hedge")
            # From the beginning of the call, also where a hedge has won: were slow calls to vanish from the percentile,
            # it would fall, and call for more and more hedges.
            self._hedge._learn(CLOCK.now() - self._started)
        elif isinstance(error, Exception):
            meter.failed += 1
        running = self._running
        if self._stopped == "lost":
            meter.attempts_lost += running
        else:
            meter.attempts_cancelled += running

    def _goes_on_after(self, error: BaseException) -> bool:
        """May the call still succeed after this error of an attempt?"""
        self._running -= 1
        meter = self._hedge._meter
        if not isinstance(error, Exception):
            meter.attempts_cancelled += 1
            return False
        meter.attempts_failed += 1
        return self._is_rejection(error) or matches(self._hedge._settings.on, error)

    def _is_rejection(self, error: BaseException | None) -> bool:
        """A refusal by a policy inside says nothing about attempts that run, and the next one would be refused, too."""
        return isinstance(error, RejectedError) and not names_rejections(self._hedge._settings.on)


def hedge(
    *,
    delay: Seconds | Percentile,
    max_hedges: int = 1,
    on: Matcher = Exception,
    budget: RetryBudget | None = None,
    name: str | None = None,
    registry: Registry = registry,
) -> Hedge:
    """Where a call is not back after `delay`, start another one beside it; the first success wins.

    Only for functions that are safe to run twice at once. An attempt that fails starts the next at once; when all
    fail, the error of the last is raised. No attempt is started after the deadline of an enclosing timeout.

    In async code attempts run in tasks of their own, and the losers are cancelled and awaited. In plain code they run
    on helper threads; a loser is left to end there, and its result is dropped. Both run in copies of the context.

    Args:
        delay: seconds of at least 0, or `percentile(...)` of the calls that succeeded.
        max_hedges: further attempts, at least 1.
        on: errors after which another attempt may do better; others are raised at once. Rejections by inner policies
            (`RejectedError`) start no other attempt, unless `on` is or holds a class of rejections; attempts that run
            already may still succeed.
        budget: shared with retry policies; when it is spent no further attempt is started.
        name: shared by all who give it; the settings must then be equal. Default: name of the first guarded function.
        registry: where the name is registered.

    Raises:
        ConfigurationError: a setting is wrong, or the name has other settings already.

    The idea is that of Dean and Barroso, "The Tail at Scale", Communications of the ACM 56 (2013).

    Example:
        >>> from resilient import hedge
        >>> @hedge(delay=0.2)
        ... def look_up(key: str) -> str:
        ...     return key.upper()
        >>> look_up("a")
        'A'
    """
    check = Checker("hedge", name)
    if budget is not None and not isinstance(budget, RetryBudget):
        refuse(check.policy, "budget", budget, "a RetryBudget, or None")
    if callable(delay):
        refuse(check.policy, "delay", delay, "seconds of at least 0, or percentile(...)")
    settings = HedgeSettings(
        delay=delay if isinstance(delay, Percentile) else check.seconds("delay", delay, zero=True),
        max_hedges=check.whole("max_hedges", max_hedges),
        on=check.matcher("on", on),
        budget=budget,
    )
    check.instance("registry", registry, Registry)
    if name is None:
        return Hedge(None, settings, registry)
    return registry.obtain(Hedge.kind, name, lambda: Hedge(name, settings, registry))
