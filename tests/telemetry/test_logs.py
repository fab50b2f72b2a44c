"""Events as log lines: where they go, what stands in them, and how few there are."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import MappingProxyType, ModuleType
from typing import Any

import pytest
import structlog
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from resilient import (
    CircuitOpenError,
    Event,
    RejectedError,
    ResilienceError,
    circuit_breaker,
    context,
    fallback,
    pipeline,
    registry,
    retry,
    timeout,
)
from resilient.core.events import KINDS, LOG
from resilient.telemetry import logs
from resilient.telemetry.logs import EventLog
from resilient.testing import FakeClock, fake_clock
from tests.forking import unmeasured
from tests.telemetry.untouched import untouched_logging

SECRET = "hunter2-5ecret"


class Lines(logging.Handler):
    """What the standard logger `resilient` was given."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def events(self) -> list[str]:
        return [vars(record)["event"] for record in self.records]

    @property
    def last(self) -> dict[str, Any]:
        return vars(self.records[-1])

    @property
    def texts(self) -> list[str]:
        return [record.getMessage() for record in self.records]


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    with untouched_logging():
        yield
    registry.clear()


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler = Lines()
    logger = logging.getLogger("resilient")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.removeHandler(handler)


@pytest.fixture
def log() -> EventLog:
    return EventLog()


@pytest.fixture
def clock() -> Iterator[FakeClock]:
    with fake_clock() as clock:
        yield clock


