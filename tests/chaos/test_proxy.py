"""The fault proxy: what it does to bytes and connections, with a test at each of its two ends."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import select
import socket
import threading
import warnings
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import pytest
import trio

from resilient import ConfigurationError, Registry, TimeoutExceededError, circuit_breaker, pipeline, retry, timeout
from resilient.chaos import FaultProxy
from resilient.chaos.relay import Relay
from resilient.testing import fake_clock

# Nothing takes as long unless something is broken; a busy machine may take seconds for anything.
PATIENCE = 30.0
SILENCE = 0.05


class Wire:
    """A server that does nothing by itself, and a proxy before it: a test plays both sides of the connections."""

    def __init__(self) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.server.settimeout(PATIENCE)
        self.proxy = FaultProxy(*self.server.getsockname())
        self._open: list[socket.socket] = []

    def dial(self) -> socket.socket:
        """A client's end, connected."""
        client = socket.create_connection((self.proxy.host, self.proxy.port), timeout=PATIENCE)
        self._open.append(client)
        return client

    def connect(self) -> tuple[socket.socket, socket.socket]:
        """The client's end and the server's."""
        client = self.dial()
        server, _ = self.server.accept()
        server.settimeout(PATIENCE)
        self._open.append(server)
        return client, server

    def stop_server(self) -> None:
        self.server.close()

    def close(self) -> None:
        for end in self._open:
            end.close()
        self.proxy.close()
        self.server.close()


@pytest.fixture
def wire() -> Iterator[Wire]:
    wire = Wire()
    yield wire
    wire.close()


@pytest.fixture
def proxy(wire: Wire) -> FaultProxy:
    return wire.proxy


def read(end: socket.socket, size: int) -> bytes:
    """So many bytes, or fewer where the stream ends before."""
    data = bytearray()
    while len(data) < size and (piece := end.recv(min(65536, size - len(data)))):
        data += piece
    return bytes(data)


def is_silent(end: socket.socket) -> bool:
    """Neither bytes nor an end arrive for a moment."""
    return not select.select([end], [], [], SILENCE)[0]


def is_through(sender: socket.socket, receiver: socket.socket, data: bytes = b"anything") -> bool:
    sender.sendall(data)
    return read(receiver, len(data)) == data


def seconds(work: Callable[[], object]) -> float:
    started = monotonic()
    work()
    return monotonic() - started


def send_in_background(end: socket.socket, data: bytes) -> threading.Thread:
    def send() -> None:
        try:
            end.sendall(data)
        except OSError:
            pass  # as the test means it to be

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def ends_by(end: socket.socket) -> str:
    """How the stream ends, whatever comes before that."""
    try:
        while end.recv(65536):
            pass
    except ConnectionResetError:
        return "reset"
    return "end"


