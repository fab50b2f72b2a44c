"""Clients as programs have them, each with the same policies around what it asks: sync, in threads, asyncio and trio.

`ask(words)` asks for each of the words, several at a time where the client can, and gives what came back.
"""

from __future__ import annotations

import asyncio
import http.client
import urllib.request
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import aiohttp
import redis
import redis.asyncio
import trio
from redis.backoff import NoBackoff
from redis.retry import Retry

from resilient import Pipeline, current_deadline

Answer = str | None

AT_ONCE = 4


class Caller(Protocol):
    """Attributes: at_once: how many words it asks for at a time."""

    at_once: int

    def ask(self, words: Sequence[str]) -> list[Answer]: ...

    def close(self) -> object: ...


Sent = Callable[[], None]
"""Called by the body when it begins: this is what the upstream would get."""

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
# One attempt is one attempt: trying again is the business of the policies.
_REDIS: dict[str, Any] = {
    "retry": Retry(NoBackoff(), 0),
    "decode_responses": True,
    "protocol": 2,
}


class OnMainThread:
    """The body is interrupted by a signal, in whatever it waits for."""

    at_once = 1

    def __init__(self, body: Callable[[str], str], policy: Pipeline, close: Callable[[], object]) -> None:
        self._ask: Callable[[str], Answer] = policy(body)
        self.close = close

    def ask(self, words: Sequence[str]) -> list[Answer]:
        return [self._ask(word) for word in words]


class OnThreads:
    """Waits end by the deadline, which the body hands to its client; Python code is interrupted."""

    at_once = AT_ONCE

    def __init__(self, body: Callable[[str], str], policy: Pipeline, close: Callable[[], object]) -> None:
        self._ask: Callable[[str], Answer] = policy(body)
        self._close = close
        self._pool = ThreadPoolExecutor(AT_ONCE)

    def ask(self, words: Sequence[str]) -> list[Answer]:
        return list(self._pool.map(self._ask, words))

    def close(self) -> None:
        self._pool.shutdown()
        self._close()


class UnderAsyncio:
    at_once = AT_ONCE

    def __init__(
        self, runner: asyncio.Runner, body: Callable[[str], Awaitable[str]], policy: Pipeline, close: Any
    ) -> None:
        self._ask: Callable[[str], Awaitable[Answer]] = policy(body)
        self._runner = runner
        self._close = close

    def ask(self, words: Sequence[str]) -> list[Answer]:
        async def every() -> list[Answer]:
            answers = await asyncio.gather(*(self._ask(word) for word in words))
            assert len(asyncio.all_tasks()) == 1
            return answers

        return self._runner.run(every())

    def close(self) -> None:
        self._runner.run(self._close())
        self._runner.close()


class UnderTrio:
    at_once = AT_ONCE

    def __init__(self, body: Callable[[str], Awaitable[str]], policy: Pipeline) -> None:
        self._ask: Callable[[str], Awaitable[Answer]] = policy(body)

    def ask(self, words: Sequence[str]) -> list[Answer]:
        answers: list[Answer] = [""] * len(words)

        async def one(number: int, word: str) -> None:
            answers[number] = await self._ask(word)

        async def every() -> None:
            async with trio.open_nursery() as nursery:
                for number, word in enumerate(words):
                    nursery.start_soon(one, number, word)

        trio.run(every)
        return answers

    def close(self) -> None:
        pass


def http_on_main_thread(host: str, port: int, policy: Pipeline, sent: Sent) -> Caller:
    def body(word: str) -> str:
        sent()
        with _OPENER.open(f"http://{host}:{port}/echo/{word}") as answer:
            return str(answer.read().decode())

    return OnMainThread(body, policy, lambda: None)


def http_on_threads(host: str, port: int, policy: Pipeline, sent: Sent) -> Caller:
    def body(word: str) -> str:
        sent()
        connection = http.client.HTTPConnection(host, port, timeout=_remaining())
        try:
            connection.request("GET", f"/echo/{word}")
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    return OnThreads(body, policy, lambda: None)


def http_under_asyncio(host: str, port: int, policy: Pipeline, sent: Sent) -> Caller:
    runner = asyncio.Runner()

    async def session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(f"http://{host}:{port}", timeout=aiohttp.ClientTimeout(total=None))

    client = runner.run(session())

    async def body(word: str) -> str:
        sent()
        async with client.get(f"/echo/{word}") as answer:
            return await answer.text()

    return UnderAsyncio(runner, body, policy, client.close)


def http_under_trio(host: str, port: int, policy: Pipeline, sent: Sent) -> Caller:
    async def body(word: str) -> str:
        sent()
        answer = b""
        async with await trio.open_tcp_stream(host, port) as stream:
            await stream.send_all(f"GET /echo/{word} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            async for part in stream:
                answer += part
        head, end, body = answer.partition(b"\r\n\r\n")
        if not end or f"Content-Length: {len(body)}".encode() not in head:
            raise ConnectionError("the answer is not whole")
        return body.decode()

    return UnderTrio(body, policy)


def redis_on_main_thread(host: str, port: int, policy: Pipeline, sent: Sent) -> Caller:
    client = redis.Redis(host, port, socket_timeout=None, socket_connect_timeout=None, **_REDIS)

    def body(word: str) -> str:
        sent()
        return str(client.echo(word))

    return OnMainThread(body, policy, client.close)


def redis_on_threads(host: str, port: int, policy: Pipeline, sent: Sent) -> Caller:
    client = redis.Redis(host, port, socket_timeout=0.3, socket_connect_timeout=0.3, **_REDIS)

    def body(word: str) -> str:
        sent()
        return str(client.echo(word))

    return OnThreads(body, policy, client.close)


def redis_under_asyncio(host: str, port: int, policy: Pipeline, sent: Sent) -> Caller:
    runner = asyncio.Runner()

    async def made() -> redis.asyncio.Redis:
        return redis.asyncio.Redis(host=host, port=port, socket_timeout=None, socket_connect_timeout=None, **_REDIS)

    client = runner.run(made())

    async def body(word: str) -> str:
        sent()
        return str(await client.echo(word))

    return UnderAsyncio(runner, body, policy, client.aclose)


def _remaining() -> float:
    deadline = current_deadline()
    assert deadline is not None
    return max(0.001, deadline.remaining())


CALLERS: dict[str, Callable[[str, int, Pipeline, Sent], Caller]] = {
    made.__name__: made
    for made in (
        http_on_main_thread,
        http_on_threads,
        http_under_asyncio,
        http_under_trio,
        redis_on_main_thread,
        redis_on_threads,
        redis_under_asyncio,
    )
}
