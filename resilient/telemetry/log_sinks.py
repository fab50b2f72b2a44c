"""Where log lines end up: a stream, or a rotating file. What can't be written is counted and fails nobody."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from io import FileIO
from logging.handlers import RotatingFileHandler
from pathlib import Path
from threading import Lock
from typing import Any, Final, TextIO

from structlog.stdlib import ProcessorFormatter  # noqa: TID253 - loaded by configure_logging only

from resilient.telemetry.redaction import Redactor


class _Failures:
    """Lines that could not be written, of all sinks that this process has had."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = Lock()

    def add(self) -> None:
        with self._lock:
            self.count += 1


_FAILURES: Final = _Failures()


def log_failures() -> int:
    """How many lines this process could not write to the sinks of `configure_logging`."""
    return _FAILURES.count


class _Unfinished(OSError):
    """The system has taken a part of a line."""


class Sink(logging.Handler):
    """A handler that `configure_logging` made, and takes away when it is called again."""

    where = "the log"
    _told = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.put(self.format(record))
        except Exception as error:  # noqa: BLE001 - nobody's call may fail for its log line
            self.failed(error)

    def put(self, line: str) -> None:
        """Write one line; under the handler's lock."""
        raise NotImplementedError  # each sink has its own

    def failed(self, error: BaseException | None) -> None:
        """Count it, and tell it the first time. What was to be written stays out: it may not be redacted yet."""
        _FAILURES.add()
        if self._told:
            return
        self._told = True
        # The text of other errors may hold what was to be written.
        cause = str(error) if isinstance(error, _Unfinished) else getattr(error, "strerror", None)
        cause = cause or type(error).__name__
        try:
            print(f"resilient: can't write to {self.where}: {cause}; from here on only counted", file=sys.stderr)  # noqa: T201
        except Exception:  # noqa: BLE001 - there is nobody left to tell
            return

    def handleError(self, record: logging.LogRecord) -> None:
        self.failed(sys.exc_info()[1])


class StreamSink(Sink):
    """Writes to a stream; without one to what is `sys.stderr` at the time."""

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__()
        self._stream = stream
        self.where = "standard error" if stream is None else "the log stream"

    def put(self, line: str) -> None:
        stream = sys.stderr if self._stream is None else self._stream
        if stream is None:
            return
        try:
            stream.write(line + "\n")
        except UnicodeEncodeError:
            stream.write(line.encode("ascii", "backslashreplace").decode("ascii") + "\n")
        stream.flush()


class FileSink(Sink, RotatingFileHandler):
    """Writes to a file, which is renamed to `file.1` and begun anew before it grows beyond its size.

    Lines go out whole and unbuffered: what a full disk has refused doesn't come out later in the middle of another.
    """

    def __init__(self, path: Path, max_bytes: int, backups: int) -> None:
        self._torn = False
        RotatingFileHandler.__init__(self, path, maxBytes=max_bytes, backupCount=backups)
        self.where = self.baseFilename
        # The lines that a process before this one has left unfinished.
        self._torn = _ends_in_a_line(path)

    def _open(self) -> Any:
        return FileIO(self.baseFilename, "a")

    def emit(self, record: logging.LogRecord) -> None:
        Sink.emit(self, record)

    def put(self, line: str) -> None:
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        if self.stream is None:
            self.stream = self._open()
        file: Any = self.stream
        if self.maxBytes:
            size = os.fstat(file.fileno()).st_size
            if size and size + len(data) > self.maxBytes:
                file = self._rotated()
        if self._torn:
            data = b"\n" + data
        written = file.write(data)
        self._torn = written < len(data)
        if self._torn:
            raise _Unfinished("not all of the line could be written")

    def _rotated(self) -> Any:
        try:
            self.doRollover()
        except OSError as error:
            # Better a file that is too long than lines that are lost.
            self.failed(error)
        if self.stream is None or self.stream.closed:
            self.stream = self._open()
        return self.stream


class Formatter(ProcessorFormatter):
    """structlog's, with a line in the end for records that can't be formatted."""

    def __init__(self, redactor: Redactor, always: Mapping[str, str], **options: Any) -> None:
        super().__init__(**options)
        self._redactor = redactor
        self._always = always

    def format(self, record: logging.LogRecord) -> str:
        try:
            return super().format(record)
        except Exception as error:  # noqa: BLE001 - wrong arguments of a log call, or a processor that fails
            return self._as_it_is(record, error)

    def _as_it_is(self, record: logging.LogRecord, error: Exception) -> str:
        """The message without its arguments."""
        fields: dict[str, object] = {
            "timestamp": instant(record.created),
            "level": record.levelname.lower(),
            "event": self._redactor.value(record.msg),
            "logger": record.name,
            **self._always,
            "formatting_error": type(error).__name__,
            "_record": record,
            "_from_structlog": False,
        }
        rendered: Any = fields
        for processor in self.processors:
            rendered = processor(None, record.levelname.lower(), rendered)
        return str(rendered)


def instant(seconds: float | None = None) -> str:
    """A moment of the wall clock, now by default, as in ISO 8601."""
    moment = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _ends_in_a_line(path: Path) -> bool:
    if not path.is_file() or not path.stat().st_size:
        return False
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) != b"\n"