class TestNothingWrong:
    def test_bytes_go_both_ways(self, wire: Wire) -> None:
        client, server = wire.connect()
        assert is_through(client, server, b"question")
        assert is_through(server, client, b"an answer")

    def test_it_counts_connections_and_bytes(self, wire: Wire, proxy: FaultProxy) -> None:
        assert (proxy.connections, proxy.open_connections, proxy.bytes_up, proxy.bytes_down) == (0, 0, 0, 0)
        client, server = wire.connect()
        is_through(client, server, b"12")
        is_through(server, client, b"123")
        wire.connect()
        assert (proxy.connections, proxy.open_connections, proxy.bytes_up, proxy.bytes_down) == (2, 2, 2, 3)
        client.close()
        server.close()
        assert (proxy.connections, proxy.open_connections) == (2, 1)
        proxy.close()
        assert (proxy.connections, proxy.open_connections, proxy.bytes_up, proxy.bytes_down) == (2, 0, 2, 3)

    def test_the_end_of_one_direction_leaves_the_other_open(self, wire: Wire, proxy: FaultProxy) -> None:
        client, server = wire.connect()
        client.sendall(b"all of it")
        client.shutdown(socket.SHUT_WR)
        assert read(server, 100) == b"all of it"
        assert is_through(server, client, b"so here you are")
        assert proxy.open_connections == 1
        server.close()
        assert client.recv(1) == b""
        assert proxy.open_connections == 0

    @pytest.mark.parametrize("origin", ["client", "server"])
    def test_a_reset_at_one_end_is_a_reset_at_the_other(self, wire: Wire, proxy: FaultProxy, origin: str) -> None:
        ends = dict(zip(("client", "server"), wire.connect(), strict=True))
        near = ends.pop(origin)
        [far] = ends.values()
        near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        near.close()
        with pytest.raises(ConnectionResetError):
            far.recv(1)
        assert proxy.open_connections == 0

    def test_large_transfers_arrive_as_they_were_both_ways_at_once(self, wire: Wire, proxy: FaultProxy) -> None:
        size = 8_000_000
        up, down = os.urandom(size), os.urandom(size)
        client, server = wire.connect()
        senders = [send_in_background(client, up), send_in_background(server, down)]
        received: list[bytes] = []
        reader = threading.Thread(target=lambda: received.append(read(server, size)))
        reader.start()
        assert read(client, size) == down
        for thread in (reader, *senders):
            thread.join(PATIENCE)
        assert received == [up]
        assert (proxy.bytes_up, proxy.bytes_down) == (size, size)

    def test_it_does_not_swallow_more_than_it_needs_while_nobody_reads(self, wire: Wire) -> None:
        client, server = wire.connect()
        client.setblocking(False)
        taken = 0
        while select.select([], [client], [], SILENCE)[1]:
            taken += client.send(bytes(65536))
            assert taken < 200_000_000
        assert len(read(server, taken)) == taken

    def test_many_connections_do_not_get_mixed_up(self, wire: Wire, proxy: FaultProxy) -> None:
        pairs = [wire.connect() for _ in range(50)]
        for number, (client, _) in enumerate(pairs):
            client.sendall(b"%03d" % number)
        for number, (_, server) in reversed(list(enumerate(pairs))):
            assert read(server, 3) == b"%03d" % number
        assert proxy.open_connections == proxy.connections == 50

    def test_a_server_that_is_not_there_is_a_reset_for_the_client(self, wire: Wire, proxy: FaultProxy) -> None:
        wire.stop_server()
        with pytest.raises(ConnectionResetError):
            wire.dial().recv(1)
        assert proxy.open_connections == 0

    def test_a_server_that_comes_back_is_found_again(self, wire: Wire) -> None:
        address = wire.server.getsockname()
        wire.stop_server()
        with pytest.raises(ConnectionResetError):
            wire.dial().recv(1)
        wire.server = socket.create_server(address)
        wire.server.settimeout(PATIENCE)
        assert is_through(*wire.connect())

    def test_each_address_of_the_server_is_tried(self) -> None:
        # `localhost` is ::1 first on many machines, where nobody listens here.
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(PATIENCE)
            with FaultProxy("localhost", server.getsockname()[1]) as proxy:
                proxy._relay._addresses = (
                    (socket.AF_INET, ("127.0.0.1", unused_port())),
                    (socket.AF_INET, server.getsockname()),
                )
                with socket.create_connection((proxy.host, proxy.port), timeout=PATIENCE) as client:
                    accepted, _ = server.accept()
                    with accepted:
                        assert is_through(client, accepted)

    def test_a_url_leads_to_it(self, proxy: FaultProxy) -> None:
        assert proxy.url("http") == f"http://127.0.0.1:{proxy.port}"
        assert repr(proxy) == f"<FaultProxy 127.0.0.1:{proxy.port}>"

    @pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
    def test_it_listens_where_it_is_told_to(self) -> None:
        server = socket.create_server(("127.0.0.1", 0))
        try:
            proxy = FaultProxy(*server.getsockname(), listen="::1")
        except OSError as error:
            server.close()
            if error.errno == errno.EADDRNOTAVAIL:
                pytest.skip("no IPv6")
            raise
        with server, proxy:
            assert proxy.url("redis") == f"redis://[::1]:{proxy.port}"
            socket.create_connection(("::1", proxy.port), timeout=PATIENCE).close()
            proxy.refuse()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("::1", proxy.port), timeout=PATIENCE)
            proxy.heal()
            socket.create_connection(("::1", proxy.port), timeout=PATIENCE).close()


