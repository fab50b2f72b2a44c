"""The upstream and the HTTP client, over real sockets."""

from __future__ import annotations

import asyncio
import gc
import socket

import pytest

from resilient.demo.http import BadStatus, HttpClient, read_answer
from resilient.demo.script import Health, Lot, Script, Stage
from resilient.demo.upstream import Upstream

DOWN, HUNG, UP = Health("refused"), Health("hanging"), Health()


class Played(Script):
    """A script of one request after the other."""

    def __init__(self, *stages: Stage, lots: tuple[Lot, ...] = (Lot(200, 0.0),)) -> None:
        super().__init__(30.0, seed=1)
        self.stages = stages or (Stage("up", "", UP, 0.0, 30.0),)
        self._lots = lots

    def lot(self, health: Health, number: int, visit: int) -> Lot:
        return self._lots[min(visit, len(self._lots)) - 1]


@pytest.mark.realtime
def test_an_answer_is_real_http() -> None:
    async def main() -> bytes:
        async with Upstream(Played()) as upstream:
            reader, writer = await asyncio.open_connection("127.0.0.1", upstream.port)
            writer.write(b"GET /stock/17?user=3 HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = await reader.read()
            writer.close()
            return answer

    head, _, body = asyncio.run(main()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert body == b'{"item": 17, "in_stock": true}\n'


@pytest.mark.realtime
def test_each_client_has_visits_of_its_own() -> None:
    async def main() -> list[str]:
        lots = Lot(503, 0.0, retry_after=1), Lot(200, 0.0)
        async with Upstream(Played(lots=lots)) as upstream:
            first, second = HttpClient("first", upstream), HttpClient("second", upstream)
            answers = []
            for client in (first, first, second):
                try:
                    answers.append((await client.get(5, 0)).body)
                except BadStatus as error:
                    answers.append(f"{error.status} {error.headers['Retry-After']}")
            assert (first.attempts, second.attempts, first.in_vain) == (2, 1, 0)
            return answers

    assert asyncio.run(main()) == ["503 1", '{"item": 5, "in_stock": true}\n', "503 1"]


@pytest.mark.realtime
def test_the_upstream_goes_down_hangs_and_comes_back_on_the_same_port() -> None:
    script = Played()

    async def main() -> None:
        async with Upstream(script) as upstream:
            client = HttpClient("test", upstream)

            def begin(health: Health) -> None:
                script.stages = (Stage("now", "", health, 0.0, 30.0),)
                upstream.enter(script.stages[0])

            assert "in_stock" in (await client.get(1, 0)).body
            begin(DOWN)
            with pytest.raises(ConnectionRefusedError):
                await client.get(2, 0)
            begin(HUNG)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await client.get(3, 0)
            begin(UP)
            assert "in_stock" in (await client.get(4, 0)).body
            assert (client.attempts, client.in_vain) == (4, 2)

    asyncio.run(main())


@pytest.mark.realtime
def test_the_script_is_followed_to_its_end() -> None:
    async def main() -> None:
        stages = Stage("up", "", UP, 0.0, 0.05), Stage("down", "", DOWN, 0.05, 0.1)
        async with Upstream(Played(*stages)) as upstream:
            await upstream.follow_script()
            assert upstream.elapsed() >= 0.05
            with pytest.raises(ConnectionRefusedError):
                await HttpClient("test", upstream).get(1, 0)

    asyncio.run(main())


@pytest.mark.realtime
def test_a_port_that_refuses_stays_ours() -> None:
    async def main() -> None:
        async with Upstream(Played(Stage("down", "", DOWN, 0.0, 30.0))) as upstream:
            await upstream.follow_script()
            with pytest.raises(OSError, match="in use"), socket.socket() as other:
                other.bind(("127.0.0.1", upstream.port))

    asyncio.run(main())


@pytest.mark.realtime
def test_the_end_leaves_no_task_and_no_socket() -> None:
    async def main() -> None:
        async with Upstream(Played(Stage("hung", "", HUNG, 0.0, 30.0))) as upstream:
            waiting = asyncio.ensure_future(HttpClient("test", upstream).get(1, 0))
            await asyncio.sleep(0.05)
        with pytest.raises(ConnectionResetError):
            await waiting
        assert len(asyncio.all_tasks()) == 1
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", upstream.port)

    asyncio.run(main())


@pytest.mark.realtime
def test_nonsense_is_not_answered_and_harms_nobody() -> None:
    async def main() -> None:
        async with Upstream(Played()) as upstream:
            for nonsense in (b"", b"GET / HTTP/1.1\r\n\r\n", b"?\r\n\r\n", b"half a requ"):
                reader, writer = await asyncio.open_connection("127.0.0.1", upstream.port)
                writer.write(nonsense)
                writer.write_eof()
                assert await reader.read() == b""
                writer.close()
            assert "in_stock" in (await HttpClient("test", upstream).get(1, 0)).body

    asyncio.run(main())


def test_an_answer_that_is_cut_off_is_an_error_of_the_connection() -> None:
    for answer in ("", "HTTP/1.1 200 OK\r\nContent-"):
        with pytest.raises(ConnectionResetError):
            read_answer(answer)


def test_headers_of_a_bad_answer_are_kept_for_retry() -> None:
    with pytest.raises(BadStatus, match="HTTP 503") as caught:
        read_answer("HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nX: a: b\r\n\r\n{}")

    assert caught.value.headers == {"Retry-After": "1", "X": "a: b"}


@pytest.mark.realtime
@pytest.mark.parametrize("turns", range(8))
def test_a_connection_that_has_just_been_made_is_closed_with_the_upstream(turns: int) -> None:
    async def main() -> bytes:
        async with Upstream(Played(Stage("hung", "", HUNG, 0.0, 30.0))) as upstream:
            caller = socket.create_connection(("127.0.0.1", upstream.port))
            caller.setblocking(False)
            for _ in range(turns):
                await asyncio.sleep(0)
        with caller:
            try:
                return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(caller, 10), 2.0)
            except ConnectionResetError:
                return b""

    assert asyncio.run(main()) == b""
    gc.collect()
