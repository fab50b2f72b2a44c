"""The thread behind a `FaultProxy`: it accepts connections and carries their bytes. Nobody else touches a socket."""

from __future__ import annotations

import errno
import selectors
import socket
import struct
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from selectors import EVENT_READ, EVENT_WRITE
from threading import Lock, Thread
from typing import Any, Final

from resilient.chaos.pipes import Broken, End, Faults, Pipe
from resilient.drivers.safe_points import real_time

Address = tuple[socket.AddressFamily, Any]

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_STARTED: Final = {0, errno.EINPROGRESS, errno.EWOULDBLOCK, getattr(errno, "WSAEWOULDBLOCK", errno.EWOULDBLOCK)}


class Connection:
    """A client's connection and the one to the server that belongs to it; `dialling` until that one stands."""

    __slots__ = ("_addresses", "client", "dialling", "down", "server", "up")

    def __init__(self, client: socket.socket, addresses: tuple[Address, ...], up: Faults, down: Faults) -> None:
        self._addresses = deque(addresses)
        self.dialling = False
        self.client = End(client, connected=True)
        self.server = End(_new_socket(self._addresses[0][0]), connected=False)
        self.up = Pipe(self.client, self.server, up)
        self.down = Pipe(self.server, self.client, down)

    @property
    def ended(self) -> bool:
        return self.up.ended and self.down.ended

    def dial(self, now: float) -> None:
        """Begin to connect to the next address of the server; with none left, the client is told by a reset."""
        while self._addresses:
            family, address = self._addresses.popleft()
            self.server.socket.close()
            self.server.socket = _new_socket(family)
            if self.server.socket.connect_ex(address) in _STARTED:
                self.dialling = True
                return
        self.dialling = False
        self.down.put(None, now)

    def dialled(self, now: float) -> None:
        if self.server.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.dial(now)
        else:
            self.dialling = False
            self.server.connected = True

    def close(self, *, reset: bool) -> None:
        for end in (self.client, self.server):
            try:
                if reset:
                    end.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            except OSError:
                pass  # some systems say so where the other side has gone already
            end.socket.close()


def _new_socket(family: socket.AddressFamily) -> socket.socket:
    server = socket.socket(family, socket.SOCK_STREAM)
    server.setblocking(False)
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return server


