"""The lifespan of an ASGI application, with ours around it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resilient.lifecycle.process import Lifecycle

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


def with_lifespan(lifecycle: Lifecycle, app: App) -> App:
    """The application, which installs `lifecycle` once it has started, and stops it when the server has stopped.

    What the application itself does at its shutdown comes after our hooks, which may still need it. Applications that
    know nothing of lifespans are given one.
    """

    async def wrapped(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(lifecycle, app, scope, receive, send)
        else:
            await app(scope, receive, send)

    return wrapped


async def _live(lifecycle: Lifecycle, app: App, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
    heard: set[str] = set()
    said: set[str] = set()

    async def hear() -> Message:
        message = await receive()
        heard.add(message["type"])
        if message["type"] == "lifespan.shutdown":
            await lifecycle.stop_async()
        return message

    async def say(message: Message) -> None:
        if message["type"] == "lifespan.startup.complete":
            lifecycle.install()
        said.add(message["type"])
        await send(message)

    try:
        await app(scope, hear, say)
    except Exception:
        # Before it has answered, an exception says that the application knows no lifespans: so says the ASGI
        # specification. Afterwards it is an error of the application's own.
        if said:
            raise
    if "lifespan.startup.failed" in said:
        return
    if "lifespan.startup" not in heard:
        await hear()
    if "lifespan.startup.complete" not in said:
        await say({"type": "lifespan.startup.complete"})
    while "lifespan.shutdown" not in heard:
        await hear()
    if not said & {"lifespan.shutdown.complete", "lifespan.shutdown.failed"}:
        await say({"type": "lifespan.shutdown.complete"})