def unused_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@pytest.mark.realtime
class TestLatency:
    def test_everything_is_late_in_both_directions(self, wire: Wire, proxy: FaultProxy) -> None:
        client, server = wire.connect()
        proxy.latency(0.05)
        assert 0.05 <= seconds(lambda: is_through(client, server)) < PATIENCE
        assert 0.05 <= seconds(lambda: is_through(server, client)) < PATIENCE

    def test_it_is_for_new_connections_too(self, wire: Wire, proxy: FaultProxy) -> None:
        proxy.latency(0.05)
        client, server = wire.connect()
        assert seconds(lambda: is_through(client, server)) >= 0.05

    @pytest.mark.parametrize("slow", ["up", "down"])
    def test_one_direction_may_be_on_time(self, wire: Wire, proxy: FaultProxy, slow: Any) -> None:
        ends = wire.connect() if slow == "up" else wire.connect()[::-1]
        proxy.latency(1000, direction=slow)
        ends[0].sendall(b"late")
        assert is_through(ends[1], ends[0])
        assert is_silent(ends[1])

    def test_jitter_never_changes_the_order(self, wire: Wire, proxy: FaultProxy) -> None:
        client, server = wire.connect()
        proxy.latency(0.01, jitter=0.01)
        sent = bytes(range(200))
        for byte in sent:
            client.sendall(bytes([byte]))
            proxy.bytes_up  # noqa: B018 - so that each is a piece of its own
        assert read(server, len(sent)) == sent

    def test_a_server_that_is_not_there_is_told_late(self, wire: Wire, proxy: FaultProxy) -> None:
        wire.stop_server()
        proxy.latency(1000)
        client = wire.dial()
        assert is_silent(client)
        assert proxy.open_connections == 1
        proxy.heal()
        with pytest.raises(ConnectionResetError):
            client.recv(1)

    def test_healed_it_keeps_nobody_waiting(self, wire: Wire, proxy: FaultProxy) -> None:
        client, server = wire.connect()
        proxy.latency(1000)
        client.sendall(b"late")
        assert is_silent(server)
        proxy.heal()
        assert read(server, 4) == b"late"
        assert is_through(client, server)

    def test_a_fake_clock_has_no_part_in_it(self, wire: Wire, proxy: FaultProxy) -> None:
        client, server = wire.connect()
        with fake_clock() as clock:
            proxy.latency(1000)
            client.sendall(b"late")
            clock.advance(5000)
            assert is_silent(server)
            proxy.latency(0)
            proxy.heal()
            assert read(server, 4) == b"late"


