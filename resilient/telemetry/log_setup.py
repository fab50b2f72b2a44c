"""`configure_logging`: one call at startup, after which structlog and plain `logging` write the same lines.

It belongs to applications. Libraries, this one included, only write.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Collection, Mapping, MutableMapping
from json import dumps
from pathlib import Path
from threading import Lock
from typing import Any, Final, TextIO, cast

import structlog  # noqa: TID253 - loaded by configure_logging only

from resilient.context import bound
from resilient.core.checks import Checker, refuse
from resilient.telemetry.log_sinks import FileSink, Formatter, Sink, StreamSink, instant, log_failures
from resilient.telemetry.logs import trace_fields
from resilient.telemetry.redaction import Redactor

__all__ = ["configure_logging", "log_failures"]

Fields = MutableMapping[str, Any]
Processor = Callable[[Any, str, Fields], Any]

_WHO: Final = "configure_logging"
_FIRST: Final = ("timestamp", "level", "event", "logger", "service", "version")
_OURS: Final = ("_record", "_from_structlog", "timestamp", "level")
# Several lines are what they are made of.
_LONG: Final = frozenset({"exception", "stack"})
_CONTROL: Final = {code: ascii(chr(code))[1:-1] for code in (*range(32), *range(127, 160), 0x2028, 0x2029)}
_CONTROL_IN_LINES: Final = {code: text for code, text in _CONTROL.items() if chr(code) not in "\t\n"}

_LOCK: Final = Lock()
_LEVELS_BEFORE: Final[dict[str, int]] = {}


def configure_logging(
    *,
    service: str,
    version: str | None = None,
    json: bool = True,
    level: str | int = "INFO",
    levels: Mapping[str, str | int] | None = None,
    file: str | os.PathLike[str] | None = None,
    max_bytes: int | None = 10_000_000,
    backups: int = 5,
    stream: TextIO | None = None,
    redact: Collection[str] = (),
) -> None:
    """Set up structlog and `logging` of an application: one line for each record, from whichever of the two it comes.

    A line has the timestamp (ISO 8601, UTC), level, event, logger, service and version, all that is bound by
    `resilient.context` or structlog's context variables, the ids of the current span, and the record's own fields.
    Values whose names look secret are redacted, and so is what looks like a secret in texts and tracebacks.
    Called again, it replaces what it did before. Handlers of others stay.

    Args:
        service: name of the service, in every line.
        version: its version.
        json: one JSON object a line; else text for people, in colour where the stream is a terminal and `NO_COLOR`
            isn't set.
        level: of the root logger: a name such as "INFO", or a number.
        levels: of other loggers, by name: `{"httpx": "WARNING", "resilient.retry": "DEBUG"}`.
        file: where to write to; its directory has to be there. One file belongs to one process.
        max_bytes: size at which the file is renamed to `file.1` (that to `file.2`, and so on) and begun anew; None:
            never.
        backups: how many renamed files are kept; at least 1.
        stream: where to write to; default: standard error, or nothing beside a `file`.
        redact: further names whose values are secret, in any case and with any separators.

    Raises:
        ConfigurationError: a setting is wrong, or the file can't be opened. Nothing has changed then. What can't be
            written later on is counted by `log_failures` and told once on standard error; no call fails.

    Example:
        >>> import sys
        >>> from resilient.telemetry.log_setup import configure_logging
        >>> configure_logging(service="orders", version="1.4.2", json=False, level="WARNING", stream=sys.stdout)
    """
    service = _text("service", service)
    if version is not None:
        version = _text("version", version)
    if not isinstance(json, bool):
        refuse(_WHO, "json", json, "True or False")
    root_level = _level("level", level)
    named = _levels(levels)
    redactor = Redactor(_names(redact))
    if stream is not None and not callable(getattr(stream, "write", None)):
        refuse(_WHO, "stream", stream, "a text stream, or None")

    processors = _Processors(service, version, redactor)
    sinks: list[Sink] = []
    if file is not None:
        sinks.append(_file_sink(file, max_bytes, backups))
        sinks[0].setFormatter(processors.formatter(json, colours=False))
    if file is None or stream is not None:
        sink = StreamSink(stream)
        sink.setFormatter(processors.formatter(json, colours=_in_colour(stream)))
        sinks.append(sink)

    with _LOCK:
        _replace_sinks(sinks)
        _set_levels(root_level, named)
        structlog.configure(
            processors=processors.of_structlog(),
            wrapper_class=structlog.stdlib.BoundLogger,
            logger_factory=structlog.stdlib.LoggerFactory(),
            context_class=dict,
            # A logger made before a second call has to follow it, above all in what it redacts.
            cache_logger_on_first_use=False,
        )


class _Processors:
    """The chains of structlog processors: what both kinds of records pass, each kind's beginning, and the end."""

    def __init__(self, service: str, version: str | None, redactor: Redactor) -> None:
        self._redactor = redactor
        self._service = {"service": service} if version is None else {"service": service, "version": version}

    def of_structlog(self) -> list[Processor]:
        stdlib = structlog.stdlib
        # Redacted before it reaches `logging`, so that handlers of others get no secrets either.
        return [stdlib.filter_by_level, _with_arguments, *self._shared(), stdlib.ProcessorFormatter.wrap_for_formatter]

    def formatter(self, json: bool, *, colours: bool) -> Formatter:
        end: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, _in_order]
        if json:
            end.append(cast(Processor, structlog.processors.JSONRenderer(serializer=dumps)))
        else:
            plain = structlog.dev.plain_traceback
            end += [
                _without_controls,
                structlog.dev.ConsoleRenderer(colors=colours, sort_keys=False, exception_formatter=plain),
            ]
        start: list[Processor] = [structlog.stdlib.ExtraAdder(), _without_leavings, *self._shared()]
        return Formatter(self._redactor, self._service, foreign_pre_chain=start, processors=end)

    def _shared(self) -> list[Processor]:
        return [
            _merge_bound,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.add_log_level,
            self._add_surroundings,
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            self._redact,
        ]

    def _add_surroundings(self, logger: Any, method: str, fields: Fields) -> Fields:
        record = fields.get("_record")
        fields["timestamp"] = instant(None if record is None else record.created)
        for name, value in bound().items():
            fields.setdefault(name, value)
        fields.update(self._service)
        fields.update(trace_fields())
        return fields

    def _redact(self, logger: Any, method: str, fields: Fields) -> Fields:
        kept = {name: fields.pop(name) for name in _OURS if name in fields}
        return {**self._redactor.fields(fields), **kept}


