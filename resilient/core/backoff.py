"""How long to wait before the next attempt.

The jitter formulas are those of the AWS Architecture Blog, "Exponential Backoff And Jitter"
(https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from datetime import timedelta
from inspect import iscoroutinefunction
from itertools import islice
from math import inf, isnan
from reprlib import repr as short_repr
from typing import Final, Literal, cast

from resilient.core.checks import Checker, Seconds, refuse, same_setting
from resilient.errors import ConfigurationError

Jitter = Literal["full", "equal", "decorrelated"] | float | None

_LARGEST: Final = sys.float_info.max
_MOST_DELAYS: Final = 10_000
_FINITE: Final = "seconds of at least 0 (a finite number or a timedelta)"


class Backoff(ABC):
    """A rule for the delays between attempts; `constant`, `linear` and `exponential` make one.

    Backoffs are values: they hold no state, compare by their settings, and may be shared.
    """

    __slots__ = ()

    @abstractmethod
    def delay(self, attempt: int, previous: float | None, random: Callable[[], float]) -> float:
        """Seconds to wait before the next attempt: finite and at least 0.

        Args:
            attempt: number of the attempt that has just failed, from 1 on.
            previous: the delay that this backoff chose before, in seconds, or None for the first.
            random: gives a number in [0, 1).
        """


@dataclass(frozen=True, slots=True)
class Constant(Backoff):
    seconds: float

    def delay(self, attempt: int, previous: float | None, random: Callable[[], float]) -> float:
        return self.seconds

    def __repr__(self) -> str:
        return f"constant({self.seconds!r})"


@dataclass(frozen=True, slots=True)
class Linear(Backoff):
    seconds: float
    max: float

    def delay(self, attempt: int, previous: float | None, random: Callable[[], float]) -> float:
        return min(self.max, self.seconds * attempt)

    def __repr__(self) -> str:
        return f"linear({self.seconds!r}, max={self.max!r})"


@dataclass(frozen=True, slots=True)
class Exponential(Backoff):
    initial: float
    factor: float
    max: float
    jitter: Jitter

    def delay(self, attempt: int, previous: float | None, random: Callable[[], float]) -> float:
        if self.jitter == "decorrelated":
            # Three times a huge delay is inf, and 0 * inf would be NaN.
            high = min(3.0 * (self.initial if previous is None else previous), _LARGEST)
            return min(self.max, self.initial + random() * max(0.0, high - self.initial))
        try:
            grown = min(self.max, self.initial * self.factor ** (attempt - 1))
        except OverflowError:
            grown = self.max
        if self.jitter is None:
            return grown
        if self.jitter == "full":
            return random() * grown
        if self.jitter == "equal":
            return min(self.max, grown / 2 + random() * (grown / 2))
        return min(self.max, grown * (1.0 + self.jitter * (2.0 * random() - 1.0)))

    def __repr__(self) -> str:
        return (
            f"exponential(initial={self.initial!r}, factor={self.factor!r}, max={self.max!r}, jitter={self.jitter!r})"
        )


@dataclass(frozen=True, slots=True)
class Listed(Backoff):
    """The delays of an iterable one after the other; the last one repeats."""

    delays: tuple[float, ...]

    def delay(self, attempt: int, previous: float | None, random: Callable[[], float]) -> float:
        return self.delays[min(attempt, len(self.delays)) - 1]

    def __repr__(self) -> str:
        return short_repr(self.delays)


@dataclass(frozen=True, slots=True, eq=False)
class Computed(Backoff):
    """The delays that a function `(attempt) -> seconds` gives; equal to another one by the function's name."""

    function: Callable[[int], Seconds]

    def delay(self, attempt: int, previous: float | None, random: Callable[[], float]) -> float:
        return finite_seconds(self.function(attempt), "backoff", self.function)

    def __eq__(self, other: object) -> bool:
        return same_setting(self.function, other.function) if isinstance(other, Computed) else NotImplemented

    def __hash__(self) -> int:
        name = getattr(self.function, "__qualname__", None)
        return hash((getattr(self.function, "__module__", None), name) if name else self.function)

    def __repr__(self) -> str:
        return qualified_name(self.function)


def constant(d: Seconds) -> Backoff:
    """The same delay before each attempt.

    Args:
        d: seconds or a timedelta, at least 0.

    Raises:
        ConfigurationError: `d` is no such duration.

    Example:
        >>> from resilient import retry
        >>> from resilient.backoff import constant
        >>> retry(backoff=constant(0.5)).settings["backoff"]
        constant(0.5)
    """
    return Constant(Checker("constant").seconds("d", d, zero=True))


def linear(d: Seconds, *, max: Seconds = 30.0) -> Backoff:
    """A delay that grows by the same amount each time: min(max, d * attempt).

    Args:
        d: the first delay and what is added each time; seconds or a timedelta, above 0.
        max: no delay is longer; seconds or a timedelta, at least `d`.

    Raises:
        ConfigurationError: a setting is not as described.

    Example:
        Waits of 0.5, 1.0, 1.5, ... 5.0, 5.0 s:

        >>> from resilient import retry
        >>> from resilient.backoff import linear
        >>> retry(backoff=linear(0.5, max=5)).settings["backoff"]
        linear(0.5, max=5.0)
    """
    check = Checker("linear")
    step, cap = check.seconds("d", d), check.seconds("max", max)
    if step > cap:
        refuse("linear", "d", d, f"at most max ({cap:g} s)")
    return Linear(step, cap)