@pytest.mark.realtime
class TestBandwidth:
    def test_so_many_bytes_a_second_come_through_in_each_direction(self, wire: Wire, proxy: FaultProxy) -> None:
        client, server = wire.connect()
        proxy.bandwidth(10_000)
        sender = send_in_background(server, bytes(2_000))
        # The first piece, a fiftieth of a second's, goes at once.
        assert 0.17 <= seconds(lambda: is_through(client, server, bytes(2_000))) < PATIENCE
        assert len(read(client, 2_000)) == 2_000
        sender.join(PATIENCE)

    def test_a_rate_of_less_than_a_byte_is_a_rate(self, wire: Wire, proxy: FaultProxy) -> None:
        client, server = wire.connect()
        proxy.bandwidth(0.001)
        client.sendall(b"12")
        assert read(server, 1) == b"1"
        assert is_silent(server)
        proxy.bandwidth(1e9)
        proxy.heal()
        assert read(server, 1) == b"2"

    def test_one_direction_may_be_fast(self, wire: Wire, proxy: FaultProxy) -> None:
        client, server = wire.connect()
        proxy.bandwidth(1, direction="up")
        assert is_through(server, client, bytes(100_000))
        client.sendall(b"12")
        assert read(server, 1) == b"1"
        assert is_silent(server)

    def test_each_connection_has_its_own(self, wire: Wire, proxy: FaultProxy) -> None:
        pairs = [wire.connect() for _ in range(10)]
        proxy.bandwidth(1)
        for client, server in pairs:
            assert is_through(client, server, b"1")


@pytest.mark.realtime
class TestDrip:
    def test_a_few_bytes_come_at_a_time(self, wire: Wire, proxy: FaultProxy) -> None:
        client, server = wire.connect()
        proxy.drip(size=3, every=0.03)
        assert 0.06 <= seconds(lambda: is_through(server, client, b"abcdefg")) < PATIENCE
        proxy.drip(size=3, every=1000)
        server.sendall(b"hijklmn")
        assert client.recv(100) == b"hij"
        assert is_silent(client)

    def test_questions_are_not_dripping_unless_they_are_meant_to(self, wire: Wire, proxy: FaultProxy) -> None:
        client, server = wire.connect()
        proxy.drip(every=1000)
        assert is_through(client, server, bytes(10_000))
        proxy.drip(every=1000, direction="up")
        client.sendall(b"12")
        assert read(server, 1) == b"1"
        assert is_silent(server)

    def test_a_timeout_between_two_reads_never_fires_and_one_for_the_whole_does(
        self, wire: Wire, proxy: FaultProxy
    ) -> None:
        client, server = wire.connect()
        proxy.drip(every=0.02)
        server.sendall(bytes(100_000))
        client.settimeout(PATIENCE)
        with pytest.raises(TimeoutExceededError):
            with timeout(0.3, registry=Registry()):
                read(client, 100_000)

    def test_it_takes_the_place_of_a_bandwidth_and_leaves_the_latency(self, wire: Wire, proxy: FaultProxy) -> None:
        client, server = wire.connect()
        proxy.latency(0.05, direction="down")
        proxy.bandwidth(0.001)
        proxy.drip(size=1000, every=1000, direction="both")
        assert is_through(client, server, bytes(1000))
        assert seconds(lambda: is_through(server, client, bytes(1000))) >= 0.05


