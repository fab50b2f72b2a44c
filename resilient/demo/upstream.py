"""The upstream and its replica: real HTTP servers on loopback whose health follows a script."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import Counter
from typing import Final, Self

from resilient.core.clock import CLOCK
from resilient.demo.script import Health, Lot, Script, Stage

_REASONS: Final = {200: "OK", 503: "Service Unavailable"}


class Upstream:
    """`async with Upstream(script) as upstream:` serves on `upstream.port` until the block ends.

    It accepts connections by itself, because a server of asyncio that closes drops those that it is about to accept.
    """

    def __init__(self, script: Script) -> None:
        self.script = script
        self.started = CLOCK.now()
        self.port = 0
        self._socket: socket.socket | None = None
        self._accepts = False
        self._connections: dict[asyncio.Task[None], socket.socket] = {}
        self._visits: Counter[tuple[str, int]] = Counter()

    def elapsed(self) -> float:
        return CLOCK.now() - self.started

    def health(self) -> Health:
        return self.script.at(self.elapsed()).health

    async def __aenter__(self) -> Self:
        self._socket = _bound(0)
        self.port = self._socket.getsockname()[1]
        self._listen(self._socket)
        self.started = CLOCK.now()
        return self

    async def __aexit__(self, *ended: object) -> None:
        self._close()
        handlers = dict(self._connections)
        for handler in handlers:
            handler.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)
        for connection in handlers.values():
            # A handler that was cancelled before its first step has closed nothing.
            connection.close()

    async def follow_script(self) -> None:
        """Take the upstream through the stages, each at its time."""
        for stage in self.script.stages:
            await asyncio.sleep(max(0.0, stage.start - self.elapsed()))
            self.enter(stage)

    def enter(self, stage: Stage) -> None:
        """Open or close the socket as this stage asks for."""
        if stage.health.reach == "refused":
            self._close()
            # A socket that is bound but does not listen refuses connections, and keeps the port from being
            # given to anybody else, our own clients included.
            self._socket = _bound(self.port)
        elif self._socket is not None and not self._accepts:
            self._listen(self._socket)

    def _listen(self, listener: socket.socket) -> None:
        listener.listen(256)
        asyncio.get_running_loop().add_reader(listener, self._accept, listener)
        self._accepts = True

    def _close(self) -> None:
        if self._socket is None:
            return
        if self._accepts:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._accepts = False
        self._socket.close()
        self._socket = None

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError:
            return  # the client has gone already
        connection.setblocking(False)
        handler = asyncio.ensure_future(self._serve(connection))
        self._connections[handler] = connection
        handler.add_done_callback(self._connections.pop)

    async def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                await self._answer(connection)
            except (OSError, ValueError):
                pass  # the client has gone, or spoke no HTTP: there is nobody to answer

    async def _answer(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        request = b""
        while not request.endswith(b"\r\n\r\n"):
            part = await loop.sock_recv(connection, 4096)
            if not part:
                return
            request += part
        client, item, user = _who(request.decode("latin-1"))
        health = self.health()
        if health.reach == "hanging":
            await loop.sock_recv(connection, 1)
        if health.dead:
            return
        self._visits[client, user] += 1
        lot = self.script.lot(health, user, self._visits[client, user])
        await asyncio.sleep(lot.latency)
        await loop.sock_sendall(connection, _response(lot, item))


def _who(request: str) -> tuple[str, int, int]:
    """Which client asks for which item, for whom: `GET /stock/17?user=312` with `User-Agent: guarded`."""
    line, *headers = request.split("\r\n")
    agent = next((header for header in headers if header.lower().startswith("user-agent:")), ":")
    item, _, user = line.split(" ")[1].removeprefix("/stock/").partition("?user=")
    return agent.partition(":")[2].strip(), int(item), int(user)


def _response(lot: Lot, item: int) -> bytes:
    body = f'{{"item": {item}, "in_stock": true}}\n' if lot.status == 200 else '{"error": "overloaded"}\n'
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
    bound.setblocking(False)
    bound.bind(("127.0.0.1", port))
    return bound
