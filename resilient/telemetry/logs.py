"""Events as log lines: rate-limited, written wherever the application reads its logs, and only there.

Lines go through structlog where the application has imported and configured it, else to a child of the standard
logger `resilient`, one for each kind of policy (`resilient.circuit_breaker`), so that each can have its level. Where
nobody has imported `logging`, nobody reads logs. Neither is imported here, let alone configured.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from resilient.context import bound
from resilient.core.events import LOG, Event

if TYPE_CHECKING:
    from logging import Logger

PERIOD: Final = 10.0
"""Seconds for which what a policy has written stands for what comes after it."""

MOST: Final = 2048
"""Kinds of events of policies that are limited one by one; those beyond share a line."""

DEBUG: Final = 10
INFO: Final = 20
WARNING: Final = 30
_METHODS: Final = {DEBUG: "debug", INFO: "info", WARNING: "warning"}


class _Rule(NamedTuple):
    """How a kind of event is written: `allowance` lines of a policy in a period."""

    words: str
    level: int
    allowance: int


# WARNING is for what somebody who is woken up has to know: calls are refused or given up, or callers get less than they
# asked for and no exception tells them. A timeout is one attempt's failure, and raises in the caller or in the retry
# around it, which tell what becomes of it. Hedges and adaptive limits do nothing but their work.
# What comes with single calls has one line, what tells of a state as many as will not flood a disk.
_RULES: Final = {
    "call_rejected": _Rule("call rejected", WARNING, 1),
    "circuit_state_changed": _Rule("circuit changed", WARNING, 100),
    "retry_scheduled": _Rule("retry scheduled", DEBUG, 100),
    "retry_exhausted": _Rule("retries exhausted", WARNING, 1),
    "timed_out": _Rule("timed out", INFO, 1),
    "fallback_applied": _Rule("fallback applied", WARNING, 1),
    "hedge_started": _Rule("hedge started", DEBUG, 100),
    "limit_changed": _Rule("limit changed", DEBUG, 100),
    "degradation_changed": _Rule("degradation changed", WARNING, 100),
    "fault_injected": _Rule("fault injected", WARNING, 1),
}
_CIRCUIT: Final = {
    "open": ("circuit opened", WARNING),
    "half_open": ("circuit half-open", INFO),
    "closed": ("circuit closed", INFO),
    "forced_open": ("circuit forced open", WARNING),
    "disabled": ("circuit disabled", WARNING),
}

# All that is ever taken from an event's data, by the name of its field. Another key stays out until it stands here.
_FIELDS: Final = {
    "after": "wait",
    "age": "age",
    "attempt": "attempt",
    "attempts": "attempts",
    "delay": "wait",
    "feature": "feature",
    "error": "error_type",
    "fault": "fault",
    "in_flight": "in_flight",
    "last_error": "error_type",
    "level": "degradation_level",
    "limit": "limit",
    "priority": "priority",
    "provider": "provider",
    "queued": "queued",
    "reason": "reason",
    "rejection_probability": "rejection_probability",
    "result": "outcome",
    "retry_after": "retry_after",
    "seconds": "seconds",
    "signal": "signal",
    "state": "state",
    "switch": "switch",
    "value": "value",
}
_CHANGES: Final = {"circuit_state_changed": "state", "limit_changed": "limit", "degradation_changed": "level"}

# Names that a bound field can't have beside ours: arguments of the loggers, and what structlog puts into an event.
# fmt: off
_TAKEN: Final = frozenset({
    "_from_structlog", "_record", "event", "exc_info", "extra", "level", "logger", "positional_args", "self",
    "stack_info", "stacklevel", "timestamp",
})
# fmt: on
_PLAIN: Final = re.compile(r"[^\s\"'=\\\x00-\x1f\x7f-\x9f]+")
_LONGEST: Final = 200

_WRITING: Final[ContextVar[bool]] = ContextVar("resilient_writing_a_log_line", default=False)


class _Window:
    """One period of a policy and kind of event: `turns` gives out its lines, `heir` holds the period after it.

    It is over, too, where time has gone back behind it: a test has put the clock away.
    """

    __slots__ = ("after", "before", "heir", "turns")

    def __init__(self, start: float, allowance: int) -> None:
        self.before = start - PERIOD
        self.after = start + PERIOD
        self.turns = repeat(True, allowance)
        self.heir: dict[None, _Window] = {}


class _Tally:
    """What became of a policy's events of one kind: those suppressed, and how many of them have been told."""

    __slots__ = ("suppressed", "told", "window")

    def __init__(self, window: _Window) -> None:
        self.window = window
        self.suppressed = 0
        self.told = 0


