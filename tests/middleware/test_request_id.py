"""The request id: taken or made, seen everywhere, told to the client."""

from __future__ import annotations

import re

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import use_span

from resilient import context
from resilient.middleware import outbound_headers
from tests.middleware.kit import Twin

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def test_the_id_of_the_request_is_bound_and_answered_with(twin: Twin) -> None:
    app = twin.module.RequestId(twin.app(context.request_id))
    reply = twin.ask(app, headers=[("X-Request-ID", "r-17")])
    assert reply.body == b"r-17"
    assert reply.headers["x-request-id"] == "r-17"


def test_a_request_without_an_id_is_given_one(twin: Twin) -> None:
    app = twin.module.RequestId(twin.app(context.request_id))
    replies = [twin.ask(app) for _ in range(2)]
    ids = [reply.headers["x-request-id"] for reply in replies]
    assert [reply.body.decode() for reply in replies] == ids
    assert ids[0] != ids[1]
    assert all(re.fullmatch("[0-9a-f]{32}", made) for made in ids)


def test_the_trace_id_stands_in_for_a_missing_one(twin: Twin) -> None:
    app = twin.module.RequestId(twin.app())
    reply = twin.ask(app, headers=[("traceparent", f"00-{TRACE}-00f067aa0ba902b7-01")])
    assert reply.headers["x-request-id"] == TRACE


@pytest.mark.parametrize("wrong", ["", "a b", "x" * 129, "a\tb", "ü", 'a"b'])
def test_an_id_that_could_do_harm_is_replaced(twin: Twin, wrong: str) -> None:
    reply = twin.ask(twin.module.RequestId(twin.app(context.request_id)), headers=[("X-Request-ID", wrong)])
    assert re.fullmatch("[0-9a-f]{32}", reply.headers["x-request-id"])
    assert reply.body.decode() == reply.headers["x-request-id"]


def test_of_two_ids_none_is_taken(twin: Twin) -> None:
    reply = twin.ask(twin.module.RequestId(twin.app()), headers=[("X-Request-ID", "r-1"), ("X-Request-ID", "r-2")])
    assert re.fullmatch("[0-9a-f]{32}", reply.headers["x-request-id"])


def test_the_client_is_told_the_one_id_that_is_in_the_logs(twin: Twin) -> None:
    app = twin.module.RequestId(twin.app(headers=[("X-Request-Id", "of-the-app"), ("X-Other", "1")]))
    reply = twin.ask(app, headers=[("X-Request-ID", "r-17")])
    assert reply.headers["x-request-id"] == "r-17"
    assert reply.headers["x-other"] == "1"


def test_it_goes_out_to_the_next_service(twin: Twin) -> None:
    app = twin.module.RequestId(twin.module.InboundDeadline(twin.app(lambda: sorted(outbound_headers()))))
    reply = twin.ask(app, headers=[("X-Request-ID", "r-17"), ("X-Request-Timeout", "5")])
    assert reply.body == b"['X-Request-ID', 'X-Request-Timeout', 'grpc-timeout']"


def test_it_is_an_attribute_of_the_current_span(twin: Twin) -> None:
    span = TracerProvider().get_tracer("test").start_span("request")
    with use_span(span):
        twin.ask(twin.module.RequestId(twin.app()), headers=[("X-Request-ID", "r-17")])
    assert span.attributes == {"resilience.request.id": "r-17"}  # type: ignore[attr-defined]


def test_what_was_bound_before_is_bound_afterwards(twin: Twin) -> None:
    def fail() -> None:
        raise KeyError

    with context.bind(request_id="outer", tenant="acme"):
        app = twin.module.RequestId(twin.app(lambda: dict(context.bound())))
        assert twin.ask(app, headers=[("X-Request-ID", "r")]).body == b"{'request_id': 'r', 'tenant': 'acme'}"
        with pytest.raises(KeyError):
            twin.ask(twin.module.RequestId(twin.app(fail)))
        assert context.bound() == {"request_id": "outer", "tenant": "acme"}
