"""What `chaos(...)` was given: checked, and ready to be drawn from."""

from __future__ import annotations

import copy
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from typing import Any, Final, cast

from resilient.core.checks import Checker, Seconds, refuse, same_setting

ErrorSource = Exception | type[Exception] | Callable[[], Exception | type[Exception] | None]
ErrorMix = Sequence[ErrorSource | tuple[ErrorSource, float]]
Latency = Seconds | tuple[Seconds, Seconds] | Callable[[], Seconds]
Flag = bool | Callable[[], object]

_ALLOWED_LATENCY: Final = "seconds of at least 0, a pair (lowest, highest) of them, or a function that gives seconds"
_ALLOWED_ERROR: Final = (
    "an Exception, a class of them that can be made without arguments, a function that gives one, or a sequence of "
    "these, each alone or as a pair (error, weight) with a weight above 0"
)


class NotGiven:
    def __repr__(self) -> str:
        return "not given"


NOT_GIVEN: Final = NotGiven()


class Dice:
    """Chance, by a seed or without: which calls are hit, and apart from that what befalls them.

    Apart, so that the same calls are hit whatever it is that hits them.
    """

    __slots__ = ("_hits", "_seed", "_values")

    def __init__(self, seed: int | str | None) -> None:
        self._seed = seed
        self.restart()

    def restart(self) -> None:
        self._hits = Random(self._seed)
        self._values = Random(None if self._seed is None else f"values of {self._seed!r}")

    def after_fork(self, now: float) -> None:
        """Workers forked from one process must not be hit in step, unless they are meant to."""
        if self._seed is None:
            self.restart()

    def hits(self, rate: float) -> bool:
        return self._hits.random() < rate

    def share(self) -> float:
        return self._values.random()


class Errors:
    """Where errors come from, each with its weight."""

    __slots__ = ("_bounds", "sources", "weights")

    def __init__(self, sources: Sequence[ErrorSource], weights: Sequence[float]) -> None:
        self.sources = tuple(sources)
        self.weights = tuple(weights)
        self._bounds = tuple(accumulate(weights))

    def settings_key(self) -> object:
        return self.weights, tuple(map(_key_of, self.sources))

    def __repr__(self) -> str:
        if len(self.sources) == 1:
            return repr(self.sources[0])
        return repr(list(zip(self.sources, self.weights, strict=True)))

    def make(self, dice: Dice) -> Exception | None:
        """A new error, or None where a function wants none this time."""
        place = bisect_right(self._bounds, dice.share() * self._bounds[-1], hi=len(self._bounds) - 1)
        source = self.sources[place]
        if isinstance(source, Exception):
            return _another(source)
        made = source()
        if isinstance(made, type) and issubclass(made, Exception):
            made = made()
        if made is None or isinstance(made, Exception):
            return made
        raise TypeError(f"chaos: error={source!r} gave {made!r}, which is neither an Exception nor None")


@dataclass(frozen=True, slots=True)
class ChaosSettings:
    """What the factory was given, checked and in seconds."""

    latency: tuple[float, float] | Callable[[], Seconds] | None
    error: Errors | None
    result: object
    rate: float
    enabled: Flag
    seed: int | str | None

    def draw_latency(self, dice: Dice) -> float:
        latency = self.latency
        if latency is None:
            return 0.0
        if isinstance(latency, tuple):
            low, high = latency
            return low if low == high else low + (high - low) * dice.share()
        return Checker("chaos").seconds("latency", latency(), zero=True)


def check_latency(check: Checker, value: Latency | None) -> tuple[float, float] | Callable[[], Seconds] | None:
    if value is None:
        return None
    if callable(value):
        return check.function("latency", value, _ALLOWED_LATENCY)
    ends = value if isinstance(value, tuple) else (value, value)
    if len(ends) != 2:
        refuse(check.policy, "latency", value, _ALLOWED_LATENCY)
    low, high = (check.seconds("latency", end, zero=True) for end in ends)
    if low > high:
        refuse(check.policy, "latency", value, "a pair (lowest, highest), the lowest first")
    return low, high


def check_error(check: Checker, value: Any) -> Errors | None:
    if value is None:
        return None
    if not isinstance(value, (list, tuple)):
        return Errors((_check_source(check, value),), (1.0,))
    pairs = [item if isinstance(item, tuple) and len(item) == 2 else (item, 1.0) for item in value]
    if not pairs:
        refuse(check.policy, "error", value, _ALLOWED_ERROR)
    for _, weight in pairs:
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < float("inf"):
            refuse(check.policy, "error", value, _ALLOWED_ERROR)
    return Errors([_check_source(check, source) for source, _ in pairs], [float(weight) for _, weight in pairs])


def check_rate(check: Checker, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        refuse(check.policy, "rate", value, "a number from 0 to 1")
    return float(value)


def check_flag(check: Checker, value: object) -> Flag:
    if isinstance(value, bool):
        return value
    if not callable(value):
        refuse(check.policy, "enabled", value, "True, False, or a function that tells")
    return check.function("enabled", value, "True, False, or a plain function that tells")


def check_seed(check: Checker, value: object) -> int | str | None:
    if isinstance(value, bool) or not isinstance(value, (int, str, type(None))):
        refuse(check.policy, "seed", value, "a whole number, a string, or None")
    return value


def _check_source(check: Checker, source: Any) -> ErrorSource:
    if isinstance(source, Exception):
        try:
            _another(source)
        except Exception:  # noqa: BLE001 - the class is the user's
            refuse(
                check.policy,
                "error",
                source,
                "an Exception that can be copied, for each call is to have its own. Give a function that makes it: "
                f"error=lambda: {type(source).__name__}(...)",
            )
        return source
    if isinstance(source, type) and issubclass(source, Exception):
        try:
            source()
        except Exception:  # noqa: BLE001 - the class is the user's
            refuse(
                check.policy,
                "error",
                source,
                f"a class that can be made without arguments. Give an exception: error={source.__name__}(...)",
            )
        return source
    if isinstance(source, type) or not callable(source):
        refuse(check.policy, "error", source, _ALLOWED_ERROR)
    check.function("error", source, _ALLOWED_ERROR)
    return cast("ErrorSource", source)


def _another(error: Exception) -> Exception:
    """A copy, for an exception that is raised again and again collects tracebacks and notes, and mixes up threads."""
    try:
        made = copy.copy(error)
    except Exception:  # noqa: BLE001 - its __init__ wants other arguments than it has kept
        made = type(error).__new__(type(error), *error.args)
        made.__dict__.update(error.__dict__)
    if type(made) is not type(error) or made is error:
        raise TypeError(f"{error!r} can't be copied")
    made.__cause__ = error.__cause__
    notes: list[str] | None = getattr(made, "__notes__", None)
    if notes is not None:
        made.__notes__ = [*notes]
    return made


def _key_of(source: ErrorSource) -> object:
    """Equal for sources that are the same by what is written."""
    return (type(source), source.args) if isinstance(source, Exception) else _SameFunction(source)


class _SameFunction:
    """A class or function, equal to another one as settings are."""

    __slots__ = ("function",)

    def __init__(self, function: object) -> None:
        self.function = function

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _SameFunction) and same_setting(self.function, other.function)

    __hash__ = None  # type: ignore[assignment]  # what is equal by name need not hash alike
