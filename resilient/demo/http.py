"""The HTTP client that both sides use, and its count of what it sent."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Mapping

from resilient.core.clock import CLOCK
from resilient.demo.upstream import Upstream


class BadStatus(Exception):
    """The upstream answered, but not with a 200. `headers` is where retry finds a Retry-After."""

    def __init__(self, status: int, headers: Mapping[str, str]) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status
        self.headers = headers


class HttpClient:
    """Asks the upstream for items; one connection a request.

    Attributes:
        attempts: requests sent or tried to send.
        in_vain: those of them that met an upstream that was down or hung.
        times: when each attempt ended and how long it took, in seconds.
    """

    def __init__(self, name: str, upstream: Upstream) -> None:
        self.name = name
        self.attempts = 0
        self.in_vain = 0
        self.times: list[tuple[float, float]] = []
        self._upstream = upstream

    async def get(self, number: int) -> str:
        """The body of the answer.

        Raises:
            OSError: there was no connection, or it broke.
            BadStatus: the answer is not a 200.
        """
        started = CLOCK.now()
        self.attempts += 1
        self.in_vain += self._upstream.health().dead
        try:
            return await self._exchange(number)
        finally:
            self.times.append((self._upstream.elapsed(), CLOCK.now() - started))

    def seconds_since(self, since: float) -> list[float]:
        """How long each attempt took that ended at this instant of the run or later."""
        return [took for _, took in self.times[bisect_left(self.times, (since,)) :]]

    async def _exchange(self, number: int) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._upstream.port)
        try:
            request = f"GET /stock/{number} HTTP/1.1\r\nHost: inventory\r\nUser-Agent: {self.name}\r\n\r\n"
            writer.write(request.encode("ascii"))
            answer = await reader.read()
        finally:
            # The exchange is over, or is to be over at once: nothing is left to flush.
            writer.transport.abort()
        return read_answer(answer.decode("latin-1"))


def read_answer(answer: str) -> str:
    """The body of a 200; anything else is an error."""
    head, end, body = answer.partition("\r\n\r\n")
    if not end:
        raise ConnectionResetError("the upstream closed the connection without an answer")
    status, *lines = head.split("\r\n")
    code = int(status.split(" ")[1])
    if code != 200:
        pairs = (line.partition(":") for line in lines)
        raise BadStatus(code, {name.strip(): value.strip() for name, _, value in pairs})
    return body
