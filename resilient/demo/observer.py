"""Reads the clients, the registry and the policies' events, and makes frames and the report of them."""

from __future__ import annotations

from collections import deque

from resilient.core.events import Event
from resilient.demo import rows
from resilient.demo.clients import NAME, Client, guarded, unguarded
from resilient.demo.frame import Frame, News, Side, news_of, news_of_stage
from resilient.demo.report import Report, SideReport
from resilient.demo.script import Pace
from resilient.demo.upstream import Upstream
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.registry import Registry

RECENT = 3.0


class Observer:
    """Both clients of one run, seen from outside."""

    def __init__(self, upstream: Upstream, pace: Pace) -> None:
        self.upstream = upstream
        self.pace = pace
        self.registry = Registry()
        self.guarded = guarded(upstream, pace, self.registry)
        self.unguarded = unguarded(upstream, pace)
        self._events: list[Event] = []
        self._past: deque[tuple[float, rows.Snapshot]] = deque([(0.0, self.registry.snapshot())])
        for breaker in self.registry.all(CircuitBreaker):
            breaker.subscribe(self._events.append, kinds="circuit_state_changed")

    def frame(self) -> Frame:
        """This moment."""
        elapsed = self.upstream.elapsed()
        for client in (self.guarded, self.unguarded):
            client.users.lose_patience(elapsed)
        snapshot = self.registry.snapshot()
        since = elapsed - RECENT
        recent = self.guarded.users.settled_since(since)
        return Frame(
            elapsed=elapsed,
            script=self.upstream.script,
            stage=self.upstream.script.at(elapsed),
            guarded=_side(self.guarded, elapsed),
            unguarded=_side(self.unguarded, elapsed),
            rows=rows.rows(
                NAME,
                snapshot,
                self._a_while_ago(elapsed, snapshot),
                attempts=self.guarded.http.seconds_since(since),
                answers=[settled.waited for settled in recent if settled.outcome == "answered"],
            ),
            breaker=rows.breaker_state(snapshot, NAME),
            failing=rows.failure_rate(snapshot, NAME),
            retries=rows.retries(snapshot, NAME),
            refused=rows.number(snapshot, "circuit_breaker", NAME, "rejected"),
            news=self._news(elapsed),
        )

    def report(self, *, interrupted: bool) -> Report:
        """What it all came to."""
        elapsed = min(self.upstream.elapsed(), self.pace.seconds)
        for client in (self.guarded, self.unguarded):
            client.users.lose_patience(elapsed)
        back = self.upstream.started + self.upstream.script.recovery()
        closed = [event.at - back for event in self._events if event.data["to"] == "closed" and event.at >= back]
        return Report(
            script=self.upstream.script,
            pace=self.pace,
            elapsed=elapsed,
            interrupted=interrupted,
            name=NAME,
            guarded=_side_report(self.guarded),
            unguarded=_side_report(self.unguarded),
            snapshot=self.registry.snapshot(),
            news=tuple(self._news(elapsed)),
            closed_after=closed[0] if closed else None,
        )

    def _news(self, elapsed: float) -> list[News]:
        news = [news_of(event, self.upstream.started) for event in self._events]
        news += [news_of_stage(stage) for stage in self.upstream.script.stages if stage.start <= elapsed]
        return sorted(news, key=lambda item: item.at)

    def _a_while_ago(self, elapsed: float, snapshot: rows.Snapshot) -> rows.Snapshot:
        """The snapshot of `RECENT` seconds ago; this one is kept for later."""
        while len(self._past) > 1 and self._past[1][0] <= elapsed - RECENT:
            self._past.popleft()
        self._past.append((elapsed, snapshot))
        return self._past[0][1]


def _side(client: Client, elapsed: float) -> Side:
    users = client.users
    return Side(
        bins=tuple(users.bins),
        recent=users.tally(elapsed - RECENT),
        last_second=users.tally(elapsed - 1.0),
        waiting=users.waiting,
        busy=client.busy,
    )


def _side_report(client: Client) -> SideReport:
    return SideReport(
        users=client.users.came,
        tally=client.users.tally(),
        unfinished=client.users.waiting,
        attempts=client.http.attempts,
        in_vain=client.http.in_vain,
        bins=tuple(client.users.bins),
    )
