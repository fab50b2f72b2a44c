"""What type checkers make of hedge, throttle, proxies and patching; never run."""

from __future__ import annotations

from typing import assert_type

from resilient import Hedge, Throttle, hedge, patch, percentile, pipeline, throttle, unpatch


@hedge(delay=percentile(0.95), max_hedges=2)
def search(word: str, *, limit: int = 10) -> list[str]:
    return [word] * limit


@hedge(delay=0.2)
async def search_async(word: str) -> list[str]:
    return [word]


@throttle
def bare(a: int) -> str:
    return str(a)


@throttle("search", k=1.5)
async def named(a: int) -> str:
    return str(a)


class Client:
    base: str = ""

    @hedge(delay=1)
    def get(self, path: str) -> bytes:
        return path.encode()

    @throttle
    @classmethod
    def make(cls, base: str) -> Client:
        return cls()

    async def fetch(self, path: str) -> bytes:
        return path.encode()


async def checks() -> None:
    assert_type(search("a", limit=3), list[str])
    assert_type(await search_async("a"), list[str])
    assert_type(bare(1), str)
    assert_type(await named(1), str)
    assert_type(Client().get("/"), bytes)
    assert_type(Client.make("/"), Client)

    assert_type(hedge(delay=1), Hedge)
    assert_type(throttle(), Throttle)
    assert_type(hedge(delay=1).call(bare, 1), str)
    assert_type(await throttle().call_async(named, 1), str)
    with throttle() as policy:
        assert_type(policy, Throttle)

    client = pipeline("client", hedge(delay=1), throttle()).proxy(Client(), methods={"get", "fetch"})
    assert_type(client, Client)
    assert_type(client.get("/"), bytes)
    assert_type(await client.fetch("/"), bytes)
    assert_type(throttle().proxy(Client(), methods=["get"]), Client)

    assert_type(patch("httpx:Client.send", throttle()), None)
    patch("httpx:Client.send", pipeline(throttle()))
    unpatch("httpx:Client.send")


def refused() -> None:
    search(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    hedge()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    hedge(delay="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    patch("httpx:Client.send", bare)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    throttle(k="2")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