@pytest.mark.realtime
class TestBlackHole:
    def test_nothing_comes_through_until_it_is_healed(self, wire: Wire, proxy: FaultProxy) -> None:
        client, server = wire.connect()
        proxy.black_hole()
        client.sendall(b"question")
        server.sendall(b"answer")
        assert is_silent(client)
        assert is_silent(server)
        assert (proxy.bytes_up, proxy.bytes_down) == (0, 0)
        proxy.heal()
        assert (read(server, 8), read(client, 6)) == (b"question", b"answer")

    def test_new_connections_are_accepted_and_get_no_answer(self, wire: Wire, proxy: FaultProxy) -> None:
        proxy.black_hole()
        client = wire.dial()
        client.sendall(b"anybody there?")
        assert is_silent(client)
        assert proxy.connections == 1

    def test_the_answer_alone_may_be_lost(self, wire: Wire, proxy: FaultProxy) -> None:
        client, server = wire.connect()
        proxy.black_hole("down")
        assert is_through(client, server, b"charge the card")
        server.sendall(b"done")
        assert is_silent(client)

    def test_the_question_alone_may_be_lost(self, wire: Wire, proxy: FaultProxy) -> None:
        client, server = wire.connect()
        proxy.black_hole("up")
        client.sendall(b"question")
        assert is_silent(server)
        assert is_through(server, client)

    @pytest.mark.parametrize("ending", ["end", "reset"])
    def test_nobody_learns_that_the_other_side_is_gone(self, wire: Wire, proxy: FaultProxy, ending: str) -> None:
        client, server = wire.connect()
        proxy.black_hole()
        if ending == "reset":
            server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        server.close()
        assert is_silent(client)
        proxy.heal()
        assert ends_by(client) == ending

    def test_nobody_learns_that_there_is_no_server(self, wire: Wire, proxy: FaultProxy) -> None:
        wire.stop_server()
        proxy.black_hole()
        client = wire.dial()
        assert is_silent(client)
        proxy.heal()
        assert ends_by(client) == "reset"

    def test_it_costs_no_time_to_wait(self, wire: Wire, proxy: FaultProxy) -> None:
        client, server = wire.connect()
        proxy.black_hole()
        client.sendall(b"question")
        server.close()
        turns = 0
        turn = proxy._relay._turn

        def count() -> None:
            nonlocal turns
            turns += 1
            turn()

        proxy._relay._turn = count  # type: ignore[method-assign]
        assert is_silent(client)
        assert proxy.open_connections == 1
        assert turns < 5


class TestReset:
    def test_open_connections_are_reset_at_once_at_both_ends(self, wire: Wire, proxy: FaultProxy) -> None:
        pairs = [wire.connect() for _ in range(3)]
        proxy.reset()
        assert proxy.open_connections == 0
        for client, server in pairs:
            with pytest.raises(ConnectionResetError):
                client.recv(1)
            with pytest.raises(ConnectionResetError):
                server.recv(1)

    def test_new_ones_are_reset_until_it_is_healed(self, wire: Wire, proxy: FaultProxy) -> None:
        proxy.reset()
        for _ in range(3):
            with pytest.raises(ConnectionResetError):
                wire.dial().recv(1)
        assert proxy.connections == 3
        proxy.heal()
        assert is_through(*wire.connect())

    def test_it_may_come_after_so_many_bytes_of_the_answer(self, wire: Wire, proxy: FaultProxy) -> None:
        open_before, peer = wire.connect()
        assert is_through(peer, open_before, b"not counted")
        proxy.reset(after_bytes=5)
        for client, server in ((open_before, peer), wire.connect()):
            assert is_through(client, server, b"a long question")
            server.sendall(b"123456789")
            assert read(client, 5) == b"12345"
            with pytest.raises(ConnectionResetError):
                client.recv(1)

    def test_the_bytes_before_it_arrive_however_slowly_they_are_read(self, wire: Wire, proxy: FaultProxy) -> None:
        size = 500_000
        proxy.reset(after_bytes=size)
        client, server = wire.connect()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        sender = send_in_background(server, bytes(2 * size))
        assert len(read(client, size)) == size
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        sender.join(PATIENCE)

    def test_healed_before_its_time_it_never_comes(self, wire: Wire, proxy: FaultProxy) -> None:
        client, server = wire.connect()
        proxy.reset(after_bytes=5)
        assert is_through(server, client, b"1234")
        proxy.heal()
        assert is_through(server, client, b"56789")

    def test_it_reaches_those_in_a_black_hole(self, wire: Wire, proxy: FaultProxy) -> None:
        client, _ = wire.connect()
        proxy.black_hole()
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            client.recv(1)