@pytest.fixture
def followed(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> EventLog:
    """A log that hears all policies, in the place of that of the process."""
    monkeypatch.setattr(LOG, "wants", log.wants)
    monkeypatch.setattr(LOG, "write", log.write)
    return log


def tell(log: EventLog, event: Event) -> bool:
    wanted = log.wants(event.kind, event.policy_kind, event.policy, event.at)
    if wanted:
        log.write(event)
    return wanted


def rejected(at: float = 100.0, policy: str = "payments", **data: object) -> Event:
    return Event("call_rejected", "circuit_breaker", policy, "charge", at, data)


def changed(to: str, at: float = 100.0) -> Event:
    return Event("circuit_state_changed", "circuit_breaker", "payments", None, at, {"from": "closed", "to": to})


def configure_structlog(level: int = 0, **options: Any) -> list[dict[str, Any]]:
    written: list[dict[str, Any]] = []

    def keep(_: object, method: str, fields: Any) -> Any:
        written.append({**fields, "method": method})
        raise structlog.DropEvent

    structlog.configure(
        processors=[keep],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        **{"logger_factory": structlog.PrintLoggerFactory(), **options},
    )
    return written


def run(program: str) -> str:
    environment = {**unmeasured(), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=environment, check=False
    )
    assert not done.returncode, done.stderr
    return done.stdout.strip()


# Where lines go


def test_it_imports_no_logging_and_keeps_nothing_where_nobody_did() -> None:
    program = """
import sys
from resilient.telemetry.logs import EVENT_LOG
print(EVENT_LOG.wants("call_rejected", "bulkhead", "files", 1.0), len(EVENT_LOG._tallies))
print([name for name in ("logging", "structlog", "opentelemetry") if name in sys.modules])
"""
    assert run(program).splitlines() == ["False 0", "[]"]


def test_without_configuration_nothing_is_configured_and_nothing_shown() -> None:
    program = """
import logging, structlog
from resilient import Event
from resilient.telemetry.logs import EVENT_LOG
assert EVENT_LOG.wants("call_rejected", "bulkhead", "files", 1.0)
EVENT_LOG.write(Event("call_rejected", "bulkhead", "files", None, 1.0))
logger = logging.getLogger("resilient")
print(structlog.is_configured(), logging.getLogger().handlers, [type(it).__name__ for it in logger.handlers])
print(logger.level)
"""
    assert run(program).splitlines() == ["False [] ['NullHandler']", "0"]


def test_the_null_handler_is_added_once() -> None:
    logger = logging.getLogger("resilient")
    for kind in ("bulkhead", "retry"):
        assert EventLog().wants("call_rejected", kind, "files", 1.0)
    assert sum(isinstance(handler, logging.NullHandler) for handler in logger.handlers) == 1


def test_each_kind_of_policy_has_a_logger_of_its_own(log: EventLog, lines: Lines) -> None:
    tell(log, rejected())
    tell(log, Event("call_rejected", "bulkhead", "files", None, 1.0))
    assert [record.name for record in lines.records] == ["resilient.circuit_breaker", "resilient.bulkhead"]


def test_a_logger_that_is_off_costs_no_event_and_keeps_nothing(log: EventLog, lines: Lines) -> None:
    logging.getLogger("resilient.circuit_breaker").setLevel(logging.ERROR)
    assert not log.wants("call_rejected", "circuit_breaker", "payments", 1.0)
    assert not log._tallies
    assert log.wants("call_rejected", "bulkhead", "payments", 1.0)


def test_structlog_that_is_only_imported_is_not_used(log: EventLog, lines: Lines) -> None:
    assert not structlog.is_configured()
    tell(log, rejected())
    assert lines.events == ["call rejected"]


def test_structlog_that_is_configured_gets_the_line_instead(log: EventLog, lines: Lines) -> None:
    written = configure_structlog()
    assert tell(log, rejected(retry_after=2.5))
    assert written == [
        {
            "event": "call rejected",
            "policy": "payments",
            "policy_kind": "circuit_breaker",
            "pipeline": "charge",
            "retry_after": 2.5,
            "method": "warning",
        }
    ]
    assert not lines.records


def test_levels_of_structlog_are_kept(log: EventLog) -> None:
    written = configure_structlog(logging.WARNING)
    tell(log, Event("timed_out", "timeout", "payments", "charge", 1.0, {"seconds": 2.0}))
    tell(log, rejected())
    assert [line["event"] for line in written] == ["call rejected"]


def test_a_logger_factory_without_names_will_do(log: EventLog) -> None:
    written = configure_structlog(logger_factory=lambda: structlog.PrintLogger())
    tell(log, rejected())
    assert len(written) == 1
    assert log.failures == 0


def test_an_asynchronous_logger_writes_at_once(log: EventLog) -> None:
    written = configure_structlog()
    structlog.configure(wrapper_class=structlog.stdlib.AsyncBoundLogger)

    async def main() -> None:
        tell(log, rejected())

    asyncio.run(main())
    assert [line["event"] for line in written] == ["call rejected"]


# What stands in them


@pytest.mark.parametrize(
    "state, words, level",
    [
        ("open", "circuit opened", "WARNING"),
        ("half_open", "circuit half-open", "INFO"),
        ("closed", "circuit closed", "INFO"),
        ("forced_open", "circuit forced open", "WARNING"),
        ("disabled", "circuit disabled", "WARNING"),
    ],
)
def test_the_state_of_a_circuit_decides_the_words_and_the_level(
    log: EventLog, lines: Lines, state: str, words: str, level: str
) -> None:
    tell(log, changed(state))
    assert (lines.events, lines.last["levelname"], lines.last["to_state"]) == ([words], level, state)


LEVELS = {
    "call_rejected": "WARNING",
    "circuit_state_changed": "WARNING",
    "retry_scheduled": "DEBUG",
    "retry_exhausted": "WARNING",
    "timed_out": "INFO",
    "fallback_applied": "WARNING",
    "hedge_started": "DEBUG",
    "limit_changed": "DEBUG",
    "degradation_changed": "WARNING",
    "fault_injected": "WARNING",
}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_of_event_has_its_level(log: EventLog, lines: Lines, kind: str) -> None:
    tell(log, Event(kind, "some", "payments", None, 1.0, {}))
    assert lines.last["levelname"] == LEVELS[kind]


def test_a_kind_it_does_not_know_is_passed_over(log: EventLog, lines: Lines) -> None:
    assert not log.wants("chaos_injected", "chaos", "payments", 1.0)
    log.write(Event("chaos_injected", "chaos", "payments", None, 1.0))
    assert not lines.records


def test_the_text_tells_all_that_the_attributes_tell(log: EventLog, lines: Lines) -> None:
    tell(log, Event("retry_scheduled", "retry", "pay", "pay", 1.0, {"attempt": 2, "delay": 0.25, "error": "OSError"}))
    assert lines.texts == [
        "retry scheduled policy=pay policy_kind=retry pipeline=pay attempt=2 wait=0.25 error_type=OSError"
    ]
    assert (lines.last["attempt"], lines.last["wait"], lines.last["error_type"]) == (2, 0.25, "OSError")


def test_nothing_but_known_plain_fields_is_taken(log: EventLog, lines: Lines) -> None:
    data: dict[str, Any] = {
        "args": (SECRET,),
        "result": [SECRET],
        "error": ValueError(SECRET),
        "message": SECRET,
        "reason": "r" * 999,
    }
    tell(log, rejected(**data))
    assert SECRET not in repr(vars(lines.records[0]))
    assert lines.last["reason"] == "r" * 200


def test_a_name_can_not_begin_a_line_of_its_own(log: EventLog, lines: Lines) -> None:
    tell(log, rejected(policy='a\nERROR "b'))
    assert lines.texts == ["call rejected policy='a\\nERROR \"b' policy_kind=circuit_breaker pipeline=charge"]


def test_the_current_span_is_told(log: EventLog, lines: Lines) -> None:
    span = NonRecordingSpan(SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=TraceFlags(1)))
    with trace.use_span(span):
        tell(log, rejected(policy="one"))
    tell(log, rejected(policy="two"))
    first, second = map(vars, lines.records)
    assert (first["trace_id"], first["span_id"], first["trace_flags"]) == (f"{0xABC:032x}", f"{0xDEF:016x}", "01")
    assert "trace_id" not in second


