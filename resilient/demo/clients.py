"""The two clients: workers that take users' requests from a queue and call the upstream, guarded or not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from random import Random

from resilient.demo.http import BadStatus, HttpClient
from resilient.demo.script import ATTEMPT_TIMEOUT, WORKERS, Pace
from resilient.demo.upstream import Upstream
from resilient.demo.users import Outcome, Request, Users
from resilient.errors import RejectedError
from resilient.pipeline import Pipeline
from resilient.policies.circuit_breaker import circuit_breaker
from resilient.policies.retry import retry
from resilient.policies.standard import standard_pipeline
from resilient.registry import Registry

NAME = "inventory"
ATTEMPTS = 5

Call = Callable[[int], Awaitable[str]]


class Client:
    """A number of workers in front of the upstream, and the users in front of them."""

    def __init__(self, http: HttpClient, call: Call, users: Users, elapsed: Callable[[], float]) -> None:
        self.http = http
        self.users = users
        self.busy = 0
        self._call = call
        self._elapsed = elapsed
        self._queue: asyncio.Queue[Request] = asyncio.Queue()

    def ask(self, number: int, at: float) -> None:
        """A user wants something."""
        self._queue.put_nowait(self.users.come(number, at))

    async def work(self) -> None:
        """What one worker does until it is cancelled."""
        while True:
            request = await self._queue.get()
            self.users.lose_patience(self._elapsed())
            if request.outcome is not None:
                continue
            self.busy += 1
            try:
                outcome = await self._outcome(request.number)
            finally:
                self.busy -= 1
            self.users.settle(request, outcome, self._elapsed())

    async def _outcome(self, number: int) -> Outcome:
        try:
            await self._call(number)
        except RejectedError:
            return "refused"
        except (OSError, BadStatus):
            return "failed"
        return "answered"


def guarded(upstream: Upstream, pace: Pace, registry: Registry) -> Client:
    """The client with policies around its calls."""
    http = HttpClient("guarded", upstream)
    inventory = policies(pace, upstream.script.seed, registry)

    @inventory
    async def stock(number: int) -> str:
        return await http.get(number)

    return Client(http, stock, Users(pace.seconds, pace.patience), upstream.elapsed)


def unguarded(upstream: Upstream, pace: Pace) -> Client:
    """The client that most programs have: a timeout of its own, and nothing else."""
    http = HttpClient("unguarded", upstream)

    async def stock(number: int) -> str:
        async with asyncio.timeout(pace.plain_timeout):
            return await http.get(number)

    return Client(http, stock, Users(pace.seconds, pace.patience), upstream.elapsed)


def policies(pace: Pace, seed: int, registry: Registry) -> Pipeline:
    random = Random(f"{seed} backoff")

    def backoff(attempt: int) -> float:
        """`exponential(initial=0.05, max=0.4)`, its jitter drawn from the seed."""
        return random.uniform(0.0, min(0.4, 0.05 * 2.0 ** (attempt - 1)))

    return standard_pipeline(
        NAME,
        total_timeout=pace.total_timeout,
        retry=retry(attempts=ATTEMPTS, backoff=backoff, registry=registry),
        circuit_breaker=circuit_breaker(
            # More than the workers could bring about at once, if this process stands still for a moment.
            consecutive_failures=2 * WORKERS,
            failure_rate=0.6,
            window_calls=100,
            minimum_calls=50,
            open_duration=pace.open_duration,
            half_open_calls=2,
            registry=registry,
        ),
        attempt_timeout=ATTEMPT_TIMEOUT,
        registry=registry,
    )


async def bring_users(upstream: Upstream, *clients: Client) -> None:
    """Send every user to all clients alike, at the same instant."""
    for number, at in enumerate(upstream.script.arrivals()):
        await asyncio.sleep(max(0.0, at - upstream.elapsed()))
        now = upstream.elapsed()
        for client in clients:
            client.ask(number, now)


def crew(*clients: Client) -> list[Coroutine[object, object, None]]:
    """The work of all workers of these clients."""
    return [client.work() for client in clients for _ in range(WORKERS)]