class TestHalfClose:
    def test_the_client_sees_an_end_and_may_still_send(self, wire: Wire, proxy: FaultProxy) -> None:
        client, server = wire.connect()
        proxy.half_close()
        assert client.recv(1) == b""
        assert is_through(client, server)
        assert proxy.open_connections == 1

    def test_what_the_server_says_from_then_on_is_dropped_and_does_not_block_it(
        self, wire: Wire, proxy: FaultProxy
    ) -> None:
        client, server = wire.connect()
        proxy.half_close()
        server.sendall(bytes(20_000_000))
        assert client.recv(1) == b""
        assert proxy.bytes_down == 0

    def test_the_server_may_be_the_one_that_sees_it(self, wire: Wire, proxy: FaultProxy) -> None:
        client, server = wire.connect()
        proxy.half_close("up")
        assert server.recv(1) == b""
        assert is_through(server, client)

    def test_both_directions_make_a_whole(self, wire: Wire, proxy: FaultProxy) -> None:
        client, server = wire.connect()
        proxy.half_close("both")
        assert (client.recv(1), server.recv(1)) == (b"", b"")
        assert proxy.open_connections == 0

    def test_new_connections_are_closed_by_half_until_it_is_healed(self, wire: Wire, proxy: FaultProxy) -> None:
        proxy.half_close()
        client, server = wire.connect()
        assert client.recv(1) == b""
        assert is_through(client, server)
        proxy.heal()
        assert client.recv(1) == b""
        new_client, new_server = wire.connect()
        assert is_through(new_server, new_client)

    def test_the_connection_ends_with_its_other_half(self, wire: Wire, proxy: FaultProxy) -> None:
        client, server = wire.connect()
        proxy.half_close()
        client.close()
        assert server.recv(1) == b""
        assert proxy.open_connections == 0

    @pytest.mark.realtime
    def test_what_was_on_its_way_is_lost(self, wire: Wire, proxy: FaultProxy) -> None:
        client, server = wire.connect()
        proxy.latency(1000)
        server.sendall(b"lost")
        proxy.bytes_up  # noqa: B018 - it has been read now
        proxy.half_close()
        assert client.recv(1) == b""

    def test_twice_is_as_once(self, wire: Wire, proxy: FaultProxy) -> None:
        client, server = wire.connect()
        server.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
        proxy.half_close()
        proxy.half_close()
        assert is_through(client, server)


class TestRefuse:
    def test_nobody_is_there_until_it_is_healed_on_the_same_port(self, wire: Wire, proxy: FaultProxy) -> None:
        port = proxy.port
        for _ in range(3):
            proxy.refuse()
            proxy.refuse()
            with pytest.raises(ConnectionRefusedError):
                wire.dial()
            proxy.heal()
            assert is_through(*wire.connect())
        assert proxy.port == port
        assert proxy.connections == 3

    def test_open_connections_are_reset(self, wire: Wire, proxy: FaultProxy) -> None:
        client, server = wire.connect()
        proxy.refuse()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        with pytest.raises(ConnectionResetError):
            server.recv(1)

    def test_open_connections_may_stay(self, wire: Wire, proxy: FaultProxy) -> None:
        pair = wire.connect()
        proxy.refuse(keep_open=True)
        assert is_through(*pair)
        with pytest.raises(ConnectionRefusedError):
            wire.dial()
        proxy.heal()
        assert is_through(*pair)

    def test_where_the_port_is_taken_all_the_same_healing_says_so(self, wire: Wire, proxy: FaultProxy) -> None:
        proxy.refuse()
        proxy._place.close()
        with socket.create_server((proxy.host, proxy.port)):
            with pytest.raises(OSError, match="in use"):
                proxy.heal()
        proxy.heal()
        assert is_through(*wire.connect())

    def test_nobody_else_gets_the_port_meanwhile(self, proxy: FaultProxy) -> None:
        proxy.refuse()
        with pytest.raises(OSError, match="in use"), socket.socket() as other:
            other.bind((proxy.host, proxy.port))


