"""The HTTP client that both sides use, what it brings back, and its count of what it sent."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from resilient.core.clock import CLOCK
from resilient.demo.upstream import Upstream


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said, and the instant at which it did."""

    body: str
    at: float


class BadStatus(Exception):
    """The upstream answered, but not with a 200. `headers` is where retry finds a Retry-After."""

    def __init__(self, status: int, headers: Mapping[str, str]) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status
        self.headers = headers


class HttpClient:
    """Asks one server for items; one connection a request.

    Attributes:
        attempts: requests sent or tried to send.
        in_vain: those of them that met a server that was down or hung.
    """

    def __init__(self, name: str, upstream: Upstream) -> None:
        self.name = name
        self.attempts = 0
        self.in_vain = 0
        self._upstream = upstream

    async def get(self, item: int, user: int) -> Answer:
        """What there is of this item. `user` is whose request it is: it draws its lot by that.

        Raises:
            OSError: there was no connection, or it broke.
            BadStatus: the answer is not a 200.
        """
        self.attempts += 1
        self.in_vain += self._upstream.health().dead
        body = await self._exchange(f"/stock/{item}?user={user}")
        return Answer(body, CLOCK.now())

    async def _exchange(self, path: str) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._upstream.port)
        try:
            request = f"GET {path} HTTP/1.1\r\nHost: inventory\r\nUser-Agent: {self.name}\r\n\r\n"
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
