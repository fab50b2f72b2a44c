"""Receivers that accept a connection and then fail their client."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from tests.receivers.process import HOST


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, port: int) -> None:
        super().__init__((HOST, port), socketserver.BaseRequestHandler)
        self.port: int = self.server_address[1]
        self.endpoint = f"http://{HOST}:{self.port}"
        self.connections = 0
        self._over = threading.Event()

    @classmethod
    @contextmanager
    def started(cls, port: int = 0) -> Iterator[Self]:
        """Listens on `port`, or on one of its own; every connection is closed at the end."""
        with cls(port) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.02,), name=cls.__name__, daemon=True)
            thread.start()
            try:
                yield server
            finally:
                server._over.set()
                server.shutdown()
                thread.join()

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        self.connections += 1
        super().process_request(request, client_address)

    def finish_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        assert isinstance(request, socket.socket)
        try:
            self.answer(request)
        except OSError:
            pass  # the client has gone

    def answer(self, client: socket.socket) -> None:
        raise NotImplementedError


class HangingServer(_Server):
    """Accepts, and never answers."""

    def answer(self, client: socket.socket) -> None:
        self._over.wait()


class GarbageServer(_Server):
    """Answers what it is sent by bytes of no protocol, or by `garbage` if that is set, and hangs up."""

    garbage = bytes(range(255, 0, -1)) * 4

    def answer(self, client: socket.socket) -> None:
        client.settimeout(1.0)
        client.recv(65536)
        client.sendall(self.garbage)
        # What was not read when a socket is closed makes it a reset, and the client might not see the garbage.
        client.shutdown(socket.SHUT_WR)
        while client.recv(65536):
            pass
