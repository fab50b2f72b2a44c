"""What is WSGI's own: heads that can be replaced, bodies that are run in steps, `close` and `write`."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.util import FileWrapper
from wsgiref.validate import validator

import pytest

from resilient import context, current_deadline
from resilient.degradation import Degradation
from resilient.middleware.wsgi import (
    ErrorShield,
    InboundDeadline,
    LoadShedding,
    RateLimit,
    RequestId,
    SecurityHeaders,
    standard,
)
from tests.middleware.kit import WSGIServer, http_environ

MIDDLEWARES: dict[str, Callable[[Any], Any]] = {
    "RequestId": RequestId,
    "ErrorShield": ErrorShield,
    "InboundDeadline": lambda app: InboundDeadline(app, default=5),
    "RateLimit": lambda app: RateLimit(app, limit=1),
    "LoadShedding": lambda app: LoadShedding(app, degradation=Degradation()),
    "SecurityHeaders": SecurityHeaders,
    "standard": lambda app: standard(app, limit=10, default=5, degradation=Degradation()),
}
HEADERS = [("X-Request-ID", "r-17"), ("X-Request-Timeout", "5")]
each = pytest.mark.parametrize("wrap", MIDDLEWARES.values(), ids=MIDDLEWARES)


class Body:
    """A body that tells what is done with it."""

    def __init__(self, steps: Iterable[Callable[[], bytes]]) -> None:
        self.steps = iter(steps)
        self.closed: list[str | None] = []

    def __iter__(self) -> Body:
        return self

    def __next__(self) -> bytes:
        return next(self.steps)()

    def close(self) -> None:
        self.closed.append(context.request_id())


def answering(body: Any) -> Any:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return body

    return app


def look() -> bytes:
    deadline = current_deadline()
    return f"{context.request_id()} {deadline is not None} ".encode()


def test_the_request_is_seen_in_each_step_and_never_between() -> None:
    between: list[bytes] = []
    server = WSGIServer()
    server.between = lambda: between.append(look())
    body = Body([look, look])
    reply = server.ask(standard(answering(body)), http_environ(headers=HEADERS))
    assert reply.chunks == [b"r-17 True "] * 2
    assert between == [b"None False "] * 4
    assert body.closed == ["r-17"]


def test_what_the_application_binds_itself_is_there_in_later_steps() -> None:
    def bind() -> bytes:
        context.bind(user="anna")
        return b"-"

    def bound() -> bytes:
        return repr(sorted(context.bound().items())).encode()

    def app(environ: Any, start_response: Any) -> Any:
        context.bind(tenant="acme")
        start_response("200 OK", [])
        return Body([bind, bound])

    reply = WSGIServer().ask(RequestId(app), http_environ(headers=HEADERS))
    assert reply.chunks[1] == b"[('request_id', 'r-17'), ('tenant', 'acme'), ('user', 'anna')]"


@each
def test_nothing_is_run_before_the_server_asks_and_nothing_is_kept_back(wrap: Callable[[Any], Any]) -> None:
    log: list[str] = []

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        log.append("called")
        start_response("200 OK", [])
        for number in range(2):
            log.append(f"made {number}")
            yield b"%d" % number

    server = WSGIServer()
    server.between = lambda: log.append("-")
    assert server.ask(wrap(app), http_environ()).body == b"01"
    assert log == ["-", "called", "made 0", "-", "made 1", "-", "-"]


@each
def test_a_body_is_closed_once_also_where_it_fails(wrap: Callable[[Any], Any]) -> None:
    def fail() -> bytes:
        raise OSError("broken")

    for steps in ([look], [look, fail]):
        body = Body(steps)
        try:
            WSGIServer().ask(wrap(answering(body)), http_environ(headers=HEADERS))
        except OSError:
            assert fail in steps
        assert len(body.closed) == 1


@each
def test_a_client_that_leaves_closes_the_body(wrap: Callable[[Any], Any]) -> None:
    body = Body([look, look])
    parts = wrap(answering(body))(http_environ(headers=HEADERS), WSGIServer().start_response)
    next(iter(parts))
    parts.close()
    assert len(body.closed) == 1


@each
def test_bodies_that_servers_know_stay_what_they_are(wrap: Callable[[Any], Any]) -> None:
    for body in ([b"a"], (b"a", b"b"), FileWrapper(io.BytesIO(b"a"))):
        environ = {**http_environ(headers=HEADERS), "wsgi.file_wrapper": FileWrapper}
        assert wrap(answering(body))(environ, WSGIServer().start_response) is body


def test_a_list_of_the_applications_own_kind_is_run_in_the_request() -> None:
    class Lazy(list[Any]):
        def __iter__(self) -> Iterator[bytes]:
            yield look()

    assert WSGIServer().ask(standard(answering(Lazy())), http_environ(headers=HEADERS)).body == b"r-17 True "


@each
def test_write_goes_to_the_server_at_once(wrap: Callable[[Any], Any]) -> None:
    server = WSGIServer()

    def app(environ: Any, start_response: Any) -> list[bytes]:
        write = start_response("200 OK", [])
        write(b"a")
        assert server.chunks == [b"a"]
        return [b"b"]

    assert server.ask(wrap(app), http_environ()).chunks == [b"a", b"b"]


def shielded(app: Any, server: WSGIServer) -> Any:
    return server.ask(standard(app), http_environ(headers=HEADERS))


def test_a_head_that_has_not_gone_out_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> bytes:
        raise KeyError

    def at_call(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("X-Secret", "1")])
        raise KeyError

    def stopping(environ: Any, start_response: Any) -> list[bytes]:
        raise StopIteration

    class NoIterator(Body):
        def __iter__(self) -> Body:
            raise KeyError

    bodies = [Body([fail]), Body([lambda: b"", fail]), NoIterator([])]
    for app in (at_call, stopping, *map(answering, bodies)):
        reply = shielded(app, WSGIServer())
        assert reply.status == 500
        assert reply.json()["request_id"] == "r-17"
        assert "x-secret" not in reply.headers
    assert [record.getMessage() for record in caplog.records] == ["GET / [request r-17] answered with 500"] * 5
    assert [body.closed for body in bodies] == [["r-17"]] * 3


def test_after_the_head_the_error_is_the_servers(caplog: pytest.LogCaptureFixture) -> None:
    error = KeyError("late")

    def fail() -> bytes:
        raise error

    def writing(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])(b"a")
        raise error

    body = Body([look, fail])
    for app in (writing, answering(body)):
        with pytest.raises(KeyError) as raised:
            shielded(app, WSGIServer())
        assert raised.value is error
    assert [record.getMessage() for record in caplog.records] == [
        "GET / [request r-17] failed after its response had begun"
    ] * 2
    assert body.closed == ["r-17"]


def test_after_an_answer_nothing_of_the_old_body_follows() -> None:
    def fail() -> bytes:
        raise KeyError

    reply = shielded(answering(Body([fail, lambda: b"more"])), WSGIServer())
    assert reply.json()["status"] == 500


def test_an_error_while_closing_is_the_servers() -> None:
    class Stuck(Body):
        def close(self) -> None:
            raise OSError("stuck")

    with pytest.raises(OSError, match="stuck"):
        shielded(answering(Stuck([look])), WSGIServer())


@each
def test_an_application_may_replace_its_own_head(wrap: Callable[[Any], Any]) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        try:
            raise KeyError
        except KeyError:
            start_response("418 I'm a Teapot", [("X-Own", "1")], sys.exc_info())
        return [b"own"]

    reply = WSGIServer().ask(wrap(app), http_environ(headers=HEADERS))
    assert (reply.status, reply.headers["x-own"], reply.body) == (418, "1", b"own")


@each
@pytest.mark.parametrize("status", [200, 500])
def test_both_sides_are_valid(wrap: Callable[[Any], Any], status: int) -> None:
    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        if status == 500 and wrap in (MIDDLEWARES["ErrorShield"], MIDDLEWARES["standard"]):
            raise KeyError
        return iter([b"done"])

    checked = wrap(validator(app))
    server = WSGIServer()
    body = validator(checked)(http_environ(headers=HEADERS), server.start_response)
    assert b"".join(body)
    body.close()  # type: ignore[attr-defined]