class Relay:
    """Runs on a thread of its own from `start` to `stop`; `do` has something done there.

    Attributes:
        up: what is wrong on the way to the server; `down`: on the way back.
        reset_after: connections are reset once so many bytes have come back; None for no reset.
        accepted: connections accepted so far.
    """

    def __init__(self, listener: socket.socket, addresses: tuple[Address, ...]) -> None:
        self.up = Faults()
        self.down = Faults()
        self.reset_after: int | None = None
        self.accepted = 0
        self.connections: list[Connection] = []
        self._addresses = addresses
        self._listener: socket.socket | None = None
        self._selector = selectors.DefaultSelector()
        self._bell, self._button = socket.socketpair()
        for end in (self._bell, self._button):
            end.setblocking(False)
        self._selector.register(self._bell, EVENT_READ)
        self._lock = Lock()
        self._orders: deque[tuple[Callable[[], object], Future[None]]] = deque()
        self._running = True
        self.listen(listener)
        self._thread = Thread(target=self._run, name="resilient-fault-proxy", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def do(self, order: Callable[[], object]) -> None:
        """Have `order` carried out on the thread, after all that has happened before, and wait for its effects.

        Its errors are raised here.

        Raises:
            RuntimeError: the relay has stopped.
        """
        done: Future[None] = Future()
        with self._lock:
            if not self._running:
                raise RuntimeError("this fault proxy is closed: make another")
            self._orders.append((order, done))
            self._ring()
        done.result()

    def stop(self) -> None:
        """Close everything, and wait for the end of the thread."""
        with self._lock:
            if self._running:
                self._running = False
                self._ring()
        self._thread.join()

    def listen(self, listener: socket.socket) -> None:
        self._selector.register(listener, EVENT_READ)
        self._listener = listener

    def stop_listening(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            self._selector.unregister(listener)
            listener.close()

    @property
    def listening(self) -> bool:
        return self._listener is not None

    def reset_all(self) -> None:
        for connection in self.connections.copy():
            self._drop(connection, reset=True)

    def _ring(self) -> None:
        try:
            self._button.send(b"!")
        except BlockingIOError:
            pass  # it has been rung often enough

    def _run(self) -> None:
        try:
            while self._running:
                self._turn()
        finally:
            self._clean_up()

    def _clean_up(self) -> None:
        with self._lock:
            self._running = False
        for connection in self.connections.copy():
            self._drop(connection, reset=False)
        self.stop_listening()
        self._selector.close()
        self._bell.close()
        self._button.close()
        while self._orders:
            self._orders.popleft()[1].set_exception(RuntimeError("this fault proxy was closed meanwhile"))

    def _turn(self) -> None:
        moments = [at for connection in self.connections for at in _moments(connection)]
        wait = max(0.0, min(moments) - real_time()) if moments else None
        happened = self._selector.select(wait)
        now = real_time()
        called = False
        for key, events in happened:
            if key.fileobj is self._bell:
                called = True
            elif key.data is None:
                self._accept(now)
            else:
                connection, end = key.data
                self._serve(connection, end, events, now)
        self._carry_all(now)
        if called:
            self._obey(now)

    def _obey(self, now: float) -> None:
        self._bell.recv(4096)
        obeyed: list[tuple[Future[None], Exception | None]] = []
        while self._orders:
            order, done = self._orders.popleft()
            try:
                order()
            except Exception as error:  # noqa: BLE001 - whoever gave the order gets it
                obeyed.append((done, error))
            else:
                obeyed.append((done, None))
        try:
            self._carry_all(now)
        finally:
            for done, failure in obeyed:
                done.set_result(None) if failure is None else done.set_exception(failure)

    def _accept(self, now: float) -> None:
        while self._listener is not None:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # nobody is left
            client.setblocking(False)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.accepted += 1
            connection = Connection(client, self._addresses, self.up, self.down)
            self.connections.append(connection)
            if self.reset_after == 0:
                self._drop(connection, reset=True)
            else:
                connection.down.left = self.reset_after
                connection.dial(now)

    def _carry_all(self, now: float) -> None:
        for connection in self.connections.copy():
            self._carry(connection, now)

    def _serve(self, connection: Connection, end: End, events: int, now: float) -> None:
        """Something can be done at one end of a connection."""
        incoming, outgoing = (
            (connection.up, connection.down) if end is connection.client else (connection.down, connection.up)
        )
        if events & EVENT_WRITE:
            if end.connected:
                outgoing.blocked = False
            else:
                self._watch(connection, end, 0)
                connection.dialled(now)
        if events & EVENT_READ and end.connected and incoming.wants_to_read():
            incoming.read(now)

    def _carry(self, connection: Connection, now: float) -> None:
        try:
            connection.up.send(now)
            connection.down.send(now)
        except Broken:
            self._drop(connection, reset=True)
            return
        if connection.ended:
            self._drop(connection, reset=False)
            return
        up, down = connection.up, connection.down
        self._watch(connection, connection.client, _events(up, down))
        server = connection.server
        events = _events(down, up) if server.connected else EVENT_WRITE if connection.dialling else 0
        self._watch(connection, server, events)

    def _watch(self, connection: Connection, end: End, events: int) -> None:
        if events == end.watched:
            return
        if not events:
            self._selector.unregister(end.socket)
        elif not end.watched:
            self._selector.register(end.socket, events, (connection, end))
        else:
            self._selector.modify(end.socket, events, (connection, end))
        end.watched = events

    def _drop(self, connection: Connection, *, reset: bool) -> None:
        self._watch(connection, connection.client, 0)
        self._watch(connection, connection.server, 0)
        connection.close(reset=reset)
        self.connections.remove(connection)


def _events(incoming: Pipe, outgoing: Pipe) -> int:
    return (EVENT_READ if incoming.wants_to_read() else 0) | (EVENT_WRITE if outgoing.blocked else 0)


def _moments(connection: Connection) -> list[float]:
    return [at for at in (connection.up.next_at(), connection.down.next_at()) if at is not None]
