"""Levels of degradation: which one signals ask for, and when to go there.

A signal asks for a level from its threshold on (`enter`); for one in force that it has entered, from the threshold
less `leave_gap` on. A level that is asked for without a break for `up_after` seconds is taken on, even over those
between. When nobody has asked for the level in force for `down_after` seconds, the next lower one follows, and so on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

Reason = Literal["pressure", "calm", "escalated", "forced", "released"]


class Change(NamedTuple):
    """From one level in force to another; `signal` and `value` tell what asked for most at that instant."""

    origin: int
    to: int
    reason: Reason
    at: float
    signal: str | None = None
    value: float | None = None


class Signal:
    """One signal: its thresholds, its newest value, and the level that it asks for.

    Attributes:
        enter: for each level above the lowest, the value from which on it is asked for; in ascending order.
        leave_gap: a level in force that was entered is asked for down to so far below its threshold.
        value: the newest value, or None where there is none.
        asks: the level asked for.
    """

    __slots__ = ("_entered", "asks", "enter", "leave_gap", "value")

    def __init__(self, enter: tuple[float, ...], leave_gap: float) -> None:
        self.enter = enter
        self.leave_gap = leave_gap
        self.value: float | None = None
        self.asks = self._entered = 0

    def tell(self, value: float | None, level: int) -> None:
        """A new value, from 0 to 1, while `level` is in force."""
        self.value = value
        # Only a level in force stays entered: before that, one high value among lower ones is not a state.
        self._entered = min(self._entered, level)
        if value is None:
            self.asks = 0
            return
        reached = sum(value >= threshold for threshold in self.enter)
        held = sum(value >= threshold - self.leave_gap for threshold in self.enter)
        self.asks = max(reached, min(self._entered, held))
        self._entered = max(self._entered, reached)


class Levels:
    """The level in force. Not thread safe: whoever owns it has a lock.

    Attributes:
        automatic: the level that follows from the signals.
        forced: the level that stands in front of it, or None. The signals are followed behind it.
        signals: by name.
    """

    __slots__ = (
        "_asked_since",
        "_calm_since",
        "_down_after",
        "_last",
        "_risen_at",
        "_up_after",
        "automatic",
        "forced",
        "signals",
    )

    def __init__(self, count: int, up_after: float, down_after: float) -> None:
        self.automatic = 0
        self.forced: int | None = None
        self.signals: dict[str, Signal] = {}
        self._up_after = up_after
        self._down_after = down_after
        self._asked_since: list[float | None] = [None] * count
        self._calm_since: float | None = None
        self._risen_at: float | None = None
        self._last = float("-inf")

    @property
    def level(self) -> int:
        """The level in force."""
        return self.automatic if self.forced is None else self.forced

    @property
    def highest(self) -> int:
        return len(self._asked_since) - 1

    def observe(self, now: float, values: Mapping[str, float | None]) -> Change | None:
        """What the signals say at this instant; those that are not among the values say nothing."""
        self._pass_to(now)
        for name, signal in self.signals.items():
            signal.tell(values.get(name), self.automatic)
        asked = max((signal.asks for signal in self.signals.values()), default=0)
        before = self.level
        rising = 0
        for level in range(1, self.highest + 1):
            if asked < level:
                self._asked_since[level] = None
                continue
            since = self._asked_since[level]
            if since is None:
                since = self._asked_since[level] = now
            if now - since >= self._up_after:
                rising = level
        if rising > self.automatic:
            self.automatic = rising
            self._risen_at = now
            self._calm_since = None
            return self._change(before, "pressure", now)
        if asked >= self.automatic:
            self._calm_since = None
            return None
        if self._calm_since is None:
            self._calm_since = now
        if now - self._calm_since < self._down_after:
            return None
        self.automatic -= 1
        self._calm_since = now if asked < self.automatic else None
        return self._change(before, "calm", now)

    def escalate(self, now: float) -> Change | None:
        """One level higher at once, but not twice within `up_after`: it takes a while until a level helps."""
        self._pass_to(now)
        self._calm_since = now
        if self._risen_at is not None and now - self._risen_at < self._up_after:
            return None
        if self.automatic == self.highest:
            return None
        before = self.level
        self.automatic += 1
        self._risen_at = now
        return self._change(before, "escalated", now)

    def force(self, level: int | None, now: float) -> Change | None:
        """Put a level in front of the automatic one, or take it away."""
        self._pass_to(now)
        before, self.forced = self.level, level
        return self._change(before, "released" if level is None else "forced", now)

    def _change(self, before: int, reason: Reason, now: float) -> Change | None:
        if self.level == before:
            return None
        if reason in ("forced", "released") or not self.signals:
            return Change(before, self.level, reason, now)
        name, signal = max(self.signals.items(), key=lambda item: (item[1].asks, item[1].value or 0.0))
        return Change(before, self.level, reason, now, name, signal.value)

    def _pass_to(self, now: float) -> None:
        if now < self._last:
            # A test has put the process on virtual time, or back: what was timed begins anew.
            self._asked_since = [None if since is None else now for since in self._asked_since]
            self._calm_since = None if self._calm_since is None else now
            self._risen_at = None if self._risen_at is None else now
        self._last = now
