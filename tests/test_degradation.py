"""Degradation: signals read on use, features that go off and on again, and who is told."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import threading
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from resilient import ConfigurationError, Event, Registry
from resilient.degradation import Degradation
from resilient.telemetry.collecting import Collector
from resilient.testing import FakeClock, record_events


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture(autouse=True)
def clock(fake_clock: FakeClock) -> FakeClock:
    return fake_clock


class Load:
    """A signal that is whatever a test says; knows how often it was read."""

    def __init__(self, value: Any = 0.0) -> None:
        self.value = value
        self.reads = 0

    def __call__(self) -> float:
        self.reads += 1
        if isinstance(self.value, BaseException):
            raise self.value
        return self.value  # type: ignore[no-any-return]


@pytest.fixture
def load() -> Load:
    return Load()


@pytest.fixture
def degradation(registry: Registry, load: Load) -> Degradation:
    made = Degradation(name="shop", registry=registry)
    made.signal("load", load)
    made.feature("recommendations", off_at="reduced")
    made.feature("search", off_at="minimal")
    return made


def spend(clock: FakeClock, degradation: Degradation, seconds: float) -> list[str]:
    """Time passes, and somebody asks ten times a second; the levels that were seen, without repetitions."""
    seen = [degradation.level]
    for _ in range(round(seconds * 10)):
        clock.advance(0.1)
        if degradation.level != seen[-1]:
            seen.append(degradation.level)
    return seen


# signals


def test_pressure_turns_features_off_and_calm_turns_them_on_again(
    degradation: Degradation, load: Load, clock: FakeClock
) -> None:
    assert (degradation.level, degradation.is_active("recommendations")) == ("normal", True)
    load.value = 0.8
    assert spend(clock, degradation, 2) == ["normal", "reduced"]
    assert (degradation.is_active("recommendations"), degradation.is_active("search")) == (False, True)
    load.value = 1.0
    assert spend(clock, degradation, 2) == ["reduced", "minimal"]
    assert not degradation.is_active("search")
    load.value = 0.0
    assert spend(clock, degradation, 30) == ["minimal", "reduced", "normal"]
    assert (degradation.is_active("recommendations"), degradation.is_active("search")) == (True, True)


@pytest.mark.parametrize("seed", range(10))
def test_noise_around_a_threshold_for_600_virtual_seconds_makes_at_most_4_transitions(
    seed: int, degradation: Degradation, load: Load, clock: FakeClock
) -> None:
    noise = Random(seed)
    with record_events() as events:
        for _ in range(2400):
            load.value = noise.gauss(0.7, 0.2)
            degradation.is_active("recommendations")
            clock.advance(0.25)
    assert len(events) <= 4


def test_signals_are_read_on_use_and_at_most_once_an_interval(
    degradation: Degradation, load: Load, clock: FakeClock
) -> None:
    clock.advance(100)
    assert load.reads == 0
    for _ in range(50):
        degradation.is_active("recommendations")
        degradation.sheds("bulk")
        assert degradation.level == "normal"
    assert load.reads == 1
    clock.advance(0.49)
    degradation.is_active("recommendations")
    assert load.reads == 1
    clock.advance(0.01)
    degradation.is_active("recommendations")
    assert load.reads == 2


def test_a_snapshot_reads_no_signal(degradation: Degradation, load: Load, registry: Registry) -> None:
    registry.snapshot()
    assert load.reads == 0


def test_time_that_goes_back_does_not_stop_the_reading(degradation: Degradation, load: Load) -> None:
    degradation.is_active("search")
    degradation._read_at += 1000
    degradation._due += 1000
    degradation.is_active("search")
    assert load.reads == 2


@pytest.mark.parametrize(
    "broken, told", [(OSError("secret"), "OSError"), (math.nan, "ValueError"), ("x", "ValueError"), (None, "TypeError")]
)
def test_a_broken_signal_is_ignored_told_once_and_shown(
    degradation: Degradation, load: Load, clock: FakeClock, caplog: pytest.LogCaptureFixture, broken: Any, told: str
) -> None:
    degradation.signal("other", lambda: 0.8)
    load.value = broken
    with caplog.at_level(logging.WARNING, "resilient"):
        assert spend(clock, degradation, 5) == ["normal", "reduced"]
    failed = [record.getMessage() for record in caplog.records if "signal" in record.msg]
    assert failed == [f"signal 'load' of degradation 'shop' failed with {told}; it is ignored while it does"]
    signals: Any = degradation.snapshot()["signals"]
    assert signals["load"] == {"value": None, "asks_for": "normal", "error": told}
    load.value = 0.95
    assert spend(clock, degradation, 5)[-1] == "minimal"
    signals = degradation.snapshot()["signals"]
    assert signals["load"] == {"value": 0.95, "asks_for": "minimal", "error": None}


@pytest.mark.parametrize(
    "given, value", [(-3, 0.0), (7, 1.0), (math.inf, 1.0), (-math.inf, 0.0), (True, 1.0), (0, 0.0)]
)
def test_values_are_cut_off_at_0_and_1(degradation: Degradation, load: Load, given: float, value: float) -> None:
    load.value = given
    assert degradation.level == "normal"
    signals: Any = degradation.snapshot()["signals"]
    assert signals["load"]["value"] == value


def test_an_interrupt_in_a_signal_passes_and_the_next_one_reads_again(degradation: Degradation, load: Load) -> None:
    load.value = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        degradation.is_active("search")
    load.value = 0.3
    assert degradation.is_active("search")
    assert load.reads == 2


def test_a_signal_may_ask_for_the_level_itself(registry: Registry) -> None:
    made = Degradation(registry=registry)
    made.signal("own", lambda: 0.0 if made.level == "normal" else 1.0)
    assert made.level == "normal"


def test_one_thread_reads_and_the_others_go_on(degradation: Degradation) -> None:
    inside, go_on = threading.Event(), threading.Event()
    reads: list[None] = []

    def slow() -> float:
        reads.append(None)
        inside.set()
        assert go_on.wait(10)
        return 0.0

    degradation.signal("slow", slow)
    reader = threading.Thread(target=degradation.is_active, args=("search",))
    reader.start()
    assert inside.wait(10)
    for _ in range(100):
        assert degradation.is_active("search")
    degradation.force_level("reduced")
    assert degradation.level == "reduced"
    go_on.set()
    reader.join(10)
    assert len(reads) == 1


def test_a_signal_given_again_is_read_from_the_newer_function(
    degradation: Degradation, load: Load, clock: FakeClock
) -> None:
    newer = Load()
    degradation.signal("load", newer)
    degradation.is_active("search")
    assert (load.reads, newer.reads) == (0, 1)
    with pytest.raises(ConfigurationError, match="contradict"):
        degradation.signal("load", newer, enter=(0.5, 0.9))


def test_without_signals_the_level_stays() -> None:
    assert Degradation(registry=Registry()).level == "normal"


# hands


def test_a_forced_level_holds_whatever_the_signals_say(degradation: Degradation, load: Load, clock: FakeClock) -> None:
    degradation.force_level("minimal")
    assert not degradation.is_active("search")
    load.value = 0.8
    assert spend(clock, degradation, 5) == ["minimal"]
    assert (degradation.snapshot()["forced"], degradation.snapshot()["automatic_level"]) == (True, "reduced")
    degradation.force_level(None)
    assert (degradation.level, degradation.is_active("search")) == ("reduced", True)


def test_a_feature_that_is_switched_by_hand_ignores_the_level(degradation: Degradation) -> None:
    degradation.force("recommendations", False)
    assert not degradation.is_active("recommendations")
    degradation.force("search", True)
    degradation.force_level("minimal")
    assert degradation.is_active("search")
    degradation.force("search", None)
    assert not degradation.is_active("search")
    degradation.force_level(None)
    assert not degradation.is_active("recommendations")
    degradation.force("recommendations", None)
    assert degradation.is_active("recommendations")


def test_escalating_rises_at_once_and_falls_as_always(degradation: Degradation, clock: FakeClock) -> None:
    degradation.escalate("MemoryError")
    assert degradation.level == "reduced"
    change: Any = degradation.snapshot()["last_change"]
    assert change == {
        "from": "normal",
        "to": "reduced",
        "reason": "escalated",
        "signal": "MemoryError",
        "value": None,
    }
    assert spend(clock, degradation, 15) == ["reduced", "normal"]


@pytest.mark.parametrize("ask", ["is_active", "force"])
def test_an_unknown_feature_is_refused_with_those_that_there_are(degradation: Degradation, ask: str) -> None:
    arguments = ("recommendation",) if ask == "is_active" else ("recommendation", True)
    with pytest.raises(LookupError, match="no feature 'recommendation'; there are: 'recommendations', 'search'"):
        getattr(degradation, ask)(*arguments)


def test_an_unknown_priority_is_refused(degradation: Degradation) -> None:
    with pytest.raises(LookupError, match="no priority 'low'"):
        degradation.sheds("low")  # type: ignore[arg-type]


# who is told


def test_changes_are_told_with_the_signal_and_its_value(
    degradation: Degradation, load: Load, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    own: list[Event] = []
    degradation.subscribe(own.append)
    with record_events() as events, caplog.at_level(logging.WARNING, "resilient.degradation"):
        load.value = 0.8125
        spend(clock, degradation, 2)
        load.value = 0.25
        spend(clock, degradation, 12)
        degradation.force("search", False)
        degradation.force("search", False)
    assert own == events
    assert [(event.kind, event.policy_kind, event.policy, event.operation) for event in events] == [
        ("degradation_changed", "degradation", "shop", None)
    ] * 3
    assert [dict(event.data) for event in events] == [
        {"from": "normal", "to": "reduced", "reason": "pressure", "signal": "load", "value": 0.8125},
        {"from": "reduced", "to": "normal", "reason": "calm", "signal": "load", "value": 0.25},
        {"feature": "search", "switch": "off"},
    ]
    assert [record.getMessage().partition(" policy_kind=degradation ")[2] for record in caplog.records] == [
        "from_level=normal to_level=reduced reason=pressure signal=load value=0.8125",
        "from_level=reduced to_level=normal reason=calm signal=load value=0.25",
        "feature=search switch=off",
    ]


def test_listeners_are_called_outside_the_lock_and_in_order(degradation: Degradation) -> None:
    seen: list[object] = []

    def listener(event: Event) -> None:
        seen.append(event.data.get("to"))
        if len(seen) == 1:
            thread = threading.Thread(target=degradation.force_level, args=("minimal",), daemon=True)
            thread.start()
            thread.join(5)
            assert not thread.is_alive()
            seen.append("end of the first")
        raise OSError

    degradation.subscribe(listener)
    degradation.force_level("reduced")
    assert seen == ["reduced", "end of the first", "minimal"]


def test_the_metric_is_1_for_the_level_in_force_and_a_scrape_reads_the_signals(
    degradation: Degradation, load: Load, clock: FakeClock, registry: Registry
) -> None:
    def scrape() -> dict[str, object]:
        families = {family.metric.name: family for family in Collector(registry).collect()}
        series = families["resilience.degradation.level"].series
        return {dict(key)["resilience.degradation.level"]: value for key, value in series.items()}

    assert scrape() == {"normal": 1, "reduced": 0, "minimal": 0}
    load.value = 0.8
    for _ in range(4):
        clock.advance(0.5)
        scrape()
    assert scrape() == {"normal": 0, "reduced": 1, "minimal": 0}
    assert registry.remove(Degradation, "shop")
    assert "resilience.degradation.level" not in {
        family.metric.name for family in Collector(registry).collect() if family.series
    }


def test_the_snapshot_is_plain_and_tells_why(
    degradation: Degradation, load: Load, clock: FakeClock, registry: Registry
) -> None:
    load.value = 0.75
    spend(clock, degradation, 1)
    clock.advance(0.25)
    assert json.loads(json.dumps(registry.snapshot()["degradation"]["shop"])) == {
        "level": "reduced",
        "since_seconds": 0.25,
        "automatic_level": "reduced",
        "forced": False,
        "last_change": {"from": "normal", "to": "reduced", "reason": "pressure", "signal": "load", "value": 0.75},
        "signals": {"load": {"value": 0.75, "asks_for": "reduced", "error": None}},
        "features": {
            "recommendations": {"active": False, "off_at": "reduced", "switch": "automatic"},
            "search": {"active": True, "off_at": "minimal", "switch": "automatic"},
        },
    }


# names


def test_a_name_gives_the_one_that_has_it(registry: Registry) -> None:
    first = Degradation(name="shop", registry=registry)
    assert Degradation(name="shop", registry=registry) is first
    assert registry.find(Degradation, "shop") is first
    with pytest.raises(ConfigurationError, match=r"registered with up_after=1\.0"):
        Degradation(up_after=2, name="shop", registry=registry)


def test_without_a_name_the_newest_stands_in_the_registry(registry: Registry) -> None:
    Degradation(registry=registry)
    newest = Degradation(registry=registry)
    assert registry.all(Degradation) == [newest]
    assert newest.name == "degradation"


WRONG: list[tuple[str, Callable[[Degradation], object]]] = [
    ("levels", lambda made: Degradation(("one",), registry=Registry())),
    ("levels", lambda made: Degradation(("one", "one"), registry=Registry())),
    ("levels", lambda made: Degradation(("one", ""), registry=Registry())),
    ("levels", lambda made: Degradation("abc", registry=Registry())),
    ("up_after", lambda made: Degradation(up_after=-1, registry=Registry())),
    ("down_after", lambda made: Degradation(down_after=math.nan, registry=Registry())),
    ("interval", lambda made: Degradation(interval=0, registry=Registry())),
    ("name", lambda made: Degradation(name=" ", registry=Registry())),
    ("registry", lambda made: Degradation(registry=None)),  # type: ignore[arg-type]
    ("name", lambda made: made.signal(None, Load())),  # type: ignore[arg-type]
    ("name", lambda made: made.signal("", Load())),
    ("read", lambda made: made.signal("a", 0.5)),  # type: ignore[arg-type]
    ("read", lambda made: made.signal("a", asyncio.sleep)),  # type: ignore[arg-type]
    ("enter", lambda made: made.signal("a", Load(), enter=(0.5,))),
    ("enter", lambda made: made.signal("a", Load(), enter=(0.9, 0.7))),
    ("enter", lambda made: made.signal("a", Load(), enter=(0.0, 0.7))),
    ("enter", lambda made: made.signal("a", Load(), enter=(0.5, 1.1))),
    ("enter", lambda made: made.signal("a", Load(), enter=(0.5, math.nan))),
    ("leave_gap", lambda made: made.signal("a", Load(), leave_gap=0.7)),
    ("leave_gap", lambda made: made.signal("a", Load(), leave_gap=-0.1)),
    ("name", lambda made: made.feature("", off_at="reduced")),
    ("off_at", lambda made: made.feature("a", off_at="normal")),
    ("off_at", lambda made: made.feature("a", off_at="off")),
    ("two off_at", lambda made: made.feature("search", off_at="reduced")),
    ("level", lambda made: made.force_level("off")),
    ("on", lambda made: made.force("search", "no")),  # type: ignore[arg-type]
    ("priority", lambda made: made.sheddable(priority="low")),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(
    "setting, make", WRONG, ids=[f"{number} {setting}" for number, (setting, _) in enumerate(WRONG)]
)
def test_a_wrong_setting_is_refused(
    degradation: Degradation, setting: str, make: Callable[[Degradation], object]
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make(degradation)
    assert caught.value.setting == setting


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_of_a_fork_reads_even_if_somebody_was_reading_in_the_parent(
    degradation: Degradation, load: Load
) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def slow() -> float:
        inside.set()
        go_on.wait(10)
        return 0.0

    degradation.signal("slow", slow)
    reader = threading.Thread(target=degradation.is_active, args=("search",))
    reader.start()
    assert inside.wait(10)
    degradation.signal("slow", lambda: 0.5)
    before = load.reads
    pid = os.fork()
    if pid == 0:
        degradation.is_active("search")
        os._exit(0 if load.reads == before + 1 else 1)
    go_on.set()
    reader.join(10)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
