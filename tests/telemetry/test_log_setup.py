"""`configure_logging`: both kinds of loggers, one kind of line."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from resilient import ConfigurationError, Event, context
from resilient.telemetry.log_setup import configure_logging, log_failures
from resilient.telemetry.log_sinks import FileSink, Sink
from resilient.telemetry.logs import EventLog
from tests.telemetry.untouched import untouched_logging

SECRET = "hunter2-5ecret"
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
FULL = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")


@pytest.fixture(autouse=True)
def _logging_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with untouched_logging():
        yield


@contextmanager
def alone() -> Iterator[None]:
    """Without the handlers of pytest, which raise what goes wrong in them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logging.getLogger(), "handlers", [])
        yield


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def configure(**settings: Any) -> io.StringIO:
    stream: io.StringIO = settings.pop("stream", io.StringIO())
    configure_logging(**{"service": "orders", "stream": stream, **settings})
    return stream


def read(stream: io.StringIO | Path) -> list[dict[str, Any]]:
    text = stream.read_text() if isinstance(stream, Path) else stream.getvalue()
    return [json.loads(line) for line in text.splitlines()]


# What a line has


def test_structlog_and_plain_logging_write_the_same() -> None:
    stream = configure(version="1.4.2")
    structlog.get_logger("shop").warning("order placed", order=7)
    logging.getLogger("shop").warning("order placed", extra={"order": 7})
    first, second = read(stream)
    assert MOMENT.fullmatch(first.pop("timestamp"))
    assert MOMENT.fullmatch(second.pop("timestamp"))
    assert first == second
    assert first == {
        "level": "warning",
        "event": "order placed",
        "logger": "shop",
        "service": "orders",
        "version": "1.4.2",
        "order": 7,
    }


def test_what_matters_stands_first() -> None:
    stream = configure(version="1")
    structlog.get_logger("shop").info("placed", a=1)
    assert list(read(stream)[0]) == ["timestamp", "level", "event", "logger", "service", "version", "a"]


def test_bound_context_is_in_both() -> None:
    stream = configure()
    with context.bind(request_id="r-17"), structlog.contextvars.bound_contextvars(tenant="acme"):
        structlog.get_logger("shop").info("one", request_id="its own")
        logging.getLogger("shop").info("two")
    logging.getLogger("shop").info("three")
    one, two, three = read(stream)
    assert (one["request_id"], one["tenant"]) == ("its own", "acme")
    assert (two["request_id"], two["tenant"]) == ("r-17", "acme")
    assert "request_id" not in three


def test_what_was_bound_before_structlog_was_there_is_in_both() -> None:
    stream = configure()
    with context.bind(request_id="r-17"):
        structlog.contextvars.clear_contextvars()
        structlog.get_logger("shop").info("one")
        logging.getLogger("shop").info("two")
    assert [line["request_id"] for line in read(stream)] == ["r-17", "r-17"]


def test_the_current_span_is_in_both() -> None:
    stream = configure()
    with trace.use_span(NonRecordingSpan(SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=TraceFlags(1)))):
        structlog.get_logger("shop").info("one")
        logging.getLogger("shop").info("two")
    for line in read(stream):
        assert (line["trace_id"], line["span_id"], line["trace_flags"]) == (f"{0xABC:032x}", f"{0xDEF:016x}", "01")


def test_arguments_are_put_in_and_wrong_ones_fail_nobody() -> None:
    before = log_failures()
    with alone():
        stream = configure()
        for logger in (structlog.get_logger("shop"), logging.getLogger("shop")):
            logger.info("%s of %d", "one", 2)
            logger.info("%(who)s came", {"who": "bob"})
            logger.info("%d came", f"password={SECRET}")
    lines = read(stream)
    assert [line["event"] for line in lines] == ["one of 2", "bob came", "%d came"] * 2
    assert lines[2]["arguments"] == ["password=[redacted]"]
    assert lines[5]["formatting_error"] == "TypeError"
    assert SECRET not in stream.getvalue()
    assert log_failures() == before


