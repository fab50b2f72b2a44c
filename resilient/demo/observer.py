"""Reads the clients, the registry and the policies' events, and makes frames and the report of them."""

from __future__ import annotations

from resilient.core.events import Event
from resilient.demo import rows
from resilient.demo.clients import Client, guarded, unguarded
from resilient.demo.frame import Frame, News, Side, news_of, news_of_stage
from resilient.demo.guards import PRIMARY
from resilient.demo.report import Report, SideReport
from resilient.demo.script import Pace
from resilient.demo.upstream import Upstream
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.registry import Registry

RECENT = 3.0


class Observer:
    """Both clients of one run, seen from outside."""

    def __init__(self, upstream: Upstream, replica: Upstream, pace: Pace) -> None:
        self.upstream = upstream
        self.pace = pace
        self.registry = Registry()
        self.guarded = guarded(upstream, replica, pace, self.registry)
        self.unguarded = unguarded(upstream, pace)
        self._events: list[Event] = []
        breaker = self.registry.find(CircuitBreaker, PRIMARY)
        assert breaker is not None
        breaker.subscribe(self._events.append, kinds="circuit_state_changed")

    def frame(self) -> Frame:
        """This moment."""
        elapsed = self.upstream.elapsed()
        for client in (self.guarded, self.unguarded):
            client.users.lose_patience(elapsed)
        snapshot = self.registry.snapshot()
        return Frame(
            elapsed=elapsed,
            script=self.upstream.script,
            stage=self.upstream.script.at(elapsed),
            guarded=_side(self.guarded, elapsed),
            unguarded=_side(self.unguarded, elapsed),
            rows=rows.rows(snapshot),
            breaker=rows.breaker_state(snapshot),
            failing=rows.failure_rate(snapshot),
            retries=rows.retries(snapshot),
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
        to_replica=0 if client.replica is None else client.replica.attempts,
        bins=tuple(client.users.bins),
    )
