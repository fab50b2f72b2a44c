"""One direction of a proxied connection at explicit instants."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from resilient.chaos.pipes import Broken, End, Faults, Pipe


class Line:
    """A pipe, and who talks into it and listens to it. The time is what is said it is."""

    def __init__(self) -> None:
        self.talker, source = socket.socketpair()
        sink, self.listener = socket.socketpair()
        for end in (source, sink, self.listener):
            end.setblocking(False)
        self.faults = Faults()
        self.source = End(source, connected=True)
        self.sink = End(sink, connected=True)
        self.pipe = Pipe(self.source, self.sink, self.faults)

    def say(self, data: bytes, at: float) -> None:
        self.talker.sendall(data)
        self.pipe.read(at)

    def heard(self, at: float) -> bytes | None:
        """What comes out by then; None for nothing."""
        self.pipe.send(at)
        try:
            return self.listener.recv(100_000)
        except BlockingIOError:
            return None

    def close(self) -> None:
        for end in (self.talker, self.source.socket, self.sink.socket, self.listener):
            end.close()


@pytest.fixture
def line() -> Iterator[Line]:
    line = Line()
    yield line
    line.close()


def test_without_faults_everything_goes_at_once(line: Line) -> None:
    line.say(b"now", 100.0)
    assert line.pipe.next_at() == 100.0
    assert line.heard(100.0) == b"now"
    assert line.pipe.next_at() is None


def test_each_piece_is_late_by_the_delay(line: Line) -> None:
    line.faults.delay = 2.0
    line.say(b"first", 100.0)
    line.say(b"second", 100.5)
    assert line.pipe.next_at() == 102.0
    assert line.heard(101.99) is None
    assert line.heard(102.0) == b"first"
    assert line.pipe.next_at() == 102.5
    assert line.heard(102.5) == b"second"


def test_the_end_is_as_late_as_what_comes_before_it(line: Line) -> None:
    line.faults.delay = 2.0
    line.say(b"last words", 100.0)
    line.talker.close()
    line.pipe.read(101.0)
    assert not line.pipe.wants_to_read()
    assert line.heard(102.0) == b"last words"
    assert not line.pipe.ended
    assert line.heard(103.0) == b""
    assert line.pipe.ended


def test_a_reset_comes_after_what_is_on_its_way(line: Line) -> None:
    line.faults.delay = 2.0
    line.say(b"last words", 100.0)
    line.pipe.put(None, 101.0)
    assert line.heard(102.0) == b"last words"
    with pytest.raises(Broken):
        line.pipe.send(103.0)


def test_jitter_stays_within_its_bounds_and_never_changes_the_order(line: Line) -> None:
    line.faults.delay, line.faults.jitter = 2.0, 1.0
    delays: list[float] = []
    for turn in range(200):
        said = 100.0 + 10 * turn
        line.say(b"x", said)
        due = line.pipe.next_at()
        assert due is not None
        delays.append(due - said)
        assert line.heard(due) == b"x"
    assert 1.0 <= min(delays) < 1.5
    assert 2.5 < max(delays) <= 3.0
    instants: list[float] = []
    for byte in range(100):
        line.say(bytes([byte]), 5000.0)
    received = b""
    while (due := line.pipe.next_at()) is not None:
        instants.append(due)
        received += line.heard(due) or b""
    assert received == bytes(range(100))
    assert instants == sorted(instants)


def test_more_jitter_than_delay_is_never_a_delay_below_zero(line: Line) -> None:
    line.faults.jitter = 1.0
    for turn in range(50):
        line.say(b"x", 100.0 + 10 * turn)
        due = line.pipe.next_at()
        assert due is not None
        assert 100.0 + 10 * turn <= due <= 101.0 + 10 * turn
        line.heard(due)


def test_pieces_follow_each_other_in_time(line: Line) -> None:
    line.faults.piece, line.faults.byte_time = 4, 0.25
    line.say(b"abcdefghij", 100.0)
    assert line.heard(100.0) == b"abcd"
    assert line.pipe.next_at() == 101.0
    assert line.heard(100.99) is None
    assert line.heard(101.0) == b"efgh"
    assert line.heard(102.0) == b"ij"
    # The last two bytes took half a second.
    line.say(b"k", 102.1)
    assert line.pipe.next_at() == 102.5
    assert line.heard(102.5) == b"k"


def test_a_thread_that_wakes_late_does_not_slow_the_pieces_down(line: Line) -> None:
    line.faults.piece, line.faults.byte_time = 1, 1.0
    line.say(b"abcdef", 100.0)
    assert line.heard(100.0) == b"a"
    assert line.heard(101.25) == b"b"
    assert line.heard(101.9) is None
    assert line.heard(102.0) == b"c"


def test_a_pause_saves_up_nothing(line: Line) -> None:
    line.faults.piece, line.faults.byte_time = 1, 1.0
    line.say(b"abc", 100.0)
    assert line.heard(100.0) == b"a"
    assert line.heard(150.0) == b"b"
    assert line.pipe.next_at() == 151.0


def test_a_black_hole_holds_back_what_is_on_its_way(line: Line) -> None:
    line.say(b"said before", 100.0)
    line.faults.black_hole = True
    assert not line.pipe.wants_to_read()
    assert line.pipe.next_at() is None
    assert line.heard(200.0) is None
    line.faults.heal()
    assert line.pipe.wants_to_read()
    assert line.heard(200.0) == b"said before"


def test_hurried_it_forgets_all_waits(line: Line) -> None:
    line.faults.delay, line.faults.piece, line.faults.byte_time = 50.0, 1, 10.0
    line.say(b"abc", 100.0)
    assert line.heard(150.0) == b"a"
    line.faults.heal()
    line.pipe.hurry()
    assert line.heard(150.0) == b"bc"
    line.say(b"d", 150.0)
    assert line.heard(150.0) == b"d"


def test_it_stops_reading_while_much_waits_and_reads_on_when_it_is_gone(line: Line) -> None:
    line.faults.delay = 1000.0
    said = 0
    while line.pipe.wants_to_read():
        line.say(bytes(4096), 100.0)
        said += 4096
    assert said == 256 * 1024
    assert line.heard(1100.0) is not None
    assert line.pipe.wants_to_read()


def test_who_does_not_listen_blocks_it(line: Line) -> None:
    for _ in range(1000):
        line.say(bytes(4096), 100.0)
        line.pipe.send(100.0)
        if line.pipe.blocked:
            break
    assert line.pipe.blocked
    assert line.pipe.next_at() is None
    line.pipe.blocked = False
    assert line.pipe.next_at() == 100.0


def test_a_reset_comes_once_its_bytes_have_been_counted_off_and_taken(line: Line) -> None:
    line.pipe.left = 5
    line.say(b"123", 100.0)
    assert line.heard(100.0) == b"123"
    line.say(b"456", 100.0)
    line.pipe.send(100.0)
    assert line.pipe.next_at() == pytest.approx(100.0, abs=0.01)
    line.pipe.send(101.0)  # still not taken
    assert line.listener.recv(100) == b"45"
    with pytest.raises(Broken):
        line.pipe.send(102.0)


def test_half_closed_it_forgets_what_waits_and_drops_what_comes(line: Line) -> None:
    line.faults.delay = 1000.0
    line.say(b"on its way", 100.0)
    line.pipe.half_close()
    assert line.heard(100.0) == b""
    line.say(b"too late", 100.0)
    assert line.pipe.next_at() is None
    assert line.pipe.wants_to_read()


def test_who_is_gone_breaks_it(line: Line) -> None:
    line.listener.close()
    line.say(b"hello?", 100.0)
    with pytest.raises(Broken):
        line.pipe.send(100.0)


def test_nothing_to_read_is_nothing(line: Line) -> None:
    line.pipe.read(100.0)
    assert line.pipe.wants_to_read()
    assert line.pipe.next_at() is None


def test_nothing_is_sent_to_a_side_that_is_not_connected_yet(line: Line) -> None:
    line.sink.connected = False
    line.say(b"early", 100.0)
    assert line.heard(200.0) is None
    line.sink.connected = True
    assert line.heard(200.0) == b"early"
