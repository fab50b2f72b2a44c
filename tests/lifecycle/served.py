"""The service that the tests of the lifecycle run under real servers: plain ASGI, and plain WSGI."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from resilient import circuit_breaker, lifecycle

DIARY = Path(os.environ["DIARY"])
LAME_DUCK = float(os.environ.get("LAME_DUCK", "1.0"))

lifecycle.process.lame_duck = LAME_DUCK
lifecycle.process.timeout = 5.0


def write(line: str) -> None:
    with DIARY.open("a") as diary:
        diary.write(f"{line}\n")


@lifecycle.on_shutdown(priority=2)
def close_pool() -> None:
    write("pool closed")


@lifecycle.on_shutdown(priority=1, timeout=0.3)
def hang() -> None:
    write("hanging")
    time.sleep(60)


@lifecycle.on_shutdown(priority=0)
def say_goodbye() -> None:
    write(f"goodbye with {lifecycle.in_flight()} in flight")


@circuit_breaker("work")
async def work_async() -> None:
    await asyncio.sleep(0.2)


@circuit_breaker("work")
def work() -> None:
    time.sleep(0.2)


async def plain(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    status = 200
    if scope["path"] == "/ready":
        status = 200 if lifecycle.state() == "running" else 503
    else:
        await work_async()
    await send({"type": "http.response.start", "status": status, "headers": [(b"connection", b"close")]})
    await send({"type": "http.response.body", "body": b"done"})


asgi = lifecycle.asgi(plain)


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    status = "200 OK"
    if environ["PATH_INFO"] == "/ready":
        status = "200 OK" if lifecycle.state() == "running" else "503 Service Unavailable"
    else:
        work()
    start_response(status, [("Content-Type", "text/plain"), ("Connection", "close")])
    return [b"done"]
