"""The error shield: what a client is told, and what the log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from resilient import CircuitOpenError, RateLimitedError, RejectedError, TimeoutExceededError
from resilient.middleware import rules
from tests.middleware.kit import Reply, Twin

SECRET = "password=hunter2"


def raising(error: BaseException) -> Callable[[], None]:
    def handle() -> None:
        raise error

    return handle


def ask(twin: Twin, error: BaseException, **request: Any) -> Reply:
    app = twin.module.RequestId(twin.module.ErrorShield(twin.app(raising(error))))
    return twin.ask(app, headers=[("X-Request-ID", "r-17")], **request)


def test_an_error_is_a_500_with_the_id_and_nothing_of_the_inside(twin: Twin, caplog: pytest.LogCaptureFixture) -> None:
    error = ValueError(SECRET)
    reply = ask(twin, error, method="POST", path="/orders")
    assert reply.status == 500
    assert reply.json() == {"status": 500, "error": "internal_error", "request_id": "r-17"}
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["cache-control"] == "no-store"
    assert int(reply.headers["content-length"]) == len(reply.body)
    assert reply.headers["x-request-id"] == "r-17"
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("resilient.middleware", "ERROR")
    assert record.getMessage() == "POST /orders [request r-17] answered with 500"
    assert record.exc_info is not None
    assert record.exc_info[1] is error


@pytest.mark.parametrize(
    "error, retry_after",
    [
        (CircuitOpenError("open", retry_after=26.2), "27"),
        (RateLimitedError("limit", retry_after=0.0), "1"),
        (RejectedError("no", retry_after=3.0), "3"),
        (RejectedError("no"), None),
        (RejectedError("no", retry_after=float("inf")), None),
        (ExceptionGroup("two", [RejectedError("a", retry_after=2), RejectedError("b", retry_after=9)]), "9"),
    ],
)
def test_what_a_policy_refuses_is_a_503(twin: Twin, error: Exception, retry_after: str | None) -> None:
    reply = ask(twin, error)
    assert reply.status == 503
    assert reply.headers.get("retry-after") == retry_after
    seconds = {} if retry_after is None else {"retry_after": int(retry_after)}
    assert reply.json() == {"status": 503, "error": "unavailable", "request_id": "r-17", **seconds}


@pytest.mark.parametrize(
    "error",
    [
        TimeoutExceededError("late", seconds=2.0),
        ExceptionGroup("two", [TimeoutExceededError("a"), ExceptionGroup("inner", [RejectedError("b")])]),
    ],
)
def test_a_timeout_is_a_504(twin: Twin, error: Exception) -> None:
    reply = ask(twin, error)
    assert reply.status == 504
    assert reply.json() == {"status": 504, "error": "timed_out", "request_id": "r-17"}


@pytest.mark.parametrize(
    "error", [TimeoutError("of the socket"), ExceptionGroup("two", [RejectedError("a"), KeyError("b")])]
)
def test_what_is_not_wholly_ours_is_a_500(twin: Twin, error: Exception) -> None:
    assert ask(twin, error).status == 500


def test_refusals_are_told_at_a_level_that_floods_no_log(twin: Twin, caplog: pytest.LogCaptureFixture) -> None:
    ask(twin, RejectedError("no"))
    assert caplog.records == []
    caplog.set_level(logging.INFO)
    ask(twin, RejectedError("no"))
    assert [record.getMessage() for record in caplog.records] == ["GET / [request r-17] answered with 503"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
def test_what_is_no_exception_passes(twin: Twin, error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(type(error)) as raised:
        ask(twin, error)
    assert raised.value is error
    assert caplog.records == []


def test_without_a_request_id_one_is_made_for_answer_and_log(twin: Twin, caplog: pytest.LogCaptureFixture) -> None:
    app = twin.module.ErrorShield(twin.app(raising(KeyError())))
    made = twin.ask(app).json()["request_id"]
    assert f"[request {made}]" in caplog.records[0].getMessage()


def test_a_head_request_is_answered_without_a_body(twin: Twin) -> None:
    reply = ask(twin, KeyError(), method="HEAD")
    assert (reply.status, reply.body) == (500, b"")
    assert int(reply.headers["content-length"]) > 0


def test_nothing_in_a_path_begins_a_line_of_its_own_in_the_log(twin: Twin, caplog: pytest.LogCaptureFixture) -> None:
    ask(twin, KeyError(), path="/a\n2026-01-01 root logged in\x1b[2J" + "x" * 500)
    message = caplog.records[0].getMessage()
    assert message.startswith("GET /a\\n2026-01-01 root logged in\\x1b[2Jxxx")
    assert len(message) < 300


def test_a_log_that_fails_costs_nobody_the_answer(twin: Twin) -> None:
    def refuse(record: logging.LogRecord) -> bool:
        raise RuntimeError

    rules.LOGGER.addFilter(refuse)
    try:
        assert ask(twin, KeyError()).status == 500
    finally:
        rules.LOGGER.removeFilter(refuse)


@contextmanager
def only(*handlers: logging.Handler) -> Iterator[None]:
    """As if these were the only handlers, and `resilient` had them."""
    root, parent = logging.getLogger(), logging.getLogger("resilient")
    before = root.handlers, parent.handlers
    root.handlers, parent.handlers = [], list(handlers)
    try:
        yield
    finally:
        root.handlers, parent.handlers = before


@pytest.mark.parametrize("handlers", [[], [logging.NullHandler()]], ids=["none", "our own"])
def test_where_the_application_has_set_up_no_logging_the_error_is_on_stderr(
    twin: Twin, handlers: list[logging.Handler], capsys: pytest.CaptureFixture[str]
) -> None:
    with only(*handlers):
        ask(twin, ValueError(SECRET))
    shown = capsys.readouterr().err
    assert shown.count("GET / [request r-17] answered with 500") == 1
    assert f"ValueError: {SECRET}" in shown
    assert shown.count("Traceback") == 1


def test_where_somebody_listens_nothing_is_on_stderr(twin: Twin, capsys: pytest.CaptureFixture[str]) -> None:
    ask(twin, ValueError(SECRET))
    assert capsys.readouterr().err == ""
