"""What is ASGI's own: messages, streams, clients that leave, tasks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator
from contextvars import copy_context
from typing import Any

import anyio
import pytest
import trio

from resilient import TimeoutExceededError, context, current_deadline, timeout
from resilient.degradation import Degradation
from resilient.middleware.asgi import (
    ErrorShield,
    InboundDeadline,
    LoadShedding,
    RateLimit,
    RequestId,
    SecurityHeaders,
    standard,
)
from resilient.testing import fake_clock
from tests.middleware.kit import ASGIServer, asgi_app, http_scope

START = {"type": "http.response.start", "status": 200, "headers": []}
MIDDLEWARES: dict[str, Callable[[Any], Any]] = {
    "RequestId": RequestId,
    "ErrorShield": ErrorShield,
    "InboundDeadline": lambda app: InboundDeadline(app, default=5),
    "enforced": lambda app: InboundDeadline(app, default=5, enforce=True),
    "RateLimit": lambda app: RateLimit(app, limit=1),
    "LoadShedding": lambda app: LoadShedding(app, degradation=Degradation()),
    "SecurityHeaders": SecurityHeaders,
    "standard": lambda app: standard(app, limit=10, degradation=Degradation()),
}
each = pytest.mark.parametrize("wrap", MIDDLEWARES.values(), ids=MIDDLEWARES)


@each
def test_lifespan_passes_untouched(wrap: Callable[[Any], Any], run: Any) -> None:
    called: list[tuple[Any, ...]] = []

    async def app(*arguments: Any) -> None:
        called.append(arguments)

    async def receive() -> Any: ...
    async def send(message: Any) -> None: ...

    scope = {"type": "lifespan", "state": {}}
    run(lambda: wrap(app)(scope, receive, send))
    ((same, *streams),) = called
    assert same is scope
    assert streams == [receive, send]


@each
def test_websockets_pass_with_a_request_id_at_most(wrap: Callable[[Any], Any], run: Any) -> None:
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert current_deadline() is None
        sent.append(context.request_id())
        for _ in range(3):
            await send({"type": "websocket.accept"})

    async def receive() -> Any: ...
    async def send(message: Any) -> None:
        sent.append(message)

    scope = {**http_scope(headers=[("X-Request-ID", "r-17"), ("X-Request-Timeout", "0")]), "type": "websocket"}
    run(lambda: wrap(app)(scope, receive, send))
    if wrap in (MIDDLEWARES["RequestId"], MIDDLEWARES["standard"]):
        accept = {"type": "websocket.accept", "headers": [(b"x-request-id", b"r-17")]}
        assert sent == ["r-17", accept, accept, accept]
    else:
        assert sent == [None, *[{"type": "websocket.accept"}] * 3]


def test_websockets_are_neither_limited_nor_shed(run: Any) -> None:
    opened: list[None] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        opened.append(None)

    degradation = Degradation()
    degradation.force_level("minimal")
    guarded = standard(app, limit=1, period=60, degradation=degradation)
    for _ in range(3):
        server = ASGIServer()
        run(lambda server=server: guarded({**http_scope(), "type": "websocket"}, server.receive, server.send))
    assert len(opened) == 3


@each
def test_each_part_of_a_stream_is_with_the_server_before_the_next_is_made(wrap: Callable[[Any], Any], run: Any) -> None:
    server = ASGIServer()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(dict(START))
        for number in range(3):
            await send({"type": "http.response.body", "body": b"%d" % number, "more_body": True})
            assert server.reply is not None
            assert server.reply.body == b"012"[: number + 1]
        await send({"type": "http.response.body"})

    assert run(lambda: server.ask(wrap(app), http_scope())).chunks == [b"0", b"1", b"2", b""]


@each
def test_the_messages_of_the_application_are_left_as_they_are(wrap: Callable[[Any], Any], run: Any) -> None:
    start: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": ((b"a", b"1"),)}
    early: dict[str, Any] = {"type": "http.response.debug", "info": {}}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(early)
        await send(start)
        await send({"type": "http.response.body", "body": b"done", "more_body": False})

    server = ASGIServer()
    run(lambda: server.ask(wrap(app), http_scope()))
    assert start == {"type": "http.response.start", "status": 200, "headers": ((b"a", b"1"),)}
    assert server.sent[0] is early


def test_a_start_without_headers_is_given_them(run: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})

    reply = run(lambda: ASGIServer().ask(standard(app), http_scope(headers=[("X-Request-ID", "r-17")])))
    assert reply.headers["x-request-id"] == "r-17"
    assert reply.headers["x-content-type-options"] == "nosniff"


@each
def test_the_body_of_a_request_arrives_as_it_comes(wrap: Callable[[Any], Any], run: Any) -> None:
    incoming: list[dict[str, Any]] = [
        {"type": "http.request", "body": b"a", "more_body": True},
        {"type": "http.request", "body": b"b"},
    ]
    got: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        got.extend([await receive(), await receive(), await receive()])
        await asgi_app(lambda: "done")(scope, receive, send)

    run(lambda: ASGIServer(incoming).ask(wrap(app), http_scope(method="POST")))
    assert got == [*incoming, {"type": "http.disconnect"}]
    assert got[0] is incoming[0]


def test_an_error_after_the_response_has_begun_is_the_servers(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    error = KeyError("late")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(dict(START))
        raise error

    server = ASGIServer()
    with pytest.raises(KeyError) as raised:
        run(lambda: server.ask(standard(app), http_scope(headers=[("X-Request-ID", "r-17")])))
    assert raised.value is error
    assert len(server.sent) == 1
    assert [record.getMessage() for record in caplog.records] == [
        "GET / [request r-17] failed after its response had begun"
    ]


def test_a_start_that_the_server_refuses_is_not_sent_again(run: Any) -> None:
    tried: list[str] = []

    async def send(message: Any) -> None:
        tried.append(message["type"])
        raise RuntimeError("no such status")

    with pytest.raises(RuntimeError, match="no such status"):
        run(lambda: ErrorShield(asgi_app(lambda: 1))(http_scope(), ASGIServer().receive, send))
    assert tried == ["http.response.start"]


def test_what_is_raised_because_the_client_has_left_is_no_error(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if (await receive())["type"] == "http.disconnect":
            raise RuntimeError("disconnected")

    server = ASGIServer([{"type": "http.disconnect"}])
    run(lambda: ErrorShield(RequestId(app))(http_scope(), server.receive, server.send))
    assert server.sent == []
    (record,) = caplog.records
    assert record.levelname == "INFO"
    assert "failed after its client had gone" in record.getMessage()


def test_a_server_that_can_send_no_more_has_lost_its_client(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    tried: list[str] = []

    async def send(message: Any) -> None:
        tried.append(message["type"])
        if message["type"] == "http.response.body":
            raise BrokenPipeError

    run(lambda: ErrorShield(asgi_app(lambda: 1))(http_scope(), ASGIServer().receive, send))
    assert tried == ["http.response.start", "http.response.body"]
    assert caplog.records == []


def test_tasks_and_what_is_done_after_the_response_see_the_request(run: Any) -> None:
    seen: list[Any] = []

    def look() -> None:
        deadline = current_deadline()
        seen.append((context.request_id(), deadline is not None))

    async def task() -> None:
        await anyio.sleep(0)
        look()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(task)
            await asgi_app(lambda: "done")(scope, receive, send)
        look()
        await anyio.to_thread.run_sync(look)

    headers = [("X-Request-ID", "r-17"), ("X-Request-Timeout", "5")]
    run(lambda: ASGIServer().ask(standard(app), http_scope(headers=headers)))
    assert seen == [("r-17", True)] * 3


def test_requests_at_once_do_not_see_each_other(run: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        first = context.request_id()
        await anyio.sleep(0)
        await asgi_app(lambda: f"{first} {context.request_id()}")(scope, receive, send)

    guarded = standard(app)
    bodies: dict[int, bytes] = {}

    async def ask(number: int) -> None:
        reply = await ASGIServer().ask(guarded, http_scope(headers=[("X-Request-ID", f"r-{number}")]))
        bodies[number] = reply.body

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(ask, number)

    run(main)
    assert bodies == {number: b"r-%d r-%d" % (number, number) for number in range(20)}


@each
def test_a_cancelled_request_stays_cancelled(wrap: Callable[[Any], Any]) -> None:
    server = ASGIServer()
    scope = http_scope(headers=[("X-Request-ID", "r-17"), ("X-Request-Timeout", "5")])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await anyio.sleep_forever()

    async def on_asyncio() -> None:
        task = asyncio.ensure_future(wrap(app)(scope, server.receive, server.send))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def on_trio() -> None:
        with trio.CancelScope() as cancelling:
            cancelling.cancel()
            await wrap(app)(scope, server.receive, server.send)
        assert cancelling.cancelled_caught

    asyncio.run(on_asyncio())
    trio.run(on_trio)
    assert server.sent == []


def test_a_request_that_is_closed_in_another_context_leaves_quietly(caplog: pytest.LogCaptureFixture) -> None:
    class Never:
        def __await__(self) -> Generator[None, None, None]:
            yield

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await Never()

    headers = [("X-Request-ID", "r-17"), ("X-Request-Timeout", "5")]
    server = ASGIServer()
    request: Any = standard(app)(http_scope(headers=headers), server.receive, server.send)
    copy_context().run(request.send, None)
    copy_context().run(request.close)
    assert server.sent == []
    assert caplog.records == []


def test_where_it_is_enforced_a_late_application_is_cancelled(run: Any) -> None:
    ended: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            clock.advance(6)
            await anyio.sleep_forever()
        finally:
            ended.append("cleaned up")

    with fake_clock() as clock:
        guarded = RequestId(InboundDeadline(app, enforce=True))
        headers = [("X-Request-ID", "r-17"), ("X-Request-Timeout", "5")]
        reply = run(lambda: ASGIServer().ask(guarded, http_scope(headers=headers)))
    assert reply.status == 504
    assert reply.json() == {"status": 504, "error": "timed_out", "request_id": "r-17"}
    assert ended == ["cleaned up"]


def test_where_it_is_enforced_an_application_in_time_is_not_disturbed(run: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        clock.advance(4)
        await anyio.sleep(0)
        deadline = current_deadline()
        assert deadline is not None
        await asgi_app(lambda: round(deadline.remaining(), 6))(scope, receive, send)

    with fake_clock() as clock:
        guarded = InboundDeadline(app, default=5, enforce=True)
        assert run(lambda: ASGIServer().ask(guarded, http_scope())).body == b"1.0"


def test_where_it_is_enforced_a_response_that_has_begun_breaks_off(run: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(dict(START))
        clock.advance(6)
        await anyio.sleep_forever()

    server = ASGIServer()
    with fake_clock() as clock, pytest.raises(TimeoutExceededError):
        run(lambda: server.ask(standard(app, default=5, enforce=True), http_scope()))
    assert [message["type"] for message in server.sent] == ["http.response.start"]


def test_where_it_is_enforced_a_timeout_of_the_applications_own_passes(run: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with timeout(1):
            clock.advance(2)
            await anyio.sleep_forever()

    with fake_clock() as clock, pytest.raises(TimeoutExceededError, match="1 s"):
        run(lambda: ASGIServer().ask(InboundDeadline(app, default=5, enforce=True), http_scope()))
