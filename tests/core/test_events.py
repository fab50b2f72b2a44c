from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

import pytest

from resilient.core import events
from resilient.core.events import KINDS, Event, Outbox, Subscriptions, _Log
from resilient.errors import ConfigurationError


def event(kind: str = "timed_out", policy: str = "payments") -> Event:
    return Event(kind, "timeout", policy, "pay", 1.0)


class TestSubscriptions:
    def test_listeners_hear_in_the_order_in_which_they_came(self) -> None:
        heard: list[tuple[int, Event]] = []
        subscriptions = Subscriptions()
        for turn in range(3):
            subscriptions.add(lambda event, turn=turn: heard.append((turn, event)), None, None)  # type: ignore[misc]
        told = event()
        subscriptions.tell(told)
        assert heard == [(0, told), (1, told), (2, told)]

    def test_a_listener_hears_the_kinds_and_policies_that_it_wants(self) -> None:
        heard: list[Event] = []
        subscriptions = Subscriptions()
        subscriptions.add(heard.append, "payments", ["timed_out", "call_rejected"])
        wanted = [event("timed_out"), event("call_rejected")]
        for told in (*wanted, event("limit_changed"), event("timed_out", "orders")):
            subscriptions.tell(told)
        assert heard == wanted

    def test_one_kind_may_be_given_bare(self) -> None:
        heard: list[Event] = []
        subscriptions = Subscriptions()
        subscriptions.add(heard.append, None, "timed_out")
        subscriptions.tell(event("timed_out"))
        subscriptions.tell(event("limit_changed"))
        assert [told.kind for told in heard] == ["timed_out"]

    def test_a_listener_that_left_hears_no_more_and_may_leave_twice(self) -> None:
        heard: list[Event] = []
        subscriptions = Subscriptions()
        stop = subscriptions.add(heard.append, None, None)
        subscriptions.add(heard.append, None, None)
        stop()
        stop()
        subscriptions.tell(event())
        assert len(heard) == 1

    def test_a_listener_may_come_and_go_while_it_is_told(self) -> None:
        heard: list[str] = []
        subscriptions = Subscriptions()

        def once(event: Event) -> None:
            heard.append("once")
            stop()
            subscriptions.add(lambda event: heard.append("new"), None, None)

        stop = subscriptions.add(once, None, None)
        subscriptions.tell(event())
        subscriptions.tell(event())
        assert heard == ["once", "new"]

    def test_what_a_listener_raises_is_logged_once_and_stops_nobody(self, caplog: pytest.LogCaptureFixture) -> None:
        heard: list[Event] = []
        subscriptions = Subscriptions()

        def broken(event: Event) -> None:
            raise ValueError("broken")

        subscriptions.add(broken, None, None)
        subscriptions.add(heard.append, None, None)
        with caplog.at_level(logging.DEBUG):
            for _ in range(3):
                subscriptions.tell(event())
        assert len(heard) == 3
        [record] = caplog.records
        assert record.name == "resilient"
        assert "failed on timed_out of timeout 'payments'" in record.getMessage()
        assert record.exc_info is not None

    def test_an_interrupt_in_a_listener_passes(self) -> None:
        subscriptions = Subscriptions()

        def interrupted(event: Event) -> None:
            raise KeyboardInterrupt

        subscriptions.add(interrupted, None, None)
        with pytest.raises(KeyboardInterrupt):
            subscriptions.tell(event())

    @pytest.mark.parametrize("kinds", ["timed_outt", ["timed_out", "nothing"], [], [3], 3])
    def test_kinds_that_there_are_not_are_refused(self, kinds: list[str]) -> None:
        with pytest.raises(ConfigurationError, match=r"kinds=.* is not allowed: some of call_rejected, "):
            Subscriptions().add(print, None, kinds)

    def test_a_listener_can_be_called(self) -> None:
        with pytest.raises(ConfigurationError, match="listener=3 is not allowed"):
            Subscriptions().add(3, None, None)  # type: ignore[arg-type]

    def test_threads_that_come_at_once_all_hear(self) -> None:
        heard: list[Event] = []
        subscriptions = Subscriptions()
        threads = [
            threading.Thread(target=lambda: [subscriptions.add(heard.append, None, None) for _ in range(50)])
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        subscriptions.tell(event())
        assert len(heard) == 400

    def test_listeners_may_go_where_the_garbage_collector_finds_them(self) -> None:
        subscriptions = Subscriptions()
        first, second = (subscriptions.add(lambda event: None, None, None) for _ in range(2))

        def under_the_lock() -> None:
            with events._CHANGING:
                first()

        thread = threading.Thread(target=under_the_lock, daemon=True)
        thread.start()
        thread.join(10)
        assert not thread.is_alive()
        second()
        assert subscriptions.active == ()

    def test_one_that_goes_while_another_goes_is_gone(self) -> None:
        class Collected(Subscriptions):
            """As if the garbage collector ran right after each look at the listeners."""

            @property
            def active(self) -> Any:
                found = self.listeners
                if leaving:
                    leaving.pop()()
                return found

            @active.setter
            def active(self, listeners: Any) -> None:
                self.listeners = listeners

        leaving: list[Callable[[], None]] = []
        subscriptions = Collected()
        first, second = (subscriptions.add(lambda event: None, None, None) for _ in range(2))
        leaving.append(second)
        first()
        assert subscriptions.active == ()


class TestEvent:
    def test_it_can_not_be_changed(self) -> None:
        with pytest.raises(dataclasses.FrozenInstanceError):
            event().kind = "call_rejected"  # type: ignore[misc]

    def test_the_kinds_are_those_of_the_documentation(self) -> None:
        assert {
            "call_rejected",
            "circuit_state_changed",
            "retry_scheduled",
            "retry_exhausted",
            "timed_out",
            "fallback_applied",
            "hedge_started",
            "limit_changed",
            "degradation_changed",
            "fault_injected",
        } == KINDS


class TestLog:
    def test_nobody_wants_lines_before_somebody_puts_himself_there(self) -> None:
        log = _Log()
        assert not log.wants("timed_out", "timeout", "t", 0.0)
        log.write(event())


class TestOutbox:
    def test_it_tells_in_order_also_what_comes_while_it_tells(self) -> None:
        waiting = [1, 2]
        told: list[int] = []

        def tell(item: int) -> None:
            told.append(item)
            if item == 1:
                waiting.append(3)
                outbox.flush()
                assert told == [1]

        outbox = Outbox(waiting, tell)
        outbox.flush()
        assert told == [1, 2, 3]
        assert waiting == []

    def test_others_leave_theirs_behind_and_go_on(self) -> None:
        waiting = ["first"]
        told: list[tuple[str, int]] = []
        telling, go_on = threading.Event(), threading.Event()

        def tell(item: str) -> None:
            told.append((item, threading.get_ident()))
            telling.set()
            assert go_on.wait(10)

        outbox = Outbox(waiting, tell)
        thread = threading.Thread(target=outbox.flush)
        thread.start()
        assert telling.wait(10)
        waiting.append("second")
        outbox.flush()
        assert [item for item, _ in told] == ["first"]
        go_on.set()
        thread.join()
        assert told == [("first", thread.ident), ("second", thread.ident)]

    def test_an_interrupt_while_it_tells_loses_only_that_one(self) -> None:
        told: list[int] = []

        def tell(item: int) -> None:
            if item == 1:
                raise KeyboardInterrupt
            told.append(item)

        outbox = Outbox([1, 2, 3], tell)
        with pytest.raises(KeyboardInterrupt):
            outbox.flush()
        outbox.flush()
        assert told == [2, 3]

    def test_an_interrupt_on_the_doorstep_does_not_silence_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class InterruptedLock:
            interrupts = 1

            def __enter__(self) -> None: ...

            def __exit__(
                self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
            ) -> None:
                if self.interrupts:
                    self.interrupts -= 1
                    raise KeyboardInterrupt

        told: list[int] = []
        outbox = Outbox([1], told.append)
        monkeypatch.setattr("resilient.core.events._CHANGING", InterruptedLock())
        with pytest.raises(KeyboardInterrupt):
            outbox.flush()
        outbox.flush()
        assert told == [1]