class EventLog:
    """Decides which events become log lines, and writes them.

    There is no lock: the application's handlers, finalizers, signal handlers and forked children come through here in
    the middle of anything. Each step is one operation that either has happened or has not.

    Attributes:
        failures: lines that the application's logging has failed to take.
    """

    __slots__ = ("_loggers", "_swept", "_tallies", "failures")

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, str, str], _Tally] = {}
        self._loggers: dict[str, Logger] = {}
        self._swept = float("-inf")
        self.failures = 0

    def wants(self, kind: str, policy_kind: str, policy: str, at: float) -> bool:
        """Is there to be a line for an event like this? Asked before the event is made; a no is counted."""
        try:
            tally = self._tallies.get((kind, policy_kind, policy))
            if tally is None:
                # Where nobody listens, nothing is kept.
                if not self._heard(kind, policy_kind):
                    return False
                tally = self._find_tally(kind, policy_kind, policy, at)
            window = tally.window
            if not window.before < at < window.after:
                # Whoever comes first makes the next period; all who see that this one is over help it into its place.
                window = tally.window = window.heir.setdefault(None, _Window(at, _RULES[kind].allowance))
            if next(window.turns, False):
                return self._heard(kind, policy_kind)
            tally.suppressed += 1
        except Exception:  # noqa: BLE001 - no call may fail for its log line
            self.failures += 1
        return False

    def write(self, event: Event) -> None:
        """Write the line. What the application's logging raises is counted, and changes no call."""
        try:
            if _WRITING.get():
                # A handler at work on one of our lines has called something guarded.
                self._find_tally(event.kind, event.policy_kind, event.policy, event.at).suppressed += 1
                return
            token = _WRITING.set(True)
            try:
                self._write(event)
            finally:
                _WRITING.reset(token)
        except Exception:  # noqa: BLE001 - no call may fail for its log line
            self.failures += 1

    def _write(self, event: Event) -> None:
        rule = _RULES[event.kind]
        words, level = rule.words, rule.level
        if event.kind == "circuit_state_changed":
            words, level = _CIRCUIT.get(str(event.data.get("to")), (words, level))
        structlog = sys.modules.get("structlog")
        if structlog is not None and structlog.is_configured():
            _write_structlog(structlog, level, words, event.policy_kind, self._fields(event))
            return
        logger = self._find_logger(event.policy_kind)
        if logger is not None and logger.isEnabledFor(level):
            fields = self._fields(event)
            pairs = " ".join(f"{key}={_shown(value)}" for key, value in fields.items())
            # Readers of JSON find the fields as attributes, readers of text in the message.
            logger.log(level, f"{words} %s", pairs, extra={"event": words, **_without_record_names(fields)})

    def _fields(self, event: Event) -> dict[str, object]:
        fields: dict[str, object] = {"policy": event.policy, "policy_kind": event.policy_kind}
        if event.operation is not None:
            fields["pipeline"] = event.operation
        fields.update(_told_by(event))
        tally = self._find_tally(event.kind, event.policy_kind, event.policy, event.at)
        suppressed = tally.suppressed
        if suppressed > tally.told:
            fields["suppressed"] = suppressed - tally.told
            tally.told = suppressed
        return {**_bound_fields(), **fields, **trace_fields()}

    def _heard(self, kind: str, policy_kind: str) -> bool:
        """May somebody read a line about this?"""
        rule = _RULES.get(kind)
        if rule is None:
            return False
        structlog = sys.modules.get("structlog")
        if structlog is not None and structlog.is_configured():
            return True
        logger = self._loggers.get(policy_kind) or self._find_logger(policy_kind)
        return logger is not None and logger.isEnabledFor(rule.level)

    def _find_tally(self, kind: str, policy_kind: str, policy: str, at: float) -> _Tally:
        key = (kind, policy_kind, policy)
        tally = self._tallies.get(key)
        if tally is not None:
            return tally
        if len(self._tallies) >= MOST:
            self._forget_idle(at)
            if len(self._tallies) >= MOST:
                key = (kind, "", "")
        return self._tallies.setdefault(key, _Tally(_Window(at, _RULES[kind].allowance)))

    def _forget_idle(self, at: float) -> None:
        if abs(at - self._swept) < PERIOD:
            return
        self._swept = at
        for key, tally in self._tallies.copy().items():
            if not tally.window.before < at < tally.window.after:
                self._tallies.pop(key, None)

    def _find_logger(self, policy_kind: str) -> Logger | None:
        logger = self._loggers.get(policy_kind)
        if logger is None:
            logging = sys.modules.get("logging")
            if logging is None:
                return None
            parent = logging.getLogger("resilient")
            if not any(isinstance(handler, logging.NullHandler) for handler in parent.handlers):
                parent.addHandler(logging.NullHandler())
            logger = self._loggers[policy_kind] = logging.getLogger(f"resilient.{policy_kind}")
        return logger


