"""An application's own metrics: a name, and the series that it has."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

from resilient.core.fork import new_lock, renew_after_fork
from resilient.core.meters import error_type
from resilient.pipeline import F
from resilient.telemetry.app_series import Bound, BoundCounter, BoundGauge, BoundHistogram, finite
from resilient.telemetry.app_settings import Settings, instruments
from resilient.telemetry.app_timer import BoundTimer
from resilient.telemetry.collecting import MAX_SERIES, SOURCES, Reading

MAX_LABEL_LENGTH: Final = 256
"""Characters of a label's value that are kept."""

B = TypeVar("B", bound=Bound)


class Instrument(Generic[B]):
    """What the metrics of an application share: a name, and a series for each combination of label values."""

    __slots__ = ("__weakref__", "_lock", "_make", "_names", "_only", "_overflow", "_series", "_settings")

    def __init__(self, settings: Settings, make: Callable[[], B]) -> None:
        self._settings = settings
        self._names = settings.labels
        self._make = make
        self._lock = new_lock()
        self._series: dict[tuple[str, ...], B] = {}
        self._overflow: B | None = None
        # The one series of a metric without labels.
        self._only = make() if not self._names and settings.read is None else None
        if self._only is not None:
            self._series[()] = self._only
        renew_after_fork(self)

    @property
    def name(self) -> str:
        """The name in OpenTelemetry."""
        return self._settings.name

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    def labels(self, /, **labels: str) -> B:
        """The series of these label values, for hot paths: look it up once, update it often.

        Beyond 1,000 series all further ones are one, which has the label `otel_metric_overflow`.

        Raises:
            TypeError: a label is missing, there is one too many, or a value is no string.
        """
        return self._bound(labels)

    def _bound(self, labels: Mapping[str, str]) -> B:
        names = self._names
        if len(labels) == len(names):
            try:
                key = tuple([labels[name] for name in names])
            except KeyError:
                raise self._mislabelled(labels) from None
            try:
                return self._series[key]
            except (KeyError, TypeError):  # new, or no string
                return self._found_or_made(key)
        raise self._mislabelled(labels)

    def _found_or_made(self, key: tuple[str, ...]) -> B:
        key = tuple([self._clean(name, value) for name, value in zip(self._names, key, strict=True)])
        with self._lock:
            known = self._series.get(key)
            if known is None:
                if self._settings.read is not None:
                    raise TypeError(f"{self._settings.shown} is read by its function: there is nothing to set")
                if len(self._series) < MAX_SERIES:
                    known = self._series[key] = self._make()
                else:
                    known = self._overflow = self._overflow or self._make()
            return known

    def _clean(self, name: str, value: object) -> str:
        if not isinstance(value, str):
            raise TypeError(
                f"{self._settings.shown}: the label {name} is {value!r}, a {type(value).__qualname__}: give a string"
            )
        # Without what UTF-8 can't hold: one such label would break the export of all metrics.
        return value[:MAX_LABEL_LENGTH].encode(errors="replace").decode()

    def _mislabelled(self, labels: Mapping[str, object]) -> TypeError:
        wanted, given = ", ".join(self._names) or "none", ", ".join(labels) or "none"
        return TypeError(f"{self._settings.shown} has these labels: {wanted}; given: {given}")

    def readings(self) -> Iterator[Reading]:
        """All series; the one of the surplus last."""
        metric, without = self._settings.metric, (None,) * len(self._names)
        if self._settings.read is not None:
            answer = _answer(self._settings.shown, self._settings.read)
            if answer is not None:
                yield metric, (None,), answer
        for key, series in self._series.copy().items():
            value = series.read()
            if value is not None:
                yield metric, (*key, None), value
        overflow = None if self._overflow is None else self._overflow.read()
        if overflow is not None:
            yield metric, (*without, "true"), overflow

    def after_fork(self, now: float) -> None:
        for series in self._series.values():
            series.begin_anew()
        if self._overflow is not None:
            self._overflow.begin_anew()


class Counter(Instrument[BoundCounter]):
    """A number that only grows. Made by `counter(...)`."""

    __slots__ = ()

    def add(self, amount: float = 1, /, **labels: str) -> None:
        """Count `amount` more in the series of these labels.

        Raises:
            ValueError: it is negative, infinite or NaN.
            TypeError: the labels are not those of the counter.
        """
        series = self._only
        if series is None or labels:
            series = self._bound(labels)
        series.add(amount)


class Gauge(Instrument[BoundGauge]):
    """A number that goes up and down. Made by `gauge(...)`."""

    __slots__ = ()

    def set(self, value: float, /, **labels: str) -> None:
        """From now on the value in the series of these labels is this.

        Raises:
            ValueError: it is infinite or NaN.
            TypeError: the labels are not those of the gauge, or it is read by a function.
        """
        series = self._only
        if series is None or labels:
            series = self._bound(labels)
        series.set(value)

    def add(self, amount: float = 1, /, **labels: str) -> None:
        """The value is this much higher, or lower where `amount` is negative. Raises what `set` does."""
        series = self._only
        if series is None or labels:
            series = self._bound(labels)
        series.add(amount)


class Histogram(Instrument[BoundHistogram]):
    """How often values fell into each bucket, and their sum. Made by `histogram(...)`."""

    __slots__ = ()

    def observe(self, value: float, /, **labels: str) -> None:
        """Count a value in the series of these labels.

        Raises:
            ValueError: it is negative, infinite or NaN.
            TypeError: the labels are not those of the histogram.
        """
        series = self._only
        if series is None or labels:
            series = self._bound(labels)
        series.observe(value)


class Timer(Instrument[BoundTimer]):
    """A histogram of seconds that measures by itself. Made by `timer(...)`."""

    __slots__ = ()

    def observe(self, seconds: float, /, **labels: str) -> None:
        """Count what has been measured elsewhere, in the series of these labels.

        Raises:
            ValueError: it is negative, infinite or NaN.
            TypeError: the labels are not those of the timer.
        """
        series = self._only
        if series is None or labels:
            series = self._bound(labels)
        series.observe(seconds)

    def __call__(self, function: F, /) -> F:
        """Time each call of a function, however it ends; it keeps its name, signature, kind and type.

        Raises:
            TypeError: what is decorated is no function, or a generator function; the timer has labels.
        """
        return self._bound({})(function)

    def __enter__(self) -> Self:
        (self._only or self._bound({})).enter(sys._getframe(1))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        (self._only or self._bound({})).exit(sys._getframe(1))


def _answer(shown: str, read: Callable[[], float]) -> float | None:
    """What a gauge's function gives. Nothing that it does may cost the numbers of others."""
    try:
        value = finite(shown, "read", read())
    except Exception as error:  # noqa: BLE001
        if shown not in _BROKEN:
            import logging

            _BROKEN.add(shown)
            logging.getLogger("resilient.telemetry").debug("the function of %s fails: %s", shown, error_type(error))
        return None
    _BROKEN.discard(shown)
    return value


def _read() -> Iterator[Reading]:
    for instrument in instruments():
        yield from instrument.readings()


_BROKEN: Final[set[str]] = set()
SOURCES.append(_read)
