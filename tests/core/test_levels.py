"""Levels of degradation: by example, and against a model that remembers everything it was ever told."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from resilient.core.levels import Change, Levels, Signal

HALF = 0.5


def levels(*, count: int = 3, up_after: float = 1.0, down_after: float = 10.0, gap: float = 0.15) -> Levels:
    made = Levels(count, up_after, down_after)
    made.signals["load"] = Signal((0.7, 0.9), gap)
    return made


def feed(made: Levels, values: list[float], start: float = 0.0, every: float = HALF) -> list[Change]:
    """One reading after the other; the changes that came of them."""
    changes = [made.observe(start + every * number, {"load": value}) for number, value in enumerate(values)]
    return [change for change in changes if change is not None]


def test_a_level_is_taken_on_when_it_was_asked_for_long_enough() -> None:
    made = levels()
    assert feed(made, [0.7, 0.7]) == []
    assert feed(made, [0.7], start=1.0) == [Change(0, 1, "pressure", 1.0, "load", 0.7)]


def test_a_break_in_the_asking_begins_it_anew() -> None:
    made = levels()
    assert feed(made, [0.8, 0.8, 0.69, 0.8, 0.8]) == []
    assert [change.at for change in feed(made, [0.8], start=2.5)] == [2.5]


def test_one_high_value_among_those_of_the_gap_is_not_a_state() -> None:
    assert feed(levels(), [0.72] + [0.6] * 100) == []


def test_the_highest_level_that_was_asked_for_all_the_time_is_taken_at_once() -> None:
    made = levels()
    assert [(change.origin, change.to) for change in feed(made, [0.95] * 10)] == [(0, 2)]


def test_the_next_level_has_to_be_asked_for_as_long() -> None:
    made = levels()
    changes = feed(made, [0.8, 0.95, 0.95, 0.95])
    assert [(change.to, change.at) for change in changes] == [(1, 1.0), (2, 1.5)]


def test_it_falls_one_level_at_a_time() -> None:
    made = levels()
    feed(made, [1.0, 1.0, 1.0])
    changes = feed(made, [0.0] * 60, start=2.0)
    assert [(change.origin, change.to, change.reason, change.at) for change in changes] == [
        (2, 1, "calm", 12.0),
        (1, 0, "calm", 22.0),
    ]


def test_a_level_in_force_is_asked_for_until_the_value_is_below_the_gap() -> None:
    made = levels()
    feed(made, [0.7, 0.7, 0.7])
    assert feed(made, [0.55] * 100, start=2.0) == []
    assert [change.at for change in feed(made, [0.54] * 100, start=100.0)] == [110.0]


def test_a_signal_that_never_entered_a_level_does_not_hold_it() -> None:
    made = levels()
    made.signals["memory"] = Signal((0.7, 0.9), 0.15)
    for number in range(3):
        made.observe(HALF * number, {"load": 0.8, "memory": 0.6})
    assert made.level == 1
    for number in range(100):
        made.observe(2.0 + HALF * number, {"load": 0.1, "memory": 0.6})
    assert made.level == 0


def test_a_dip_below_the_gap_leaves_a_level_only_if_the_values_stay_there() -> None:
    made = levels()
    feed(made, [0.9, 0.9, 0.9])
    assert feed(made, [0.2, 0.76] * 100, start=2.0) == []


def test_a_signal_without_value_asks_for_nothing() -> None:
    made = levels()
    feed(made, [0.8] * 3)
    for number in range(100):
        made.observe(2.0 + HALF * number, {})
    assert (made.level, made.signals["load"].value) == (0, None)


def test_a_forced_level_stands_in_front_while_the_signals_are_followed() -> None:
    made = levels()
    assert made.force(2, 0.0) == Change(0, 2, "forced", 0.0)
    assert feed(made, [0.8] * 3) == []
    assert (made.level, made.automatic) == (2, 1)
    assert made.force(None, 5.0) == Change(2, 1, "released", 5.0)


def test_forcing_the_level_in_force_changes_nothing_yet_holds_it() -> None:
    made = levels()
    assert made.force(0, 0.0) is None
    assert feed(made, [1.0] * 10) == []
    assert made.force(None, 9.0) == Change(0, 2, "released", 9.0)


def test_escalating_rises_one_level_at_once_but_not_twice_in_up_after() -> None:
    made = levels()
    assert made.escalate(0.0) == Change(0, 1, "escalated", 0.0, "load", None)
    assert made.escalate(0.9) is None
    assert made.escalate(1.0) == Change(1, 2, "escalated", 1.0, "load", None)
    assert made.escalate(5.0) is None


def test_what_was_escalated_falls_when_nobody_escalates_any_more() -> None:
    made = levels()
    made.escalate(0.0)
    assert feed(made, [0.0] * 10) == []
    made.escalate(5.0)
    assert made.level == 2
    changes = feed(made, [0.0] * 60, start=5.5)
    assert [(change.to, change.at) for change in changes] == [(1, 15.0), (0, 25.0)]


def test_an_escalation_at_the_highest_level_begins_the_calm_anew() -> None:
    made = levels(count=2)
    made.signals.clear()
    made.escalate(0.0)
    made.escalate(9.0)
    assert made.observe(18.9, {}) is None
    assert made.observe(19.0, {}) == Change(1, 0, "calm", 19.0)


def test_time_that_goes_back_begins_what_was_timed_anew() -> None:
    made = levels()
    feed(made, [0.8, 0.8], start=1000.0)
    assert feed(made, [0.8, 0.8]) == []
    assert [change.at for change in feed(made, [0.8], start=1.0)] == [1.0]


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=60), st.sampled_from([0.7, 0.9]))
def test_values_within_the_gap_of_a_threshold_never_take_back_what_they_have_taken(
    noise: list[float], threshold: float
) -> None:
    changes = feed(levels(down_after=0.0), [threshold - 0.15 + 0.3 * value for value in noise])
    assert len(changes) <= 2
    assert all(change.to > change.origin for change in changes)


@pytest.mark.parametrize("seed", range(50))
@pytest.mark.parametrize("threshold", [0.7, 0.9])
@pytest.mark.parametrize("width", [0.02, 0.1, 0.2, 0.3])
def test_noise_around_a_threshold_for_600_seconds_makes_at_most_4_transitions(
    seed: int, threshold: float, width: float
) -> None:
    noise = Random(seed)
    values = [min(1.0, max(0.0, noise.gauss(threshold, width))) for _ in range(1200)]
    assert len(feed(levels(), values)) <= 4


class Model:
    """The same from a list of all readings, looked through anew each time."""

    def __init__(self, enter: list[tuple[float, ...]], gap: float, up_after: float, down_after: float) -> None:
        self.enter = enter
        self.gap = gap
        self.up_after = up_after
        self.down_after = down_after
        self.level = 0
        self.entered: list[set[int]] = [set() for _ in enter]
        self.asked: list[tuple[float, int]] = []
        self.restless = 0.0
        self.risen = float("-inf")
        self.escalated: tuple[float, int] | None = None

    def observe(self, now: float, values: list[float | None]) -> None:
        wanted = 0
        for value, enter, entered in zip(values, self.enter, self.entered, strict=True):
            entered -= set(range(self.level + 1, 10))
            for level, threshold in enumerate(enter, 1):
                if value is not None and value >= threshold - (self.gap if level in entered else 0):
                    wanted = max(wanted, level)
                if value is not None and value >= threshold:
                    entered.add(level)
        self.asked.append((now, wanted))
        for level in range(len(self.enter[0]), self.level, -1):
            since = self.since(lambda asked, level=level: asked >= level)
            if since is not None and now - since >= self.up_after:
                self.level, self.risen, self.restless = level, now, now
                return
        calm = self.since(lambda asked: asked < self.level)
        if calm is not None and self.escalated is not None:
            # The calm begins with the last escalation, and not only with the first reading after it.
            at, readings = self.escalated
            if all(asked < self.level for _, asked in self.asked[readings:]):
                calm = at
        if calm is not None and now - max(calm, self.restless) >= self.down_after:
            self.level -= 1
            self.restless = now

    def escalate(self, now: float) -> None:
        self.restless = now
        if now - self.risen >= self.up_after and self.level < len(self.enter[0]):
            self.level += 1
            self.risen = now
        self.escalated = now, len(self.asked)

    def since(self, holds: object) -> float | None:
        """When it began that every reading up to the newest was so."""
        began = None
        for at, asked in reversed(self.asked):
            if not holds(asked):  # type: ignore[operator]
                break
            began = at
        return began


SIXTEENTHS = st.integers(0, 16).map(lambda number: number / 16)


class LevelsAgainstTheModel(RuleBasedStateMachine):
    @initialize(
        thresholds=st.lists(
            st.lists(st.integers(4, 16).map(lambda number: number / 16), min_size=3, max_size=3).map(sorted),
            min_size=1,
            max_size=3,
        ),
        gap=st.sampled_from([0.0, 1 / 16, 3 / 16]),
        up_after=st.sampled_from([0.0, 1.0, 2.5]),
        down_after=st.sampled_from([0.0, 2.0, 5.0]),
    )
    def begin(self, thresholds: list[list[float]], gap: float, up_after: float, down_after: float) -> None:
        enter = [tuple(one) for one in thresholds]
        self.now = 0.0
        self.forced: int | None = None
        self.levels = Levels(4, up_after, down_after)
        for number, one in enumerate(enter):
            self.levels.signals[str(number)] = Signal(one, gap)
        self.model = Model(enter, gap, up_after, down_after)
        self.told = 0

    @rule(seconds=st.sampled_from([0.0, 0.25, 0.5, 1.0, 7.0]), values=st.lists(st.none() | SIXTEENTHS, max_size=3))
    def observe(self, seconds: float, values: list[float | None]) -> None:
        self.now += seconds
        padded = (values + [None] * 3)[: len(self.model.enter)]
        self.follow(self.levels.observe(self.now, {str(number): value for number, value in enumerate(padded)}))
        self.model.observe(self.now, padded)

    @rule(high=st.booleans(), turns=st.integers(1, 8))
    def stay(self, high: bool, turns: int) -> None:
        for _ in range(turns):
            self.observe(0.5, [1.0 if high else 0.0] * 3)

    @rule(seconds=st.sampled_from([0.0, 0.5, 3.0]))
    def escalate(self, seconds: float) -> None:
        self.now += seconds
        self.follow(self.levels.escalate(self.now))
        self.model.escalate(self.now)

    @rule(level=st.integers(0, 3))
    def force(self, level: int) -> None:
        self.forced = level
        self.follow(self.levels.force(level, self.now))

    @precondition(lambda self: self.forced is not None)
    @rule()
    def release(self) -> None:
        self.forced = None
        self.follow(self.levels.force(None, self.now))

    def follow(self, change: Change | None) -> None:
        if change is not None:
            assert (change.origin, change.at) == (self.told, self.now)
            assert change.origin != change.to
            self.told = change.to

    @invariant()
    def agrees(self) -> None:
        if hasattr(self, "model"):
            assert self.levels.automatic == self.model.level
            assert self.levels.level == (self.model.level if self.forced is None else self.forced) == self.told


TestLevels = LevelsAgainstTheModel.TestCase
TestLevels.settings = settings(max_examples=200, stateful_step_count=40)