class TestWrongSettings:
    @pytest.mark.parametrize(
        "use, setting",
        [
            (lambda proxy: proxy.latency(-1), "seconds"),
            (lambda proxy: proxy.latency(float("nan")), "seconds"),
            (lambda proxy: proxy.latency("1"), "seconds"),
            (lambda proxy: proxy.latency(1, jitter=-1), "jitter"),
            (lambda proxy: proxy.latency(1, direction="sideways"), "direction"),
            (lambda proxy: proxy.bandwidth(0), "bytes_per_second"),
            (lambda proxy: proxy.bandwidth(float("inf")), "bytes_per_second"),
            (lambda proxy: proxy.bandwidth(True), "bytes_per_second"),
            (lambda proxy: proxy.bandwidth(1, direction="Up"), "direction"),
            (lambda proxy: proxy.drip(size=0), "size"),
            (lambda proxy: proxy.drip(size=1.5), "size"),
            (lambda proxy: proxy.drip(every=0), "every"),
            (lambda proxy: proxy.black_hole("left"), "direction"),
            (lambda proxy: proxy.half_close(None), "direction"),
            (lambda proxy: proxy.reset(after_bytes=-1), "after_bytes"),
            (lambda proxy: proxy.reset(after_bytes=0.5), "after_bytes"),
        ],
    )
    def test_they_are_refused_and_change_nothing(
        self, wire: Wire, proxy: FaultProxy, use: Callable[[Any], object], setting: str
    ) -> None:
        with pytest.raises(ConfigurationError, match="FaultProxy: ") as info:
            use(proxy)
        assert info.value.setting == setting
        assert is_through(*wire.connect())

    @pytest.mark.parametrize("port", [0, -1, 65536, "80", True])
    def test_a_port_is_a_port(self, port: Any) -> None:
        with pytest.raises(ConfigurationError, match="port"):
            FaultProxy("127.0.0.1", port)

    def test_a_host_is_a_name(self) -> None:
        with pytest.raises(ConfigurationError, match="host"):
            FaultProxy(127, 80)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="listen"):
            FaultProxy("127.0.0.1", 80, listen=None)  # type: ignore[arg-type]

    def test_where_it_can_not_listen_it_leaves_nothing_behind(self) -> None:
        before = threading.active_count()
        with pytest.raises(OSError, match="assign"):
            FaultProxy("127.0.0.1", 80, listen="192.0.2.1")  # an address that nobody has (RFC 5737)
        assert threading.active_count() == before
        assert_nothing_is_left_open()


def assert_nothing_is_left_open() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gc.collect()
    assert [str(warning.message) for warning in caught if issubclass(warning.category, ResourceWarning)] == []