def _with_arguments(logger: Any, method: str, fields: Fields) -> Fields:
    """`log.info("%s came", who)`; arguments that don't fit the text stand after it, and fail nobody."""
    arguments = fields.pop("positional_args", ())
    if arguments:
        only = arguments[0]
        values = only if len(arguments) == 1 and isinstance(only, dict) and only else arguments
        try:
            fields["event"] = fields["event"] % values
        except Exception:  # noqa: BLE001 - a wrong log call is no reason for its caller to fail
            fields["arguments"] = arguments
    return fields


def _without_leavings(logger: Any, method: str, fields: Fields) -> Fields:
    """What the formatter of another handler has left on the record looks like a field of its own."""
    fields.pop("message", None)
    fields.pop("asctime", None)
    return fields


def _in_order(logger: Any, method: str, fields: Fields) -> Fields:
    return {**{name: fields[name] for name in _FIRST if name in fields}, **fields}


def _without_controls(logger: Any, method: str, fields: Fields) -> Fields:
    """Nothing that was logged may begin a line of its own on the screen, or move the cursor."""
    return {
        name.translate(_CONTROL): value.translate(_CONTROL_IN_LINES if name in _LONG else _CONTROL)
        if isinstance(value, str)
        else value
        for name, value in fields.items()
    }


def _text(setting: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        refuse(_WHO, setting, value, "a string that is not empty")
    return value


def _level(setting: str, value: object) -> int:
    known = logging.getLevelNamesMapping()
    if isinstance(value, str) and value.upper() in known:
        return known[value.upper()]
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    refuse(_WHO, setting, value, "a number of at least 0, or one of " + ", ".join(known))


def _levels(levels: object) -> dict[str, int]:
    if levels is None:
        return {}
    if not isinstance(levels, Mapping) or not all(isinstance(name, str) and name for name in levels):
        refuse(_WHO, "levels", levels, "a mapping of the names of loggers to levels")
    return {name: _level(f"levels[{name!r}]", level) for name, level in levels.items()}


def _names(redact: object) -> list[str]:
    names = [] if isinstance(redact, (str, bytes)) or not isinstance(redact, Collection) else list(redact)
    fit = [name for name in names if isinstance(name, str) and any(char.isascii() and char.isalnum() for char in name)]
    if len(fit) < len(names) or (not names and redact not in ((), [], set(), frozenset())):
        refuse(_WHO, "redact", redact, "a collection of names with letters or digits in them")
    return fit


def _file_sink(file: object, max_bytes: object, backups: object) -> FileSink:
    check = Checker(_WHO)
    size = 0 if max_bytes is None else check.whole("max_bytes", max_bytes)
    kept = check.whole("backups", backups)
    if not isinstance(file, (str, os.PathLike)) or not os.fspath(file):
        refuse(_WHO, "file", file, "a path, or None")
    try:
        return FileSink(Path(cast("str | os.PathLike[str]", file)), size, kept)
    except (OSError, ValueError) as error:
        refuse(_WHO, "file", file, f"a file that can be opened ({getattr(error, 'strerror', None) or error})")


def _in_colour(stream: TextIO | None) -> bool:
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    try:
        return bool(cast(TextIO, sys.stderr if stream is None else stream).isatty())
    except (AttributeError, ValueError):
        # No stream at all, one with less than a file has, or a closed one.
        return False


def _replace_sinks(sinks: list[Sink]) -> None:
    root = logging.getLogger()
    before = [handler for handler in root.handlers if isinstance(handler, Sink)]
    # A new list, so that whoever is going through the old one gets to its end.
    root.handlers = [*(handler for handler in root.handlers if not isinstance(handler, Sink)), *sinks]
    for sink in before:
        sink.close()


def _set_levels(root: int, named: Mapping[str, int]) -> None:
    for name, level in _LEVELS_BEFORE.items():
        logging.getLogger(name).setLevel(level)
    _LEVELS_BEFORE.clear()
    for name, level in {**named, "": root}.items():
        logger = logging.getLogger(name)
        _LEVELS_BEFORE[name] = logger.level
        logger.setLevel(level)


def _merge_bound(logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """What structlog's own `merge_contextvars` does, in an order that does not change from line to line."""
    for key, value in sorted(structlog.contextvars.get_contextvars().items()):
        event.setdefault(key, value)
    return event