def test_exceptions_and_stacks_are_in_both() -> None:
    stream = configure()
    try:
        raise ValueError("wrong order")
    except ValueError:
        structlog.get_logger("shop").exception("failed")
        logging.getLogger("shop").exception("failed", stack_info=True)
    one, two = read(stream)
    assert one["exception"].splitlines()[-1] == two["exception"].splitlines()[-1] == "ValueError: wrong order"
    assert one["level"] == two["level"] == "error"
    assert "test_exceptions_and_stacks" in two["stack"]


def test_whatever_is_logged_is_one_line_of_json() -> None:
    stream = configure()
    log = structlog.get_logger("shop")
    log.info("a\nb\u2028", when=object(), ключ="значение", nan=float("nan"), bytes=b"\xff", lone="\ud800")
    log.info({"not": "a text"}, self_made={1, 2})
    logging.getLogger("shop").info(["not", "a text"])
    assert [line["event"] for line in read(stream)] == ["a\nb\u2028", {"not": "a text"}, "['not', 'a text']"]


def test_events_of_policies_come_out_with_their_fields() -> None:
    stream = configure()
    log = EventLog()
    event = Event("retry_exhausted", "retry", "pay", "pay", 1.0, {"attempts": 3, "reason": "attempts exhausted"})
    assert log.wants(event.kind, event.policy_kind, event.policy, event.at)
    with context.bind(request_id="r-17"):
        log.write(event)
    (line,) = read(stream)
    del line["timestamp"]
    assert line == {
        "level": "warning",
        "event": "retries exhausted",
        "logger": "resilient.retry",
        "service": "orders",
        "policy": "pay",
        "policy_kind": "retry",
        "pipeline": "pay",
        "attempts": 3,
        "reason": "attempts exhausted",
        "request_id": "r-17",
    }


# Levels


def test_levels_are_set_by_logger_and_bind_both() -> None:
    stream = configure(level="warning", levels={"shop.db": "DEBUG", "shop.web": 40})
    for name in ("shop", "shop.db", "shop.web"):
        structlog.get_logger(name).info("structlog")
        logging.getLogger(name).info("logging")
        logging.getLogger(name).error("error")
    assert [(line["logger"], line["event"]) for line in read(stream)] == [
        ("shop", "error"),
        ("shop.db", "structlog"),
        ("shop.db", "logging"),
        ("shop.db", "error"),
        ("shop.web", "error"),
    ]


def test_a_second_call_takes_the_place_of_the_first(tmp_path: Path) -> None:
    logging.getLogger("shop.db").setLevel(logging.ERROR)
    others = logging.getLogger().handlers[:]
    early = structlog.get_logger("shop")
    first = configure(levels={"shop.db": "DEBUG"}, file=tmp_path / "log", level="DEBUG")
    early.info("once", iban="DE1")
    assert [line["iban"] for line in (*read(first), *read(tmp_path / "log"))] == ["DE1", "DE1"]
    second = configure(service="other", redact=["iban"])
    early.info("again", iban=SECRET)
    logging.getLogger("shop").debug("too fine")
    assert [line["event"] for line in (*read(first), *read(tmp_path / "log"))] == ["once", "once"]
    (line,) = read(second)
    assert (line["service"], line["iban"]) == ("other", "[redacted]")
    assert logging.getLogger("shop.db").level == logging.ERROR
    assert [handler for handler in logging.getLogger().handlers if not isinstance(handler, Sink)] == others


def test_called_twice_alike_nothing_is_written_twice() -> None:
    stream = io.StringIO()
    for _ in range(2):
        configure(stream=stream)
    structlog.get_logger("shop").info("once")
    logging.getLogger("shop").info("once")
    assert len(read(stream)) == 2


# For people


