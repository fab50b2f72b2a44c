"""The users in front of a client: who came, what they got, how long it took. Time comes in as a number."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final, Literal, get_args

Outcome = Literal["answered", "from_memory", "default", "failed", "gave_up"]

MARKS: Final = 60


@dataclass(slots=True)
class Request:
    """What one user wants. `outcome` is None until it is known."""

    number: int
    item: int
    at: float
    outcome: Outcome | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """How it ended for one user."""

    at: float
    waited: float
    outcome: Outcome


@dataclass(slots=True)
class Bin:
    """The users who came in one stretch of the run. `answered` are those with a fresh answer."""

    came: int = 0
    answered: int = 0
    from_memory: int = 0
    default: int = 0
    failed: int = 0

    @property
    def waiting(self) -> int:
        return self.came - self.answered - self.from_memory - self.default - self.failed

    def __add__(self, other: Bin) -> Bin:
        return Bin(
            self.came + other.came,
            self.answered + other.answered,
            self.from_memory + other.from_memory,
            self.default + other.default,
            self.failed + other.failed,
        )


@dataclass(frozen=True, slots=True)
class Tally:
    """What a number of users got.

    `answered` and the quantiles are of fresh answers; `wasted` is the seconds spent waiting for an error or a default.
    """

    answered: int = 0
    from_memory: int = 0
    default: int = 0
    failed: int = 0
    gave_up: int = 0
    wasted: float = 0.0
    p50: float | None = None
    p99: float | None = None

    @property
    def errors(self) -> int:
        return self.failed + self.gave_up

    @property
    def unanswered(self) -> int:
        return self.default + self.errors

    @property
    def users(self) -> int:
        return self.answered + self.from_memory + self.unanswered


class Users:
    """Everybody who asked one client for something. A user who has waited for `patience` seconds is gone."""

    def __init__(self, seconds: float, patience: float) -> None:
        self.seconds = seconds
        self.patience = patience
        self.came = 0
        self.bins = [Bin() for _ in range(MARKS)]
        self.settled: list[Settled] = []
        self._waiting: dict[int, Request] = {}

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def come(self, number: int, item: int, at: float) -> Request:
        request = self._waiting[number] = Request(number, item, at)
        self.came += 1
        self._bin(at).came += 1
        return request

    def settle(self, request: Request, outcome: Outcome, at: float) -> None:
        """The client is done with a request; if its user has gone by now, nobody learns of it."""
        if request.outcome is None and at - request.at >= self.patience:
            outcome, at = "gave_up", request.at + self.patience
        if request.outcome is not None:
            return
        request.outcome = outcome
        del self._waiting[request.number]
        # A user gone while nobody looked has gone before those whose end is on record: keep the order of time.
        last = self.settled[-1].at if self.settled else 0.0
        self.settled.append(Settled(max(at, last), at - request.at, outcome))
        bin_ = self._bin(request.at)
        if outcome == "answered":
            bin_.answered += 1
        elif outcome == "from_memory":
            bin_.from_memory += 1
        elif outcome == "default":
            bin_.default += 1
        else:
            bin_.failed += 1

    def lose_patience(self, now: float) -> None:
        """Those who have waited long enough give up."""
        for request in list(self._waiting.values()):
            if now - request.at < self.patience:
                break
            self.settle(request, "gave_up", now)

    def tally(self, since: float = 0.0) -> Tally:
        """What users got whose requests ended at or after `since`."""
        return tally(self.settled_since(since))

    def settled_since(self, since: float) -> list[Settled]:
        return self.settled[bisect_left(self.settled, since, key=lambda settled: settled.at) :]

    def _bin(self, at: float) -> Bin:
        return self.bins[min(MARKS - 1, int(at / self.seconds * MARKS))]


def tally(settled: Iterable[Settled]) -> Tally:
    counts: dict[Outcome, int] = dict.fromkeys(get_args(Outcome), 0)
    wasted = 0.0
    answers: list[float] = []
    for one in settled:
        counts[one.outcome] += 1
        if one.outcome == "answered":
            answers.append(one.waited)
        elif one.outcome != "from_memory":
            wasted += one.waited
    return Tally(**counts, wasted=wasted, p50=quantile(answers, 0.5), p99=quantile(answers, 0.99))


def quantile(values: Sequence[float], share: float) -> float | None:
    """The nearest-rank quantile; None of nothing."""
    if not values:
        return None
    return sorted(values)[max(0, ceil(share * len(values)) - 1)]
