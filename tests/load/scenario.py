"""Traffic through the demo's two clients to its upstream, over loopback, and what came of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Any
from unittest.mock import patch

from resilient.core.events import Event
from resilient.demo import clients
from resilient.demo.clients import Client, bring_users, crew, guarded, unguarded
from resilient.demo.guards import PRIMARY
from resilient.demo.http import Answer, HttpClient
from resilient.demo.script import REPLICA, Health, Pace, Script
from resilient.demo.upstream import Upstream
from resilient.demo.users import Settled
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.registry import Registry

SEED = 11
HEALTHY = Health()


@dataclass(frozen=True, slots=True)
class Act:
    """So many seconds of an upstream in this health, with users who come at `rate` a second, at the end at `until`."""

    name: str
    seconds: float
    rate: float
    until: float | None = None
    health: Health = HEALTHY


class Traffic(Script):
    def __init__(self, *acts: Act) -> None:
        seconds = sum(act.seconds for act in acts)
        super().__init__(seconds, SEED, tuple((act.name, "", act.health, act.seconds / seconds) for act in acts))
        self._acts = acts

    def arrivals(self) -> Iterator[float]:
        random = Random(f"{self.seed} arrivals")
        at = 0.0
        while (at := at + random.uniform(0.4, 1.6) / self._rate(at)) < self.seconds:
            yield at

    def _rate(self, at: float) -> float:
        stage = self.at(at)
        act = next(act for act in self._acts if act.name == stage.name)
        until = act.rate if act.until is None else act.until
        return act.rate + (until - act.rate) * min(1.0, (at - stage.start) / act.seconds)


class Watched(HttpClient):
    """Knows how many of its requests are under way, and when it sent which."""

    def __init__(self, name: str, upstream: Upstream) -> None:
        super().__init__(name, upstream)
        self.under_way = 0
        self.most_under_way = 0
        self.sent: list[float] = []

    async def get(self, item: int, user: int) -> Answer:
        self.sent.append(self._upstream.elapsed())
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            return await super().get(item, user)
        finally:
            self.under_way -= 1


@dataclass(frozen=True, slots=True)
class Side:
    """One client after the run: how it ended for its users, and what it sent to the upstream."""

    users: int
    settled: list[Settled]
    unfinished: int
    http: Watched

    def of(self, *outcomes: str, since: float = 0.0) -> int:
        return sum(one.outcome in outcomes for one in self.settled if one.at >= since)

    @property
    def errors(self) -> int:
        """Users who got an error, or nothing in time."""
        return self.of("failed", "gave_up")

    def errors_between(self, start: float, end: float) -> int:
        """Of users who came in this stretch."""
        return sum(one.outcome in ("failed", "gave_up") for one in self.settled if start <= one.at - one.waited < end)

    def came_between(self, start: float, end: float) -> int:
        return sum(start <= one.at - one.waited < end for one in self.settled)

    def fresh_since(self, since: float) -> float:
        """The share of fresh answers among those who were done after this instant."""
        done = [one.outcome for one in self.settled if one.at >= since]
        return done.count("answered") / max(1, len(done))

    def sent_between(self, start: float, end: float) -> int:
        return sum(start <= at < end for at in self.http.sent)


@dataclass(frozen=True, slots=True)
class Outcome:
    traffic: Traffic
    pace: Pace
    guarded: Side
    unguarded: Side
    snapshot: Any
    changes: list[tuple[float, str]]
    tasks: int
    threads: int

    def act(self, name: str) -> tuple[float, float]:
        return next((stage.start, stage.end) for stage in self.traffic.stages if stage.name == name)

    def closed_after(self, at: float) -> float | None:
        """How long after this instant the circuit of the primary closed and stayed closed."""
        last = self.changes[-1] if self.changes else None
        return last[0] - at if last is not None and last[1] == "closed" and last[0] >= at else None

    @property
    def permits_left(self) -> int:
        """What nobody can hold any more, as everything has ended."""
        return int(
            sum(one["in_flight"] + one["queued"] for one in self.snapshot["bulkhead"].values())
            + sum(one["active"] for one in self.snapshot["pipeline"].values())
            + self.guarded.http.under_way
            + self.unguarded.http.under_way
        )


def play(*acts: Act) -> Outcome:
    """Run the traffic through both clients at once, to its end."""
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        return runner.run(_play(Traffic(*acts)))


async def _play(traffic: Traffic) -> Outcome:
    threads = threading.active_count()
    registry = Registry()
    pace = Pace.of(traffic.seconds)
    changes: list[tuple[float, str]] = []
    async with Upstream(traffic) as upstream, Upstream(Script(traffic.seconds, SEED, REPLICA)) as replica:
        with patch.object(clients, "HttpClient", Watched):
            ours, theirs = guarded(upstream, replica, pace, registry), unguarded(upstream, pace)

        def note(event: Event) -> None:
            changes.append((event.at - upstream.started, str(event.data["to"])))

        breaker = registry.find(CircuitBreaker, PRIMARY)
        assert breaker is not None
        breaker.subscribe(note, kinds="circuit_state_changed")
        # A machine that stands still for a moment ends nothing: users come until they all have.
        coming = asyncio.ensure_future(bring_users(upstream, ours, theirs))
        working = [asyncio.ensure_future(work) for work in (upstream.follow_script(), *crew(ours, theirs))]
        await coming
        await asyncio.sleep(max(0.0, traffic.seconds - upstream.elapsed()))
        for client in (ours, theirs):
            client.users.lose_patience(upstream.elapsed())
        for task in working:
            task.cancel()
        for task in working:
            with suppress(asyncio.CancelledError):
                await task
        sides = [_side(client) for client in (ours, theirs)]
    return Outcome(
        traffic=traffic,
        pace=pace,
        guarded=sides[0],
        unguarded=sides[1],
        snapshot=registry.snapshot(),
        changes=changes,
        tasks=len(asyncio.all_tasks()) - 1,
        threads=threading.active_count() - threads,
    )


def _side(client: Client) -> Side:
    assert isinstance(client.http, Watched)
    return Side(client.users.came, client.users.settled, client.users.waiting, client.http)
