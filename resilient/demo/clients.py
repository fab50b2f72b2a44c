"""The two clients: workers that take users' requests from a queue and call the upstream, guarded or not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

from resilient.core.clock import CLOCK
from resilient.demo.guards import UNKNOWN, Ask, guard
from resilient.demo.http import Answer, BadStatus, HttpClient
from resilient.demo.script import WORKERS, Pace
from resilient.demo.upstream import Upstream
from resilient.demo.users import Outcome, Request, Users
from resilient.registry import Registry


class Client:
    """A number of workers in front of the upstream, and the users in front of them.

    Attributes:
        http: what goes to the upstream.
        replica: what goes to its replica; None: this client knows of none.
    """

    def __init__(
        self, http: HttpClient, call: Ask, users: Users, elapsed: Callable[[], float], replica: HttpClient | None = None
    ) -> None:
        self.http = http
        self.replica = replica
        self.users = users
        self.busy = 0
        self._call = call
        self._elapsed = elapsed
        self._queue: asyncio.Queue[Request] = asyncio.Queue()

    def ask(self, number: int, item: int, at: float) -> None:
        """A user wants something."""
        self._queue.put_nowait(self.users.come(number, item, at))

    async def work(self) -> None:
        """What one worker does until it is cancelled."""
        while True:
            request = await self._queue.get()
            self.users.lose_patience(self._elapsed())
            if request.outcome is not None:
                continue
            self.busy += 1
            try:
                outcome = await self._outcome(request)
            finally:
                self.busy -= 1
            self.users.settle(request, outcome, self._elapsed())

    async def _outcome(self, request: Request) -> Outcome:
        asked = CLOCK.now()
        try:
            answer = await self._call(request.item, request.number)
        except (OSError, BadStatus):
            return "failed"
        return outcome_of(answer, asked)


def outcome_of(answer: Answer, asked: float) -> Outcome:
    """What a user got by asking at this instant: what was said before it is no fresh answer."""
    if answer is UNKNOWN:
        return "default"
    return "answered" if answer.at >= asked else "from_memory"


def guarded(upstream: Upstream, replica: Upstream, pace: Pace, registry: Registry) -> Client:
    """The client with policies around its calls."""
    primary, other = HttpClient("guarded", upstream), HttpClient("guarded", replica)
    call = guard(primary.get, other.get, pace, upstream.script.seed, registry)
    return Client(primary, call, Users(pace.seconds, pace.patience), upstream.elapsed, other)


def unguarded(upstream: Upstream, pace: Pace) -> Client:
    """The client that most programs have: a timeout of its own, and nothing else."""
    http = HttpClient("unguarded", upstream)

    async def stock(item: int, user: int) -> Answer:
        async with asyncio.timeout(pace.plain_timeout):
            return await http.get(item, user)

    return Client(http, stock, Users(pace.seconds, pace.patience), upstream.elapsed)


async def bring_users(upstream: Upstream, *clients: Client) -> None:
    """Send every user to all clients alike, at the same instant."""
    for number, at in enumerate(upstream.script.arrivals()):
        await asyncio.sleep(max(0.0, at - upstream.elapsed()))
        now = upstream.elapsed()
        for client in clients:
            client.ask(number, upstream.script.item(number), now)


def crew(*clients: Client) -> list[Coroutine[object, object, None]]:
    """The work of all workers of these clients."""
    return [client.work() for client in clients for _ in range(WORKERS)]
