"""Checks for what services usually depend on. Clients are used as they come; nothing of theirs is imported here.

>>> from resilient.health import Health
>>> from resilient.health.ready_made import disk_space
>>> health = Health()
>>> health.add("disk", disk_space("/", min_free=0.0001), critical=False)
<Check disk>
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import iscoroutinefunction
from os import PathLike
from typing import Any, Final

from resilient.core.checks import Checker, Seconds, refuse
from resilient.core.clock import CLOCK
from resilient.drivers.tasks import sleep

_SAMPLE: Final = 0.02

SyncCheck = Callable[[], dict[str, object] | None]
AsyncCheck = Callable[[], Awaitable[dict[str, object] | None]]


def tcp(host: str, port: int, *, timeout: Seconds = 2.0) -> SyncCheck:
    """Can a connection be made?"""
    check = Checker("tcp")
    if not isinstance(host, str) or not host:
        refuse("tcp", "host", host, "a name or an address")
    if check.whole("port", port) > 65535:
        refuse("tcp", "port", port, "a port from 1 to 65535")
    seconds = check.seconds("timeout", timeout)

    def connect() -> None:
        import socket

        socket.create_connection((host, port), seconds).close()

    return connect


def http(url: str, *, timeout: Seconds = 2.0) -> SyncCheck:
    """Does a GET of this URL, and of where it redirects to, give a status from 200 to 299?"""
    from urllib.parse import urlsplit

    seconds = Checker("http").seconds("timeout", timeout)
    parts = urlsplit(url) if isinstance(url, str) else None
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        refuse("http", "url", "a URL that is not shown", "http://host/path or https://host/path")

    def get() -> dict[str, object]:
        from http.client import HTTPException
        from urllib.error import HTTPError
        from urllib.request import Request, urlopen

        try:
            with urlopen(Request(url, headers={"User-Agent": "resilient-health"}), timeout=seconds) as response:
                return {"http_status": response.status}
        except HTTPError as error:
            error.close()
            raise ConnectionError(f"HTTP {error.code}") from None
        except HTTPException as error:
            raise ConnectionError(f"no HTTP: {type(error).__name__}") from None

    return get


def sqlalchemy(engine: Any, *, statement: str = "SELECT 1") -> SyncCheck | AsyncCheck:
    """Does a statement pass through this engine? Tells how much of its pool is in use.

    Args:
        engine: an `Engine`, or an `AsyncEngine`.
        statement: what the database takes: Oracle, until version 23, wants "SELECT 1 FROM DUAL".
    """
    if hasattr(engine, "sync_engine"):

        async def ask_async() -> dict[str, object]:
            async with engine.connect() as connection:
                await connection.exec_driver_sql(statement)
            return _pool_usage(engine)

        return ask_async

    def ask() -> dict[str, object]:
        with engine.connect() as connection:
            connection.exec_driver_sql(statement)
        return _pool_usage(engine)

    return ask


def redis(client: Any) -> SyncCheck | AsyncCheck:
    """Does it answer to a ping? For clients of redis-py and what is like them, plain or async."""
    if iscoroutinefunction(client.ping) or iscoroutinefunction(getattr(client, "execute_command", None)):

        async def ping_async() -> None:
            await client.ping()

        return ping_async

    def ping() -> None:
        client.ping()

    return ping


def disk_space(path: str | PathLike[str], min_free: float) -> SyncCheck:
    """Is enough room left where this path is?

    Args:
        path: a file or folder on the disk.
        min_free: bytes from 1 on; below 1: a share of the disk.
    """
    if isinstance(min_free, bool) or not isinstance(min_free, (int, float)) or not 0 < min_free < float("inf"):
        refuse("disk_space", "min_free", min_free, "bytes from 1 on, or a share of the disk below 1")

    def measure() -> dict[str, object]:
        import shutil

        usage = shutil.disk_usage(path)
        needed = min_free if min_free >= 1 else min_free * usage.total
        if usage.free < needed:
            raise OSError(f"{usage.free} bytes are free, {int(needed)} are needed")
        return {"free_bytes": usage.free, "total_bytes": usage.total}

    return measure


def event_loop_lag(maximum: Seconds, *, sample: Seconds = _SAMPLE) -> AsyncCheck:
    """Does the event loop that asks wake its tasks in time?

    Args:
        maximum: seconds that it may be late.
        sample: seconds for which a task sleeps to see how late it is woken.
    """
    check = Checker("event_loop_lag")
    most = check.seconds("maximum", maximum)
    length = check.seconds("sample", sample)

    async def measure() -> dict[str, object]:
        due = CLOCK.now() + length
        await sleep(length)
        lag = max(0.0, CLOCK.now() - due)
        if lag > most:
            raise TimeoutError(f"woken {lag * 1000:.0f} ms late, {most * 1000:.0f} ms are allowed")
        return {"lag_ms": round(lag * 1000, 3)}

    return measure


def _pool_usage(engine: Any) -> dict[str, object]:
    """What its pool tells: pools that keep no connections tell nothing."""
    usage: dict[str, object] = {}
    for shown, method in (("pool_size", "size"), ("pool_in_use", "checkedout"), ("pool_overflow", "overflow")):
        read = getattr(engine.pool, method, None)
        if callable(read):
            usage[shown] = read()
    return usage