def test_the_console_shows_text_without_colour_where_nobody_looks() -> None:
    stream = configure(json=False)
    structlog.get_logger("shop").info("order placed", order=7)
    logging.getLogger("shop").warning("low stock", extra={"left": 2})
    one, two = stream.getvalue().splitlines()
    assert "\x1b" not in stream.getvalue()
    assert "[info     ] order placed" in one
    assert "order=7" in one
    assert "[warning  ] low stock" in two
    assert "left=2" in two


@pytest.mark.parametrize(
    "no_color, term, coloured",
    [(None, "xterm", True), ("", "xterm", True), ("1", "xterm", False), (None, "dumb", False)],
)
def test_colour_is_for_terminals_that_want_it(
    monkeypatch: pytest.MonkeyPatch, no_color: str | None, term: str, coloured: bool
) -> None:
    monkeypatch.setenv("TERM", term)
    if no_color is not None:
        monkeypatch.setenv("NO_COLOR", no_color)
    stream = configure(json=False, stream=Terminal())
    logging.getLogger("shop").info("hello")
    assert ("\x1b[" in stream.getvalue()) is coloured


def test_nothing_logged_can_begin_a_line_or_move_the_cursor() -> None:
    stream = configure(json=False)
    structlog.get_logger("shop").info("a\nERROR b\r\x1b[2J", **{"k\n": "c\x1b]0;d\x07\x9b"})
    try:
        raise ValueError("x\x1b[2Jy")
    except ValueError:
        logging.getLogger("shop").exception("failed")
    text = stream.getvalue()
    assert set("\x1b\r\x07\x9b").isdisjoint(text)
    assert "a\\nERROR b\\r\\x1b[2J" in text.splitlines()[0]
    assert text.splitlines()[-1] == "ValueError: x\\x1b[2Jy"


def test_what_a_stream_can_not_encode_is_escaped() -> None:
    raw = io.BytesIO()
    configure(json=False, stream=io.TextIOWrapper(raw, encoding="ascii"))
    logging.getLogger("shop").info("grüße")
    assert b"gr\\xfc\\xdfe" in raw.getvalue()


# Where it goes