def exponential(
    initial: Seconds = 0.1, *, factor: float = 2.0, max: Seconds = 30.0, jitter: Jitter = "full"
) -> Backoff:
    """A delay that is multiplied each time, spread at random so that callers do not come back in step.

    With d = min(max, initial * factor ** (attempt - 1)), the delay by `jitter` is:

    - `"full"`: U(0, d), the default: the least load on the other side;
    - `"equal"`: d/2 + U(0, d/2), never less than half;
    - `"decorrelated"`: min(max, U(initial, 3 * previous delay)), without `factor`;
    - a number f from 0 to 1: between d - f*d and d + f*d;
    - `None`: d.

    U(a, b) is uniform from a to b. No delay is above `max`, jitter included. The formulas are those of the
    AWS Architecture Blog, "Exponential Backoff And Jitter".

    Args:
        initial: seconds or a timedelta, above 0 and at most `max`.
        factor: at least 1.
        max: no delay is longer; seconds or a timedelta, above 0.
        jitter: see above.

    Raises:
        ConfigurationError: a setting is not as described.

    Example:
        >>> from resilient import retry
        >>> from resilient.backoff import exponential
        >>> retry(backoff=exponential(0.2, max=10, jitter="equal")).settings["backoff"]
        exponential(initial=0.2, factor=2.0, max=10.0, jitter='equal')
    """
    check = Checker("exponential")
    first, cap = check.seconds("initial", initial), check.seconds("max", max)
    if first > cap:
        refuse("exponential", "initial", initial, f"at most max ({cap:g} s)")
    growth = as_number(factor)
    if growth is None or not 1.0 <= growth < inf:
        refuse("exponential", "factor", factor, "a finite number of at least 1")
    return Exponential(first, growth, cap, _jitter(jitter))


def _jitter(value: Jitter) -> Jitter:
    if value is None or value in ("full", "equal", "decorrelated"):
        return value
    share = as_number(value)
    if share is None or not 0.0 <= share <= 1.0:
        refuse("exponential", "jitter", value, "'full', 'equal', 'decorrelated', a number from 0 to 1, or None")
    return share


def as_backoff(value: object, *, policy: str | None = None) -> Backoff:
    """What `backoff=` takes, as a `Backoff`.

    Args:
        value: a `Backoff`; a duration; an iterable of durations, which is read at once and whose last one repeats;
            or a function `(attempt) -> seconds`, whose result is checked when it is used.
        policy: how messages name the policy, such as `retry 'payments'`.
    """
    where = policy or "retry"
    if isinstance(value, Backoff):
        return value
    if isinstance(value, (int, float, timedelta)) and not isinstance(value, bool):
        return Constant(Checker(where).seconds("backoff", value, zero=True))
    # A factory that was not called would only show at the first failure.
    slip = isinstance(value, type) or any(value is factory for factory in (constant, linear, exponential))
    if callable(value) and not slip and not iscoroutinefunction(value):
        return Computed(cast(Callable[[int], Seconds], value))
    if _has_items_in_order(value) and not slip:
        return _listed(cast(Iterable[object], value), where)
    refuse(
        where,
        "backoff",
        value,
        "seconds, a timedelta, an iterable of them, a function (attempt) -> seconds, "
        "or what constant(...), linear(...) or exponential(...) return",
    )


def _has_items_in_order(value: object) -> bool:
    # The characters of a string and the bytes of a buffer are no delays.
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes, bytearray, Mapping, Set))


def _listed(value: Iterable[object], where: str) -> Backoff:
    items = tuple(islice(value, _MOST_DELAYS + 1))
    delays = tuple(seconds for item in items if (seconds := as_seconds(item)) is not None and 0.0 <= seconds < inf)
    if not delays or len(delays) < len(items) or len(items) > _MOST_DELAYS:
        allowed = f"1 to {_MOST_DELAYS:,} delays, each of them {_FINITE}"
        raise ConfigurationError(
            f"{where}: backoff={short_repr(items)} is not allowed: {allowed}",
            policy=where,
            setting="backoff",
            value=items,
            allowed=allowed,
        )
    return Listed(delays)


def as_number(value: object) -> float | None:
    """A number as a float, perhaps inf; None for NaN and for anything that is no number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return inf if value > 0 else -inf
    return None if isnan(number) else number


def as_seconds(value: object) -> float | None:
    """The same for a duration: a number or a timedelta."""
    return value.total_seconds() if isinstance(value, timedelta) else as_number(value)


def finite_seconds(value: object, setting: str, source: object) -> float:
    """A delay that the user's own code gave while a call runs; `source` is the function or object that gave it."""
    seconds = as_seconds(value)
    if seconds is None or not 0.0 <= seconds < inf:
        raise ConfigurationError(
            f"retry: {setting}={qualified_name(source)} returned {value!r}, which is not allowed: {_FINITE}",
            setting=setting,
            value=value,
            allowed=_FINITE,
        )
    return seconds


def qualified_name(function: object) -> str:
    name = getattr(function, "__qualname__", None)
    return f"{getattr(function, '__module__', None)}.{name}" if name else repr(function)