class TestClosing:
    def test_threads_and_sockets_are_gone_after_it(self) -> None:
        def descriptors() -> int:
            return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0

        gc.collect()
        before = threading.active_count(), descriptors()
        for _ in range(5):
            with socket.create_server(("127.0.0.1", 0)) as server, FaultProxy(*server.getsockname()) as proxy:
                clients = [socket.create_connection((proxy.host, proxy.port), timeout=PATIENCE) for _ in range(4)]
                proxy.black_hole()
                clients[0].sendall(b"never read")
                proxy.refuse(keep_open=True)
            for client in clients:
                client.close()
        assert (threading.active_count(), descriptors()) == before
        assert_nothing_is_left_open()

    def test_open_connections_end(self, wire: Wire, proxy: FaultProxy) -> None:
        client, server = wire.connect()
        proxy.close()
        assert (client.recv(1), server.recv(1)) == (b"", b"")
        with pytest.raises(ConnectionRefusedError):
            wire.dial()

    def test_closed_it_says_so(self, proxy: FaultProxy) -> None:
        proxy.close()
        proxy.close()
        with pytest.raises(RuntimeError, match="this fault proxy is closed"):
            proxy.heal()

    def test_the_port_is_free_after_it(self, proxy: FaultProxy) -> None:
        proxy.close()
        socket.create_server((proxy.host, proxy.port)).close()

    def test_orders_from_many_threads_and_a_close_in_between_never_hang(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            proxy = FaultProxy(*server.getsockname())
            rounds = threading.Semaphore(0)
            ends: list[str] = []

            def order() -> None:
                try:
                    while True:
                        proxy.latency(0.001)
                        proxy.heal()
                        rounds.release()
                except RuntimeError as error:
                    ends.append(str(error))

            threads = [threading.Thread(target=order) for _ in range(4)]
            for thread in threads:
                thread.start()
            for _ in range(20):
                assert rounds.acquire(timeout=PATIENCE)
            proxy.close()
            for thread in threads:
                thread.join(PATIENCE)
            assert len(ends) == 4
            assert all(text.startswith("this fault proxy ") for text in ends)

    def test_an_order_that_comes_with_the_end_is_told_so(self) -> None:
        relay = Relay(socket.create_server(("127.0.0.1", 0)), ())
        told: list[str] = []

        def order() -> None:
            try:
                relay.do(lambda: None)
            except RuntimeError as error:
                told.append(str(error))

        thread = threading.Thread(target=order)
        thread.start()
        assert select.select([relay._bell], [], [], PATIENCE)[0]
        relay._clean_up()
        thread.join(PATIENCE)
        assert told == ["this fault proxy was closed meanwhile"]


def answer_one(wire: Wire, answer: bytes) -> threading.Thread:
    """The next connection gets an answer as soon as it has asked."""

    def serve() -> None:
        accepted, _ = wire.server.accept()
        with accepted:
            accepted.settimeout(PATIENCE)
            if accepted.recv(100):
                accepted.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


class TestClients:
    def test_a_task_of_asyncio(self, wire: Wire, proxy: FaultProxy) -> None:
        async def main() -> tuple[str, bytes]:
            proxy.reset()
            try:
                reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
                await reader.read(1)
            except ConnectionResetError:
                seen = "reset"
            else:
                seen = "nothing"
            proxy.heal()
            thread = answer_one(wire, b"answer")
            reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
            writer.write(b"question")
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
            thread.join(PATIENCE)
            return seen, answer

        with warnings.catch_warnings():
            # The writer of a connection that is reset while it is opened is nobody's to close.
            warnings.simplefilter("ignore", ResourceWarning)
            assert asyncio.run(main()) == ("reset", b"answer")
            gc.collect()

    def test_a_task_of_trio(self, wire: Wire, proxy: FaultProxy) -> None:
        async def main() -> bytes:
            proxy.black_hole()
            async with await trio.open_tcp_stream(proxy.host, proxy.port) as stream:
                with trio.move_on_after(SILENCE) as scope:
                    await stream.receive_some()
                assert scope.cancelled_caught
            proxy.heal()
            thread = answer_one(wire, b"answer")  # the connection from before, which has ended
            thread.join(PATIENCE)
            thread = answer_one(wire, b"answer")
            async with await trio.open_tcp_stream(proxy.host, proxy.port) as stream:
                await stream.send_all(b"question")
                answer = bytes(await stream.receive_some())
            thread.join(PATIENCE)
            return answer

        assert trio.run(main) == b"answer"

    def test_a_pipeline_gets_over_an_outage_that_is_healed(self, wire: Wire, proxy: FaultProxy) -> None:
        registry = Registry()
        policies = pipeline(
            retry(on=ConnectionError, attempts=3, backoff=[1, 1], registry=registry),
            circuit_breaker(consecutive_failures=5, registry=registry),
            registry=registry,
        )

        @policies
        def ask() -> bytes:
            with socket.create_connection((proxy.host, proxy.port), timeout=PATIENCE) as client:
                client.sendall(b"question")
                return client.recv(100)

        def heal(_: object) -> None:
            proxy.heal()

        policies.policies[0].subscribe(heal, kinds="retry_scheduled")
        proxy.refuse()
        with fake_clock() as clock:
            thread = answer_one(wire, b"answer")
            assert ask() == b"answer"
            thread.join(PATIENCE)
        assert clock.sleeps == [1.0]