def test_by_default_it_goes_to_what_is_standard_error_at_the_time(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(service="orders")
    logging.getLogger("shop").info("hello")
    assert json.loads(capsys.readouterr().err)["event"] == "hello"


def test_with_a_file_it_goes_there_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(service="orders", file=str(tmp_path / "log"))
    logging.getLogger("shop").info("hello")
    assert [line["event"] for line in read(tmp_path / "log")] == ["hello"]
    assert capsys.readouterr().err == ""


def test_with_a_file_and_a_stream_it_goes_to_both_and_the_file_is_never_coloured(tmp_path: Path) -> None:
    stream = configure(stream=Terminal(), file=tmp_path / "log", json=False)
    logging.getLogger("shop").info("grüße")
    assert "\x1b[" in stream.getvalue()
    assert "\x1b[" not in (tmp_path / "log").read_text()
    assert "grüße" in (tmp_path / "log").read_text()


def test_files_are_renamed_before_they_grow_too_long(tmp_path: Path) -> None:
    configure_logging(service="orders", file=tmp_path / "log", max_bytes=1000, backups=2)
    for number in range(50):
        logging.getLogger("shop").info("line %d", number)
    files = [tmp_path / "log.2", tmp_path / "log.1", tmp_path / "log"]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert all(path.stat().st_size <= 1000 for path in files)
    events = [line["event"] for path in files for line in read(path)]
    assert events == [f"line {number}" for number in range(50 - len(events), 50)]


def test_a_file_that_never_ends_and_one_that_was_there(tmp_path: Path) -> None:
    (tmp_path / "log").write_text('{"event": "before"}\n{"event": "torn')
    configure_logging(service="orders", file=tmp_path / "log", max_bytes=None)
    for number in range(50):
        logging.getLogger("shop").info("line %d", number)
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == 52
    assert json.loads(lines[2])["event"] == "line 0"


def test_many_threads_write_whole_lines(tmp_path: Path) -> None:
    configure_logging(service="orders", file=tmp_path / "log", max_bytes=20_000, backups=50)

    def write() -> None:
        for number in range(100):
            structlog.get_logger("shop").info("line", number=number, filling="x" * 100)

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(len(read(path)) for path in tmp_path.iterdir()) == 800


# What can't be written


@FULL
def test_a_full_disk_fails_no_call_and_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    before = log_failures()
    stream = configure(file="/dev/full")
    for _ in range(5):
        structlog.get_logger("shop").info("hello", password=SECRET)
        logging.getLogger("shop").info("hello %s", f"token={SECRET}")
    assert log_failures() - before == 10
    assert capsys.readouterr().err.splitlines() == [
        "resilient: can't write to /dev/full: No space left on device; from here on only counted"
    ]
    assert len(read(stream)) == 10, "the other sink goes on"


def test_half_a_line_does_not_spoil_the_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(service="orders", file=tmp_path / "log")
    (sink,) = (handler for handler in logging.getLogger().handlers if isinstance(handler, FileSink))
    whole: Any = sink.stream

    class Filling:
        def write(self, data: bytes) -> int:
            return int(whole.write(data[:10]))

        def fileno(self) -> int:
            return int(whole.fileno())

    logging.getLogger("shop").info("one")
    sink.stream = Filling()  # type: ignore[assignment]
    logging.getLogger("shop").info("two")
    sink.stream = whole
    logging.getLogger("shop").info("three")
    one, half, three = (tmp_path / "log").read_text().splitlines()
    assert (json.loads(one)["event"], len(half), json.loads(three)["event"]) == ("one", 10, "three")
    assert "not all of the line" in capsys.readouterr().err


def test_a_directory_that_goes_away_fails_no_call_and_comes_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = log_failures()
    place = tmp_path / "logs"
    place.mkdir()
    configure_logging(service="orders", file=place / "log", max_bytes=200, backups=1)
    logging.getLogger("shop").info("one" * 20)
    (place / "log").unlink()
    place.rmdir()
    for _ in range(3):
        logging.getLogger("shop").info("two" * 20)
    assert log_failures() > before
    assert capsys.readouterr().err.count("can't write to") == 1
    place.mkdir()
    logging.getLogger("shop").info("three")
    assert [line["event"] for line in read(place / "log")] == ["three"]


def test_a_file_that_can_not_be_renamed_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(service="orders", file=tmp_path / "log", max_bytes=200, backups=1)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "rename", refuse)
    for number in range(5):
        logging.getLogger("shop").info("line %d", number)
    assert [line["event"] for line in read(tmp_path / "log")] == [f"line {number}" for number in range(5)]
    assert "Permission denied" in capsys.readouterr().err


def test_a_stream_that_is_closed_fails_no_call(capsys: pytest.CaptureFixture[str]) -> None:
    before = log_failures()
    stream = configure()
    stream.close()
    for _ in range(3):
        structlog.get_logger("shop").info("hello")
    assert log_failures() - before == 3
    assert capsys.readouterr().err.count("the log stream") == 1


def test_without_standard_error_nothing_is_written_and_nobody_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    configure_logging(service="orders", json=False)
    logging.getLogger("shop").info("hello")


def test_a_message_that_can_not_be_made_still_gives_a_line() -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError(SECRET)

    with alone():
        stream = configure()
        logging.getLogger("shop").info("who: %s", Broken())
    (line,) = read(stream)
    assert (line["event"], line["formatting_error"]) == ("who: %s", "RuntimeError")
    assert (line["service"], line["logger"], line["level"]) == ("orders", "shop", "info")


# Secrets


