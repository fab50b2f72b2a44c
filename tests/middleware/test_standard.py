"""All of them together: their order, and what no request can bring about."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from inspect import signature
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from resilient import CircuitOpenError, deadline, registry
from resilient.degradation import Degradation
from resilient.middleware import asgi, wsgi
from resilient.testing import fake_clock
from tests.middleware.kit import ASGITwin, Twin, WSGITwin


def test_every_answer_has_the_id_and_the_security_headers(twin: Twin) -> None:
    errors: dict[str, Exception] = {"/500": KeyError(), "/503": CircuitOpenError("open", retry_after=3)}
    paths = {"asgi": "path", "wsgi": "PATH_INFO"}
    path: list[str] = []

    def handle() -> str:
        if error := errors.get(path[-1]):
            raise error
        return "done"

    def key(request: Any) -> str:
        path.append(request[paths[twin.name[:4]]])
        return path[-1]

    degradation = Degradation()
    app = twin.module.standard(
        twin.app(handle),
        limit=1,
        period=60,
        key=key,
        degradation=degradation,
        priority=lambda request: "bulk" if path[-1] == "/shed" else None,
    )
    degradation.force_level("reduced")
    asked = [("/200", ()), ("/200", ()), ("/500", ()), ("/503", ()), ("/shed", ()), ("/504", [("grpc-timeout", "0n")])]
    statuses = []
    for where, headers in asked:
        reply = twin.ask(app, path=where, headers=[("X-Request-ID", "r-17"), *headers])
        statuses.append(reply.status)
        assert reply.headers["x-request-id"] == "r-17"
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert ("retry-after" in reply.headers) == (reply.status in (429, 503))
    assert statuses == [200, 429, 500, 503, 503, 504]


def test_what_the_settings_call_is_shielded(twin: Twin) -> None:
    def fail(request: Any) -> Any:
        raise KeyError

    assert twin.ask(twin.module.standard(twin.app(), limit=1, key=fail)).status == 500
    degradation = Degradation()
    assert twin.ask(twin.module.standard(twin.app(), degradation=degradation, priority=fail)).status == 500


def test_a_client_over_its_limit_is_refused_before_load_is_shed(twin: Twin) -> None:
    degradation = Degradation()
    app = twin.module.standard(twin.app(), limit=1, period=60, degradation=degradation)
    degradation.force_level("minimal")
    assert [twin.ask(app).status for _ in range(2)] == [503, 429]


def without_a_loop(main: Callable[[], Awaitable[Any]]) -> Any:
    """Nothing in these applications waits, so one step does it."""
    steps: Any = main().__await__()
    try:
        next(steps)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waited")


FUZZED: list[Twin] = [ASGITwin("asgi", without_a_loop), WSGITwin("wsgi", lazy=True)]
NAMES = ["X-Request-ID", "X-Request-Timeout", "grpc-timeout", "traceparent", "X-Forwarded-For", "Host", "X-Other"]
TRACE = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
# fmt: off
LIKELY = [
    "0", "0.0", "00", "1", "1e9", "-1", "NaN", "inf", "99999999H", "0n", "1n", " 5 ", "5,0", "5, x", "10.0.0.1", "unix",
    "10.0.0.1, 10.0.0.2", "::1", "[::1]:80", "[", "1.2.3.4:80:90", "fe80::1%lo", "%", TRACE,
]
# fmt: on
VALUES = st.sampled_from(LIKELY) | st.text(st.characters(max_codepoint=255), max_size=200)
REQUESTS = st.lists(st.tuples(st.sampled_from(NAMES), VALUES), max_size=8)
METHODS = st.sampled_from(["GET", "HEAD", "POST", "OPTIONS", "BREW"])
PEERS = st.sampled_from(["10.0.0.1", "192.0.2.1", "::1", "::ffff:10.0.0.1", "", "unix:"]) | st.text(max_size=20)


@pytest.mark.parametrize("kind", FUZZED, ids=lambda twin: twin.name)
@given(method=METHODS, headers=REQUESTS, client=PEERS, path=st.text(max_size=40))
@example(method="GET", headers=[("grpc-timeout", "0n")], client="10.0.0.1", path="/")
@example(method="GET", headers=[("X-Forwarded-For", "," * 5000)], client="10.0.0.1", path="/")
def test_no_request_brings_about_another_answer_than_is_meant(
    kind: Twin, method: str, headers: list[tuple[str, str]], client: str, path: str
) -> None:
    registry.clear()
    with fake_clock():
        app = kind.module.standard(kind.app(lambda: "done"), limit=1, period=60, trusted_proxies=["10.0.0.0/8", "unix"])
        replies = [kind.ask(app, method, path, headers, client=client) for _ in range(2)]
        wishes = [deadline.from_headers({name: part}) for name, value in headers for part in value.split(",")]
    expected = 504 if 0.0 in wishes else 200
    assert [reply.status for reply in replies] == [expected, 429]
    for reply in replies:
        assert re.fullmatch(r"[A-Za-z0-9._:+/=@-]{1,128}", reply.headers["x-request-id"])
        assert reply.status == 200 or method == "HEAD" or reply.json()["request_id"] == reply.headers["x-request-id"]


@pytest.mark.parametrize("name", asgi.__all__)
def test_the_twins_take_the_same_settings(name: str) -> None:
    one, other = (list(signature(getattr(module, name)).parameters) for module in (asgi, wsgi))
    assert [setting for setting in one if setting != "enforce"] == other
    assert asgi.__all__ == wsgi.__all__
