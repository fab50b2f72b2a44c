"""The upstream: a real HTTP server on loopback whose health follows the script."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import Counter
from typing import Final, Self

from resilient.core.clock import CLOCK
from resilient.demo.script import Health, Lot, Script

# So many turns of the loop it takes at most from accepting a connection to the start of its handler.
TURNS: Final = 5

_REASONS: Final = {200: "OK", 503: "Service Unavailable"}


class Upstream:
    """`async with Upstream(script) as upstream:` serves on `upstream.port` until the block ends."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.started = CLOCK.now()
        self.port = 0
        self._socket: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._handlers: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._visits: Counter[tuple[str, int]] = Counter()

    def elapsed(self) -> float:
        return CLOCK.now() - self.started

    def health(self) -> Health:
        return self.script.at(self.elapsed()).health

    async def __aenter__(self) -> Self:
        self._socket = _bound(0)
        self.port = self._socket.getsockname()[1]
        await self._listen()
        self.started = CLOCK.now()
        return self

    async def __aexit__(self, *ended: object) -> None:
        self._stop_listening()
        for _ in range(TURNS):
            await asyncio.sleep(0)
        for handler, writer in self._handlers.items():
            handler.cancel()
            writer.transport.abort()
        await asyncio.gather(*self._handlers, return_exceptions=True)

    async def follow_script(self) -> None:
        """Open and close the socket as the script says."""
        for stage in self.script.stages:
            await asyncio.sleep(max(0.0, stage.start - self.elapsed()))
            if stage.health.reach == "refused":
                self._stop_listening()
                # A socket that is bound but does not listen refuses connections, and keeps the port from being
                # given to anybody else, our own clients included.
                self._socket = _bound(self.port)
            elif self._server is None:
                await self._listen()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, sock=self._socket, backlog=256)

    def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # On record before it runs: what is cancelled before its first step could not even close its connection.
        handler = asyncio.ensure_future(self._serve(reader, writer))
        self._handlers[handler] = writer
        handler.add_done_callback(self._handlers.pop)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._answer(reader, writer)
        except (OSError, EOFError, ValueError):
            pass  # the client has gone, or spoke no HTTP: there is nobody to answer
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        client, number = _who(request)
        health = self.health()
        if health.reach != "open":
            await reader.read()
            return
        self._visits[client, number] += 1
        lot = self.script.lot(health, number, self._visits[client, number])
        await asyncio.sleep(lot.latency)
        writer.write(_response(lot, number))
        await writer.drain()


def _who(request: str) -> tuple[str, int]:
    """Which client asks for which item: `GET /stock/17` with `User-Agent: guarded`."""
    line, *headers = request.split("\r\n")
    agent = next((header for header in headers if header.lower().startswith("user-agent:")), ":")
    return agent.partition(":")[2].strip(), int(line.split(" ")[1].rpartition("/")[2])


def _response(lot: Lot, number: int) -> bytes:
    body = f'{{"item": {number}, "in_stock": true}}\n' if lot.status == 200 else '{"error": "overloaded"}\n'
    lines = [
        f"HTTP/1.1 {lot.status} {_REASONS[lot.status]}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Connection: close",
    ]
    if lot.retry_after is not None:
        lines.append(f"Retry-After: {lot.retry_after}")
    return "\r\n".join([*lines, "", body]).encode("latin-1")


def _bound(port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if os.name == "posix":
        # On other systems this option would let anybody share the port.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", port))
    return bound
