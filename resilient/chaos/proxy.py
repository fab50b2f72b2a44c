"""FaultProxy: a TCP proxy between a client and a server under test that does to their bytes what networks do."""

from __future__ import annotations

import socket
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Literal, Self

from resilient.chaos.pipes import Faults, Pipe
from resilient.chaos.relay import Address, Connection, Relay
from resilient.core.checks import Checker, Seconds, refuse

Direction = Literal["up", "down", "both"]

_DIRECTIONS: Final = ("up", "down", "both")
_PIECES_PER_SECOND: Final = 50


class FaultProxy:
    """A TCP proxy for tests, between a client and a server.

    It listens from the moment it is made, on a port of its own, and works on a thread of its own: clients may be
    threads, tasks of asyncio or trio, or other processes. Faults are switched while it runs, and hold until `heal()`
    for connections that are open as well as for new ones. Different faults add up; the same one again replaces the
    former.

    "up" is the way from the client to the server, "down" that from the server to the client. All times are real:
    a fake clock has no part in them.

    Args:
        host: name or address of the server. It need not be up.
        port: its port, 1 to 65535.
        listen: address to listen on.

    Attributes:
        host: address of the proxy: connect there instead of the server.
        port: port of the proxy. It stays the same until `close()`.

    Raises:
        ConfigurationError: a setting is wrong.
        OSError: the host is unknown, or `listen` can't be listened on.

    Example:
        >>> import socket
        >>> from resilient.chaos import FaultProxy
        >>> with socket.create_server(("127.0.0.1", 0)) as server:
        ...     with FaultProxy(*server.getsockname()) as proxy:
        ...         proxy.refuse()
        ...         try:
        ...             socket.create_connection((proxy.host, proxy.port))
        ...         except ConnectionRefusedError:
        ...             print("nobody there")
        nobody there
    """

    def __init__(self, host: str, port: int, *, listen: str = "127.0.0.1") -> None:
        self._check = check = Checker("FaultProxy")
        check.instance("host", host, str)
        check.instance("listen", listen, str)
        if check.whole("port", port) > 0xFFFF:
            refuse(check.policy, "port", port, "a port from 1 to 65535")
        addresses: tuple[Address, ...] = tuple(
            (found[0], found[4]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        found = socket.getaddrinfo(listen, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        self._family: socket.AddressFamily = found[0]
        self._address: Any = found[4]
        # Bound, and never listening: it keeps the port while nobody listens there.
        self._place = socket.socket(self._family, socket.SOCK_STREAM)
        try:
            self._place.bind(self._address)
            self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._address = self._place.getsockname()
            self._relay = Relay(self._listener(), addresses)
        except BaseException:
            self._place.close()
            raise
        self.host: str = self._address[0]
        self.port: int = self._address[1]
        self._relay.start()

    @property
    def connections(self) -> int:
        """Connections accepted so far. This and the other counts include all that has reached the proxy before."""
        self._settle()
        return self._relay.accepted

    @property
    def open_connections(self) -> int:
        """Connections that are open now, at one end at least."""
        self._settle()
        return len(self._relay.connections)

    @property
    def bytes_up(self) -> int:
        """Bytes handed to the server so far."""
        self._settle()
        return self._relay.up.carried

    @property
    def bytes_down(self) -> int:
        """Bytes handed to clients so far."""
        self._settle()
        return self._relay.down.carried

    def url(self, scheme: str) -> str:
        """Address of the proxy as a URL: `url("http")` is `http://127.0.0.1:54321`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}"

    def latency(self, seconds: Seconds, jitter: Seconds = 0.0, direction: Direction = "both") -> None:
        """Let everything arrive late. Opening a connection takes no longer.

        Args:
            seconds: the delay of each direction, at least 0. With "both", the answer to a question is late by twice as
                much.
            jitter: so many seconds more or fewer, by chance, at least 0. The order of the bytes stays.
            direction: "up", "down" or "both".
        """
        delay = self._check.seconds("seconds", seconds, zero=True)
        spread = self._check.seconds("jitter", jitter, zero=True)

        def change(faults: Faults) -> None:
            faults.delay, faults.jitter = delay, spread

        self._change(direction, change)

    def bandwidth(self, bytes_per_second: float, direction: Direction = "both") -> None:
        """Let only so many bytes a second through, on each connection and in each direction; takes the place of `drip`.

        Args:
            bytes_per_second: above 0.
            direction: "up", "down" or "both".
        """
        rate = bytes_per_second
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < float("inf"):
            refuse(self._check.policy, "bytes_per_second", rate, "a finite number above 0")
        self._pace(direction, max(1, int(rate / _PIECES_PER_SECOND)), 1 / rate)

    def drip(self, size: int = 1, every: Seconds = 0.1, direction: Direction = "down") -> None:
        """Let `size` bytes through every so many seconds; takes the place of `bandwidth`.

        A timeout between two reads never sees anything wrong; one for the whole does.

        Args:
            size: bytes at once, at least 1.
            every: seconds from one piece to the next, above 0.
            direction: "up", "down" or "both".
        """
        piece = self._check.whole("size", size)
        self._pace(direction, piece, self._check.seconds("every", every) / piece)

    def black_hole(self, direction: Direction = "both") -> None:
        """Accept connections and carry nothing: nothing is read, nothing is sent, nobody learns of an end.

        What comes meanwhile is carried once the proxy is healed.

        Args:
            direction: "up" (the server never hears the question), "down" (it does, and its answer is lost) or "both".
        """

        def change(faults: Faults) -> None:
            faults.black_hole = True

        self._change(direction, change)

    def half_close(self, direction: Direction = "down") -> None:
        """End one direction only, as a side does that has nothing more to say but still listens.

        What comes from there all the same is dropped. Connections that this befalls are not healed by `heal()`.

        Args:
            direction: "down" (the client sees the end, the server nothing), "up" (the other way round) or "both".
        """

        def change(faults: Faults) -> None:
            faults.half_closed = True

        def close(pipe: Pipe) -> None:
            pipe.half_close()

        self._change(direction, change, close)

    def reset(self, after_bytes: int = 0) -> None:
        """Reset connections (RST): open ones at once, new ones as soon as they are accepted.

        Args:
            after_bytes: each connection is reset only when so many more bytes of the server's have arrived, at least 0.
        """
        after = self._check.whole("after_bytes", after_bytes, minimum=0)

        def change() -> None:
            self._relay.reset_after = after
            for connection in self._relay.connections:
                connection.down.left = after
            if not after:
                self._relay.reset_all()

        self._relay.do(change)

    def refuse(self, *, keep_open: bool = False) -> None:
        """Refuse new connections, as where no server runs, and reset those that are open. The port stays taken.

        Args:
            keep_open: open connections go on, as with a server that is about to stop.
        """

        def change() -> None:
            self._relay.stop_listening()
            if not keep_open:
                self._relay.reset_all()

        self._relay.do(change)

    def heal(self) -> None:
        """End all faults. What was held back is carried at once."""

        def change() -> None:
            relay = self._relay
            relay.up.heal()
            relay.down.heal()
            relay.reset_after = None
            for connection in relay.connections:
                connection.down.left = None
                connection.up.hurry()
                connection.down.hurry()
            if not relay.listening:
                relay.listen(self._listener())

        self._relay.do(change)

    def close(self) -> None:
        """Close all connections and the port, and wait for the end of the thread. Closing again does nothing."""
        self._relay.stop()
        self._place.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<FaultProxy {self.host}:{self.port}>"

    def _listener(self) -> socket.socket:
        listener = socket.socket(self._family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(self._address)
            listener.setblocking(False)
            listener.listen(128)
        except BaseException:
            listener.close()
            raise
        return listener

    def _settle(self) -> None:
        """Let the relay see to what has come in."""
        try:
            self._relay.do(lambda: None)
        except RuntimeError:
            pass  # it is closed, and the counts are final

    def _pace(self, direction: Direction, piece: int, byte_time: float) -> None:
        def change(faults: Faults) -> None:
            faults.piece, faults.byte_time = piece, byte_time

        self._change(direction, change)

    def _change(
        self,
        direction: Direction,
        change: Callable[[Faults], None],
        change_open: Callable[[Pipe], None] = lambda pipe: None,
    ) -> None:
        self._check.choice("direction", direction, _DIRECTIONS)
        relay = self._relay

        def apply() -> None:
            if direction != "down":
                change(relay.up)
            if direction != "up":
                change(relay.down)
            for connection in relay.connections:
                for pipe in _pipes(connection, direction):
                    change_open(pipe)

        relay.do(apply)


def _pipes(connection: Connection, direction: Direction) -> list[Pipe]:
    pipes = [] if direction == "down" else [connection.up]
    return pipes if direction == "up" else [*pipes, connection.down]
