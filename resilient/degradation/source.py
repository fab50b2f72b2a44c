"""Where the values of a signal come from."""

from __future__ import annotations

from collections.abc import Callable
from math import isnan


class Source:
    """The user's function behind a signal. What goes wrong there is told once.

    Attributes:
        error: the type name of what it raised last, or None where it works.
    """

    __slots__ = ("error", "read", "told")

    def __init__(self, read: Callable[[], float]) -> None:
        self.read = read
        self.error: str | None = None
        self.told = False

    def value(self, name: str, owner: str) -> float | None:
        """From 0 to 1; None where it can't be had."""
        try:
            value = float(self.read())
            if isnan(value):
                raise ValueError("NaN")
        except Exception as error:  # noqa: BLE001 - a broken signal must not fail a call
            self.error = type(error).__name__
            if not self.told:
                self.told = True
                import logging

                logging.getLogger("resilient").warning(
                    "signal %r of degradation %r failed with %s; it is ignored while it does", name, owner, self.error
                )
            return None
        self.error = None
        return min(1.0, max(0.0, value))