def test_no_password_gets_out_by_any_way() -> None:
    stream = configure(levels={"shop": "DEBUG"}, file=None)
    foreign = logging.getLogger("shop")
    seen: list[str] = []

    class Other(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(repr(record.msg))

    other = Other()
    logging.getLogger().addHandler(other)
    try:
        with context.bind(request_id="r-17", session_token=SECRET):
            log = structlog.get_logger("shop").bind(db={"user": "bob", "password": SECRET})
            log.info(f"connecting to postgres://bob:{SECRET}@db", headers=[("Authorization", f"Bearer {SECRET}")])
            log.info("signed in", user={"name": "bob", "credentials": [{"api_key": SECRET}]})
            try:
                raise ConnectionError(f"login failed: password={SECRET}")
            except ConnectionError as error:
                error.add_note(f"Authorization: Basic {SECRET}")
                log.exception("failed", error=error)
    finally:
        logging.getLogger().removeHandler(other)
    assert SECRET not in repr(seen), "handlers of others get what structlog's loggers wrote redacted"
    foreign.warning("headers %s", {"cookie": SECRET})
    foreign.warning("url %s", f"https://x?token={SECRET}", extra={"password": SECRET, "deep": {"secret": [SECRET]}})
    try:
        raise ConnectionError(f"pwd={SECRET}") from ValueError(f"'token': '{SECRET}'")
    except ConnectionError:
        foreign.exception("secret: %s", SECRET)
    lines = read(stream)
    assert len(lines) == 6
    assert SECRET not in stream.getvalue()
    assert all("[redacted]" in json.dumps(line) for line in lines)


def test_on_the_console_neither() -> None:
    stream = configure(json=False, stream=Terminal())

    def login(password: str) -> None:
        raise ConnectionError("login failed")

    try:
        login(SECRET)
    except ConnectionError:
        structlog.get_logger("shop").exception("failed", token=SECRET)
        logging.getLogger("shop").exception("token=%s", SECRET)
    assert "login failed" in stream.getvalue()
    assert SECRET not in stream.getvalue()


# Settings


@pytest.mark.parametrize(
    "settings",
    [
        {"service": ""},
        {"service": " "},
        {"service": 7},
        {"version": ""},
        {"version": 1.0},
        {"json": "yes"},
        {"level": "LOUD"},
        {"level": -1},
        {"level": True},
        {"level": None},
        {"levels": ["shop"]},
        {"levels": {7: "INFO"}},
        {"levels": {"": "INFO"}},
        {"levels": {"shop": "LOUD"}},
        {"file": ""},
        {"file": 7},
        {"file": "/no/such/directory/log"},
        {"file": "/"},
        {"file": "a\x00b"},
        {"file": "log", "max_bytes": 0},
        {"file": "log", "max_bytes": 1.5},
        {"file": "log", "backups": 0},
        {"stream": "stdout"},
        {"redact": "password"},
        {"redact": [7]},
        {"redact": ["---"]},
        {"redact": 7},
    ],
    ids=repr,
)
def test_wrong_settings_are_refused_and_change_nothing(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    before = root.handlers[:], root.level
    with pytest.raises(ConfigurationError, match=r"^configure_logging: .* is not allowed: ") as caught:
        configure_logging(**{"service": "orders", **settings})
    name = list(settings)[-1]
    assert str(caught.value.setting).startswith(name)
    assert (root.handlers, root.level) == before
    assert not structlog.is_configured()
    assert list(tmp_path.iterdir()) == []


def test_the_last_lines_of_a_program_are_written(tmp_path: Path) -> None:
    program = f"""
import atexit, logging
from resilient.telemetry.log_setup import configure_logging
configure_logging(service="orders", file={str(tmp_path / "log")!r}, stream=__import__("sys").stdout)
atexit.register(logging.getLogger("shop").info, "the last")
logging.getLogger("shop").info("the first")
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        check=True,
    )
    assert done.stderr == ""
    assert done.stdout == (tmp_path / "log").read_text()
    assert [line["event"] for line in read(tmp_path / "log")] == ["the first", "the last"]