def test_opentelemetry_that_is_only_just_imported_is_passed_over(
    log: EventLog, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", ModuleType("opentelemetry.trace"))
    tell(log, rejected())
    assert lines.events == ["call rejected"]


def test_bound_fields_are_told_and_ours_win(log: EventLog, lines: Lines) -> None:
    with context.bind(request_id="r-17", policy="theirs", name="kept in the text", api_token=SECRET, event="theirs"):
        tell(log, rejected())
    assert (lines.last["request_id"], lines.last["policy"], lines.last["api_token"]) == (
        "r-17",
        "payments",
        "[redacted]",
    )
    assert "name='kept in the text'" in lines.texts[0]
    assert lines.events == ["call rejected"]
    assert SECRET not in repr(lines.last)


def test_bound_fields_reach_structlog_without_a_processor(log: EventLog) -> None:
    written = configure_structlog()
    with context.bind(request_id="r-17", level="theirs", exc_info=True, self="me"):
        tell(log, rejected())
    assert written[0]["request_id"] == "r-17"
    assert "exc_info" not in written[0]
    assert log.failures == 0


# How few there are


def test_rejections_have_one_line_in_ten_seconds_that_tells_of_the_others(
    followed: EventLog, lines: Lines, clock: FakeClock
) -> None:
    breaker = circuit_breaker("payments", open_duration=1000)
    breaker.trip()
    for seconds, calls in ((0.0, 5), (9.5, 3), (0.5, 4), (10.0, 1), (10.0, 1)):
        clock.advance(seconds)
        for _ in range(calls):
            with pytest.raises(CircuitOpenError):
                breaker.call(len, "never")
    told = [vars(record).get("suppressed") for record in lines.records if vars(record)["event"] == "call rejected"]
    assert told == [None, 7, 3, None]


def test_policies_and_kinds_are_limited_apart(log: EventLog, lines: Lines) -> None:
    for policy in ("one", "two"):
        for _ in range(3):
            tell(log, rejected(policy=policy))
            tell(log, Event("timed_out", "timeout", policy, None, 100.0, {}))
    assert sorted(lines.events) == ["call rejected"] * 2 + ["timed out"] * 2


def test_changes_of_state_are_all_told_up_to_a_hundred(log: EventLog, lines: Lines) -> None:
    for turn in range(60):
        tell(log, changed("open", 100 + turn / 100))
        tell(log, changed("half_open", 100 + turn / 100))
    assert len(lines.records) == 100
    tell(log, changed("closed", 111.0))
    assert lines.last["suppressed"] == 20


def test_a_clock_that_goes_back_silences_nobody(log: EventLog, lines: Lines) -> None:
    assert tell(log, rejected(at=5000.0))
    assert not tell(log, rejected(at=4995.0))
    assert tell(log, rejected(at=300.0))
    assert not tell(log, rejected(at=301.0))


def test_who_is_late_to_see_that_a_period_is_over_begins_no_other(log: EventLog, lines: Lines) -> None:
    tell(log, rejected(100.0))
    tally = log._tallies["call_rejected", "circuit_breaker", "payments"]
    before = tally.window
    assert tell(log, rejected(110.0))
    tally.window = before  # as a thread sees it that was stopped after it had looked
    assert not tell(log, rejected(110.0))
    assert tally.window is not before


def test_a_logger_that_is_turned_off_gets_nothing_any_more(log: EventLog, lines: Lines) -> None:
    assert tell(log, rejected(100.0))
    logging.getLogger("resilient").setLevel(logging.ERROR)
    assert not tell(log, rejected(110.0))


def test_a_level_between_two_states_of_a_circuit_shows_the_graver(log: EventLog, lines: Lines) -> None:
    logging.getLogger("resilient").setLevel(logging.WARNING)
    for state in ("open", "half_open", "closed"):
        tell(log, changed(state))
    assert lines.events == ["circuit opened"]


def test_names_without_end_take_a_bounded_memory_and_a_bounded_number_of_lines(log: EventLog, lines: Lines) -> None:
    for number in range(3 * logs.MOST):
        tell(log, rejected(policy=f"p{number}"))
    assert len(log._tallies) == logs.MOST + 1
    assert len(lines.records) == logs.MOST + 1
    # Those that are idle make room.
    for number in range(3 * logs.MOST):
        tell(log, rejected(policy=f"q{number}", at=200.0))
    assert len(log._tallies) <= logs.MOST + 2
    assert logs.MOST <= len(lines.records) - logs.MOST - 1 <= logs.MOST + 1
    assert log.failures == 0


def test_eight_threads_write_one_line_and_count_all_others(log: EventLog, lines: Lines) -> None:
    def storm(at: float) -> None:
        def hammer() -> None:
            start.wait()
            for _ in range(2000):
                tell(log, rejected(at))

        start = threading.Barrier(8)
        threads = [threading.Thread(target=hammer) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        storm(100.0)
        storm(110.0)
    finally:
        sys.setswitchinterval(before)
    tell(log, rejected(120.0))
    told = [vars(record).get("suppressed", 0) for record in lines.records]
    assert len(told) == 3
    # The line of the second storm may have told some of that storm itself.
    assert sum(told) == 2 * 8 * 2000 - 2


# What must never happen


class Breaking(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise OSError("disk full")


def test_a_handler_that_breaks_fails_no_call(log: EventLog, lines: Lines) -> None:
    breaking = Breaking()
    logger = logging.getLogger("resilient")
    logger.addHandler(breaking)
    try:
        tell(log, rejected())
    finally:
        logger.removeHandler(breaking)
    assert log.failures == 1


def test_a_structlog_chain_that_breaks_fails_no_call(log: EventLog) -> None:
    def broken(*_: object) -> Any:
        raise RuntimeError

    structlog.configure(processors=[broken])
    tell(log, rejected())
    assert log.failures == 1


def test_what_is_no_exception_passes(log: EventLog, lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: logging.LogRecord) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(lines, "emit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tell(log, rejected())
    monkeypatch.undo()
    assert tell(log, rejected(policy="other"))
    assert lines.events == ["call rejected"]


def test_a_handler_may_call_guarded_functions(followed: EventLog, lines: Lines, clock: FakeClock) -> None:
    shipping = circuit_breaker("shipping", open_duration=1000)
    shipping.trip()
    again = retry(on=CircuitOpenError, attempts=2, name="shipping")
    refused: list[RejectedError] = []

    class Shipping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            try:
                again.call(shipping.call, len, "never")
            except RejectedError as error:
                refused.append(error)

    shipper = Shipping()
    logging.getLogger("resilient").addHandler(shipper)
    payments = circuit_breaker("payments", open_duration=2000)
    try:
        thread = threading.Thread(target=payments.trip)
        thread.start()
        thread.join(20)
        assert not thread.is_alive()
    finally:
        logging.getLogger("resilient").removeHandler(shipper)
    assert len(refused) == 1
    assert [record.getMessage().split(" policy_kind")[0] for record in lines.records] == [
        "circuit opened policy=shipping",
        "circuit opened policy=payments",
    ]
    clock.advance(10)
    with pytest.raises(CircuitOpenError):
        shipping.call(len, "never")
    assert lines.last["suppressed"] == 1


def test_it_survives_a_fork_in_the_middle_of_anything() -> None:
    program = """
import logging, os, threading
from resilient.telemetry.logs import EVENT_LOG
def hammer():
    at = 0.0
    while True:
        at += 3.0
        EVENT_LOG.wants("call_rejected", "bulkhead", f"files{at % 50}", at)
threading.Thread(target=hammer, daemon=True).start()
for _ in range(20):
    child = os.fork()
    if not child:
        os._exit(0 if EVENT_LOG.wants("call_rejected", "bulkhead", "other", 1.0) else 1)
    assert os.waitpid(child, 0)[1] == 0
print("fine")
"""
    assert run("import warnings; warnings.simplefilter('ignore')\n" + program) == "fine"


def test_no_secret_of_a_failing_call_is_in_any_line(followed: EventLog, lines: Lines, clock: FakeClock) -> None:
    class Client:
        def __repr__(self) -> str:
            return SECRET

    def fail(client: Client, *, password: str) -> object:
        raise ConnectionError(f"login with {password} failed: {SECRET}")

    guarded = pipeline(
        "login",
        fallback(default=SECRET, on=RejectedError),
        retry(attempts=3),
        circuit_breaker(consecutive_failures=2),
        timeout(5.0),
    )
    for _ in range(3):
        try:
            guarded.call(fail, Client(), password=SECRET)
        except (ConnectionError, ResilienceError):
            clock.advance(1)
    assert {"retry scheduled", "circuit opened", "fallback applied"} <= set(lines.events)
    assert SECRET not in repr([vars(record) for record in lines.records])


def test_a_mapping_that_can_not_be_changed_will_do(log: EventLog, lines: Lines) -> None:
    tell(log, Event("call_rejected", "bulkhead", "files", None, 1.0, MappingProxyType({"reason": "full"})))
    assert lines.last["reason"] == "full"
