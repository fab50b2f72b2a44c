"""One direction of a proxied connection: bytes read at one end, on their way to the other, and what befalls them."""

from __future__ import annotations

import socket
from collections import deque
from dataclasses import dataclass
from random import Random
from typing import Final

# Read at once; and held back at most, so that who sends too fast is slowed down as by a network.
_PIECE: Final = 64 * 1024
_HELD: Final = 256 * 1024
# Between two looks at whether the other side has taken all that was sent before a reset.
_UNTIL_TAKEN: Final = 0.002

_JITTER: Final = Random()


@dataclass(slots=True)
class Faults:
    """What is wrong with one direction, on all connections.

    Attributes:
        delay: seconds that each piece is late; `jitter` more or fewer, by chance.
        piece: so many bytes at once, or None for as many as there are; each byte then takes `byte_time` seconds.
        black_hole: nothing is read and nothing is sent.
        half_closed: nothing more comes, and the other side is told so.
        carried: bytes handed to receivers so far.
    """

    delay: float = 0.0
    jitter: float = 0.0
    piece: int | None = None
    byte_time: float = 0.0
    black_hole: bool = False
    half_closed: bool = False
    carried: int = 0

    def heal(self) -> None:
        self.delay = self.jitter = self.byte_time = 0.0
        self.piece = None
        self.black_hole = self.half_closed = False


class Broken(Exception):
    """The connection is to be reset at both its ends."""


class End:
    """One of the two sockets of a connection; `watched` are the selector's events that it is registered for."""

    __slots__ = ("connected", "socket", "watched")

    def __init__(self, socket: socket.socket, *, connected: bool) -> None:
        self.socket = socket
        self.connected = connected
        self.watched = 0


class Pipe:
    """Carries the bytes of one direction.

    Attributes:
        blocked: the receiver takes nothing more for now.
        ended: the receiver has been told that nothing more comes.
        left: bytes to hand over until the connection is reset; None for no reset.
    """

    __slots__ = (
        "_clear_at",
        "_dropping",
        "_exhausted",
        "_faults",
        "_held",
        "_last_due",
        "_waiting",
        "blocked",
        "ended",
        "left",
        "sink",
        "source",
    )

    def __init__(self, source: End, sink: End, faults: Faults) -> None:
        self.source = source
        self.sink = sink
        self.blocked = False
        self.ended = False
        self.left: int | None = None
        self._faults = faults
        # Pieces and when they are due; an empty one stands for the end of the stream, None for a reset.
        self._waiting: deque[tuple[float, memoryview | None]] = deque()
        self._held = 0
        self._last_due = self._clear_at = 0.0
        self._exhausted = False
        self._dropping = False
        if faults.half_closed:
            self.half_close()

    def wants_to_read(self) -> bool:
        return not self._exhausted and not self._faults.black_hole and self._held < _HELD

    def read(self, now: float) -> None:
        """Take what the source has sent."""
        try:
            data = self.source.socket.recv(_PIECE)
        except BlockingIOError:
            return
        except OSError:
            self._exhausted = True
            self.put(None, now)
            return
        self._exhausted = not data
        if not self._dropping:
            self.put(memoryview(data), now)

    def put(self, piece: memoryview | None, now: float) -> None:
        """Send on a piece when its time has come, behind those before it."""
        faults = self._faults
        delay = faults.delay
        if faults.jitter:
            delay = max(0.0, delay + _JITTER.uniform(-faults.jitter, faults.jitter))
        self._last_due = max(self._last_due, now + delay)
        self._waiting.append((self._last_due, piece))
        self._held += 0 if piece is None else len(piece)

    def half_close(self) -> None:
        """Tell the receiver that nothing more comes; what comes all the same is dropped."""
        if not self._dropping and not self.ended:
            self._dropping = True
            self._waiting.clear()
            self._held = 0
            self._waiting.append((0.0, memoryview(b"")))

    def hurry(self) -> None:
        """What waits is late no longer."""
        self._clear_at = self._last_due = 0.0
        self._waiting = deque((0.0, piece) for _, piece in self._waiting)

    def next_at(self) -> float | None:
        """When there is something to do again without anything coming in; None for never."""
        if self._faults.black_hole or self.blocked or not self.sink.connected:
            return None
        if self.left == 0:
            return self._clear_at
        return max(self._waiting[0][0], self._clear_at) if self._waiting else None

    def send(self, now: float) -> None:
        """Send on what is due.

        Raises:
            Broken: a reset is due, or the receiver is gone.
        """
        while (at := self.next_at()) is not None and at <= now:
            if self.left == 0:
                if _untaken(self.sink.socket):
                    self._clear_at = now + _UNTIL_TAKEN
                    return
                raise Broken
            due, piece = self._waiting[0]
            if piece is None:
                raise Broken
            if not piece:
                self._waiting.popleft()
                self._end()
            else:
                self._send_some(piece, due, now)

    def _send_some(self, piece: memoryview, due: float, now: float) -> None:
        faults = self._faults
        most = len(piece)
        if faults.piece is not None:
            most = min(most, faults.piece)
        if self.left is not None:
            most = min(most, self.left)
        try:
            count = self.sink.socket.send(piece[:most])
        except BlockingIOError:
            self.blocked = True
            return
        except OSError as error:
            raise Broken from error
        faults.carried += count
        self._held -= count
        if self.left is not None:
            self.left -= count
        if faults.piece is not None:
            # From when this piece was due, as long as the pieces follow each other.
            took = count * faults.byte_time
            self._clear_at = (self._clear_at if now - self._clear_at < took else now) + took
        if count < len(piece):
            self._waiting[0] = due, piece[count:]
        else:
            self._waiting.popleft()

    def _end(self) -> None:
        self.ended = True
        try:
            self.sink.socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise Broken from error


def _untaken(connection: socket.socket) -> bool:
    """Is something of what was sent still on this side? Closing with a reset would throw it away."""
    try:
        from fcntl import ioctl
        from termios import TIOCOUTQ
    except ImportError:
        return False
    try:
        return any(ioctl(connection, TIOCOUTQ, b"\0\0\0\0"))
    except OSError:
        return False
