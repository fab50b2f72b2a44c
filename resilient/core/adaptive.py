"""Limits that find themselves: how many calls at once the other side can take, judged by how long they take.

The algorithms and their constants are those of Netflix's concurrency-limits (Apache License 2.0,
https://github.com/Netflix/concurrency-limits), which explains them. They differ in one point: a dropped call (timed out
or rejected) always shrinks the limit, and its duration, which says when somebody gave up, is not measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, log10
from random import Random
from typing import Final, Literal

from resilient.core.checks import Checker, refuse
from resilient.core.permits import LimitRule

Algorithm = Literal["gradient2", "vegas", "aimd"]

_SHRINK: Final = 0.9

_QUEUE: Final = 4
_SMOOTHING: Final = 0.2
_TOLERANCE: Final = 1.5
_STEEPEST: Final = 0.5
_LONG_WINDOW: Final = 600
_WARM_UP: Final = 10
_DECAY: Final = 0.95

_ALPHA: Final = 3
_BETA: Final = 6
_PROBE: Final = 30


@dataclass(frozen=True, slots=True)
class AdaptiveLimit:
    """What `adaptive(...)` was given; equal to another of the same settings."""

    initial: int
    minimum: int
    maximum: int
    algorithm: Algorithm

    def rule(self) -> LimitRule:
        """A new rule that starts at `initial`."""
        if self.algorithm == "aimd":
            return Aimd(self.initial, self.minimum, self.maximum)
        if self.algorithm == "vegas":
            return Vegas(self.initial, self.minimum, self.maximum)
        return Gradient2(self.initial, self.minimum, self.maximum)


class Aimd:
    """Additive increase, multiplicative decrease: one more after each success, a tenth less after each drop."""

    __slots__ = ("_maximum", "_minimum", "limit")

    def __init__(self, initial: int, minimum: int, maximum: int) -> None:
        self._minimum = minimum
        self._maximum = maximum
        self.limit = initial

    def sample(self, duration: float, in_flight: int, dropped: bool) -> int:
        limit = self.limit
        if dropped:
            limit = int(limit * _SHRINK)
        elif in_flight * 2 >= limit:
            limit += 1
        self.limit = min(self._maximum, max(self._minimum, limit))
        return self.limit


class Vegas:
    """After TCP Vegas: how many calls queue on the other side, by how much longer they take than the fastest did.

    The fastest is measured anew from time to time, after 15 to 30 calls for each call of the limit.
    """

    __slots__ = ("_calls", "_draw", "_fastest", "_maximum", "_minimum", "_patience", "limit")

    def __init__(
        self, initial: int, minimum: int, maximum: int, draw: Callable[[float, float], float] | None = None
    ) -> None:
        self._minimum = minimum
        self._maximum = maximum
        self._fastest: float | None = None
        self._draw = Random().uniform if draw is None else draw
        self._patience = self._draw(0.5, 1.0)
        self._calls = 0
        self.limit = initial

    def sample(self, duration: float, in_flight: int, dropped: bool) -> int:
        limit = self.limit
        step = max(1, int(log10(limit)))
        if dropped:
            return self._set(limit - step)
        self._calls += 1
        if self._patience * _PROBE * limit <= self._calls:
            self._patience = self._draw(0.5, 1.0)
            self._calls = 0
            self._fastest = duration
            return limit
        if self._fastest is None or duration < self._fastest:
            self._fastest = duration
            return limit
        if in_flight * 2 < limit:
            return limit
        queue = ceil(limit * (1 - self._fastest / duration)) if duration > 0 else 0
        if queue <= step:
            return self._set(limit + _BETA * step)
        if queue < _ALPHA * step:
            return self._set(limit + step)
        if queue > _BETA * step:
            return self._set(limit - step)
        return limit

    def _set(self, limit: int) -> int:
        self.limit = min(self._maximum, max(self._minimum, limit))
        return self.limit


class Gradient2:
    """By the ratio of the long-term average duration to that of the last call; some queueing is allowed for."""

    __slots__ = ("_estimate", "_long", "_maximum", "_measured", "_minimum", "limit")

    def __init__(self, initial: int, minimum: int, maximum: int) -> None:
        self._minimum = minimum
        self._maximum = maximum
        self._estimate = float(initial)
        self._long = 0.0
        self._measured = 0
        self.limit = initial

    def sample(self, duration: float, in_flight: int, dropped: bool) -> int:
        if int(self._estimate) != self.limit:
            # Resized by hand.
            self._estimate = float(self.limit)
        estimate = self._estimate
        if dropped:
            return self._approach(estimate * _STEEPEST)
        long = self._average(duration)
        if long > 2 * duration:
            # Durations are back to normal after a long time of overload: don't wait for the average to forget it.
            self._long *= _DECAY
        if in_flight < estimate / 2:
            return self.limit
        gradient = max(_STEEPEST, min(1.0, _TOLERANCE * long / duration)) if duration > 0 else 1.0
        return self._approach(estimate * gradient + _QUEUE)

    def _average(self, duration: float) -> float:
        if self._measured < _WARM_UP:
            self._measured += 1
            self._long += (duration - self._long) / self._measured
        else:
            self._long += (duration - self._long) * 2 / (_LONG_WINDOW + 1)
        return self._long

    def _approach(self, target: float) -> int:
        estimate = self._estimate * (1 - _SMOOTHING) + target * _SMOOTHING
        self._estimate = min(float(self._maximum), max(float(self._minimum), estimate))
        self.limit = int(self._estimate)
        return self.limit


def adaptive(
    initial: int = 20, minimum: int = 1, maximum: int = 200, algorithm: Algorithm = "gradient2"
) -> AdaptiveLimit:
    """A limit for `bulkhead(max_concurrent=...)` that finds itself from how long calls take and how they end.

    It grows only while at least half of it is in use. Calls that time out or are rejected shrink it; those that fail
    otherwise, or are cancelled, tell nothing.

    Args:
        initial: the limit to begin with, from `minimum` to `maximum`.
        minimum: it never falls below, at least 1.
        maximum: it never rises above.
        algorithm: "gradient2" compares a call with the average of the last few hundred: for most. "vegas" compares it
            with the fastest: reacts sooner, and suits calls that all take about the same time. "aimd" looks at drops
            only: for what has a timeout or rejects by itself.

    Raises:
        ConfigurationError: a setting is wrong.

    The algorithms are those of Netflix's concurrency-limits (https://github.com/Netflix/concurrency-limits).

    Example:
        >>> from resilient import adaptive, bulkhead
        >>> search = bulkhead("search", max_concurrent=adaptive(initial=10, maximum=50))
        >>> search.limit
        10
    """
    check = Checker("adaptive")
    check.whole("minimum", minimum)
    if check.whole("maximum", maximum) < minimum:
        refuse(check.policy, "maximum", maximum, f"at least the minimum, {minimum}")
    if not minimum <= check.whole("initial", initial) <= maximum:
        refuse(check.policy, "initial", initial, f"from the minimum, {minimum}, to the maximum, {maximum}")
    check.choice("algorithm", algorithm, ("gradient2", "vegas", "aimd"))
    return AdaptiveLimit(initial, minimum, maximum, algorithm)