EVENT_LOG: Final = EventLog()


def trace_fields() -> dict[str, str]:
    """The ids of the current span, where OpenTelemetry has been imported and a valid span is current."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return {}
    try:
        context = trace.get_current_span().get_span_context()
    except Exception:  # noqa: BLE001 - another thread is only just importing it
        return {}
    if not context.is_valid:
        return {}
    return {
        "trace_id": f"{context.trace_id:032x}",
        "span_id": f"{context.span_id:016x}",
        "trace_flags": f"{int(context.trace_flags):02x}",
    }


def _told_by(event: Event) -> dict[str, object]:
    """What the event's data tell, in the names of our fields; short and plain, whatever the data hold."""
    told: dict[str, object] = {}
    what = _CHANGES.get(event.kind, "value")
    for key, value in event.data.items():
        name = f"{key}_{what}" if key in ("from", "to") else _FIELDS.get(key)
        if name is None or value is None:
            continue
        if isinstance(value, float):
            told[name] = round(value, 6)
        elif isinstance(value, (bool, int)):
            told[name] = value
        elif isinstance(value, str):
            told[name] = value[:_LONGEST]
    return told


def _bound_fields() -> dict[str, object]:
    fields = bound()
    if not fields:
        return {}
    from resilient.telemetry.redaction import REDACTOR

    return REDACTOR.fields({key: value for key, value in fields.items() if key not in _TAKEN})


def _write_structlog(structlog: Any, level: int, words: str, policy_kind: str, fields: Mapping[str, object]) -> None:
    try:
        logger = structlog.get_logger(f"resilient.{policy_kind}").bind()
    except TypeError:
        # A logger factory of the application's own that takes no name.
        logger = structlog.get_logger().bind()
    # An asynchronous logger has a synchronous one inside: policies don't await their log lines.
    logger = getattr(logger, "sync_bl", logger)
    getattr(logger, _METHODS[level])(words, **fields)


def _without_record_names(fields: Mapping[str, object]) -> dict[str, object]:
    """The fields that may be attributes of a log record: it refuses those that it has already."""
    record = sys.modules["logging"].makeLogRecord({}).__dict__
    return {key: value for key, value in fields.items() if key not in record and key not in ("asctime", "message")}


def _shown(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else ascii(text)


LOG.wants, LOG.write = EVENT_LOG.wants, EVENT_LOG.write
