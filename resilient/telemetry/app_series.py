"""The series of an application's own metrics: one for each combination of label values.

Updates are single statements without a call inside, which is what makes them exact and cheap: see `core/meters.py`.
"""

from __future__ import annotations

from math import inf
from typing import Any, Protocol

from resilient.core.meters import Histogram as Buckets
from resilient.core.meters import LockedNumber, number
from resilient.telemetry.collecting import Value, distribution


class Bound(Protocol):
    """One series of a metric."""

    def read(self) -> Value | None:
        """What is exported; None: nothing yet."""
        ...

    def begin_anew(self) -> None:
        """In the child of a fork: what was counted before is the parent's to tell."""


class BoundCounter:
    """One series of a counter."""

    __slots__ = ("_shown", "_value")

    def __init__(self, shown: str) -> None:
        self._shown = shown
        self._value: float = number()

    def add(self, amount: float = 1, /) -> None:
        """Count `amount` more.

        Raises:
            ValueError: it is negative, infinite or NaN: a counter that falls is a bug of the application's.
        """
        if type(amount) is not int and type(amount) is not float:
            amount = number_of(self._shown, amount)
        if not 0 <= amount < inf:
            raise ValueError(f"{self._shown}: add({amount!r}) is not allowed: a finite number of at least 0")
        self._value += amount

    def read(self) -> float | None:
        return self._value + 0

    def begin_anew(self) -> None:
        self._value = number()


class BoundGauge:
    """One series of a gauge, which is shown once it has been set."""

    __slots__ = ("_additive", "_known", "_shown", "_value")

    def __init__(self, shown: str, additive: bool) -> None:
        self._shown = shown
        self._additive = additive
        self._value: float = number()
        self._known = False

    def set(self, value: float, /) -> None:
        """From now on the value is this.

        Raises:
            ValueError: it is infinite or NaN.
        """
        value = finite(self._shown, "set", value)
        cell: object = self._value
        if isinstance(cell, LockedNumber):
            # A new one would lose what another thread is just adding to this one, or be lost to it.
            with cell._lock:
                cell._value = value
        else:
            self._value = value
        self._known = True

    def add(self, amount: float = 1, /) -> None:
        """The value is this much higher, or lower where `amount` is negative.

        Raises:
            ValueError: it is infinite or NaN.
        """
        amount = finite(self._shown, "add", amount)
        self._value += amount
        self._known = True

    def read(self) -> float | None:
        return self._value + 0 if self._known else None

    def begin_anew(self) -> None:
        # What does not add up, such as a version or a temperature, holds in the child as well.
        if self._additive or not self._known:
            self._value, self._known = number(), False
        else:
            value, self._value = self._value + 0, number()
            self.set(value)


class BoundHistogram:
    """One series of a histogram."""

    __slots__ = ("_buckets", "_shown")

    def __init__(self, shown: str, bounds: tuple[float, ...]) -> None:
        self._shown = shown
        self._buckets = Buckets(bounds)

    def observe(self, value: float, /) -> None:
        """Count a value.

        Raises:
            ValueError: it is negative, infinite or NaN.
        """
        value = finite(self._shown, "observe", value)
        if value < 0:
            raise ValueError(f"{self._shown}: observe({value!r}) is not allowed: a finite number of at least 0")
        self._buckets.observe(value)

    def read(self) -> Value:
        return distribution(self._buckets)

    def begin_anew(self) -> None:
        self._buckets = Buckets(self._buckets.bounds)


def number_of(shown: str, value: Any) -> float:
    if isinstance(value, int):
        return int(value)
    if isinstance(value, str) or not hasattr(type(value), "__float__"):
        raise TypeError(f"{shown}: {value!r} is no number")
    return float(value)


def finite(shown: str, what: str, value: float) -> float:
    if type(value) is not int and type(value) is not float:
        value = number_of(shown, value)
    if not -inf < value < inf:
        raise ValueError(f"{shown}: {what}({value!r}) is not allowed: a finite number")
    return value
