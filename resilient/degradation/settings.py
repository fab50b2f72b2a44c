"""The settings of a degradation and of its signals, checked."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Any

from resilient.core.checks import Checker, refuse


@dataclass(frozen=True, slots=True)
class DegradationSettings:
    """What the class was given, checked and in seconds."""

    levels: tuple[str, ...]
    up_after: float
    down_after: float
    interval: float


def check_name(what: str, name: str) -> Checker:
    """For what has to have a name."""
    if name is None:
        refuse(what, "name", name, "a string that is not empty")
    return Checker(what, name)


def check_levels(check: Checker, levels: Any) -> tuple[str, ...]:
    names = tuple(levels) if isinstance(levels, (tuple, list)) else ()
    if len(names) < 2 or not all(isinstance(name, str) and name.strip() for name in names):
        refuse(check.policy, "levels", levels, "at least two names, from full service to the least")
    if len(set(names)) < len(names):
        refuse(check.policy, "levels", levels, "names that differ")
    return names


def check_thresholds(policy: str, enter: Any, leave_gap: Any, count: int) -> tuple[float, ...]:
    given = tuple(enter) if isinstance(enter, (tuple, list)) else ()
    if len(given) != count or not all(_is_number(value) and 0 < value <= 1 for value in given):
        refuse(policy, "enter", enter, f"a tuple of {count} numbers above 0 and at most 1, one for each level above")
    thresholds = tuple(float(value) for value in given)
    if list(thresholds) != sorted(thresholds):
        refuse(policy, "enter", enter, "numbers in ascending order")
    if not _is_number(leave_gap) or not 0 <= leave_gap < thresholds[0]:
        refuse(policy, "leave_gap", leave_gap, f"a number from 0 to below the lowest threshold, {thresholds[0]:g}")
    return thresholds


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)
