"""Names and settings of an application's own metrics: what is allowed, and who has which name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from typing import Any, Final, Protocol, TypeVar

from resilient.core.checks import Checker, contradiction, refuse, same_setting
from resilient.core.fork import new_lock
from resilient.errors import ConfigurationError
from resilient.telemetry.catalogue import CATALOGUE, OVERFLOW, Kind, Metric, prometheus_label
from resilient.telemetry.collecting import Reading
from resilient.telemetry.process import PROCESS_METRICS

# What OpenTelemetry allows without `-` and `/`, which Prometheus does not.
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)*", re.ASCII)
_LABEL: Final = re.compile(r"(?!__)[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)*", re.ASCII)
_RESERVED: Final = "resilience_"
MAX_NAME: Final = 255
MAX_UNIT: Final = 63


@dataclass(frozen=True, slots=True)
class Settings:
    """The checked settings of one metric. `metric` has the overflow attribute beside the labels."""

    shown: str
    name: str
    kind: str
    unit: str
    labels: tuple[str, ...]
    metric: Metric
    bounds: tuple[float, ...] = ()
    read: Callable[[], float] | None = None
    additive: bool = False

    def compared(self) -> dict[str, object]:
        """What has to agree where the name is used again."""
        return {
            "kind": self.kind,
            "unit": self.unit,
            "labels": self.labels,
            "buckets": self.bounds,
            "read": self.read,
            "additive": self.additive,
        }


class Registered(Protocol):
    _settings: Settings

    def readings(self) -> Iterator[Reading]: ...


R = TypeVar("R", bound=Registered)

_LOCK: Final = new_lock()
_INSTRUMENTS: Final[dict[str, Any]] = {}


def check_settings(
    kind: str,
    name: str,
    unit: str,
    description: str,
    labels: Sequence[str],
    *,
    bounds: Sequence[float] | None = None,
    read: Callable[[], float] | None = None,
    additive: bool = False,
) -> Settings:
    """Settings of what the function called `kind` makes."""
    _check_name(kind, name)
    check = Checker(kind, name)
    shown = check.policy
    if not isinstance(unit, str) or len(unit) > MAX_UNIT or not unit.isascii():
        refuse(shown, "unit", unit, f"at most {MAX_UNIT} ASCII characters")
    if not isinstance(description, str):
        refuse(shown, "description", description, "a string")
    check.instance("additive", additive, bool)
    check.optional_function("read", read, "a function without arguments that gives a number, and is not async")
    names = _checked_labels(shown, kind, labels)
    if read is not None and names:
        contradiction(shown, "labels and read", (names, read), "what a function reads is one number")
    checked_bounds = () if bounds is None else _checked_bounds(shown, bounds)
    exported: Kind = "histogram" if bounds is not None else "counter" if kind == "counter" else "gauge"
    if additive:
        exported = "updown"
    metric = Metric(name, exported, unit, (*names, OVERFLOW), description)
    return Settings(shown, name, kind, unit, names, metric, checked_bounds, read, additive)


def obtain(kind: type[R], settings: Settings, make: Callable[[], R]) -> R:
    """The metric of this name if there is one, whose settings must agree, or a new one."""
    # OpenTelemetry does not tell upper and lower case apart.
    key = settings.name.lower()
    with _LOCK:
        known = _INSTRUMENTS.get(key)
        if known is None:
            _refuse_clash_locked(settings)
            made = _INSTRUMENTS[key] = make()
            return made
        _check_equal(known._settings, settings)
        if settings.read is not None:
            known._settings = settings
    assert isinstance(known, kind)
    return known


def instruments() -> list[Registered]:
    """All metrics of the application, in the order in which they were made."""
    return list(_INSTRUMENTS.copy().values())


def _check_name(kind: str, name: object) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > MAX_NAME:
        refuse(kind, "name", name, f"words of letters, digits and _ joined by dots, at most {MAX_NAME} characters")
    if name.replace(".", "_").lower().startswith(_RESERVED):
        refuse(kind, "name", name, "not under resilience., where the metrics of the policies are")
    if kind == "counter" and name.lower().endswith(("_total", ".total")):
        refuse(kind, "name", name, "a name without total at its end, which Prometheus is given anyway")


def _checked_labels(shown: str, kind: str, labels: Sequence[str]) -> tuple[str, ...]:
    allowed = "a tuple of names, of letters, digits and _"
    if isinstance(labels, str) or not isinstance(labels, Sequence):
        refuse(shown, "labels", labels, allowed)
    names = tuple(labels)
    if not all(isinstance(name, str) and _LABEL.fullmatch(name) for name in names):
        refuse(shown, "labels", names, allowed)
    taken = [prometheus_label(name) for name in (*names, OVERFLOW)]
    if len(set(taken)) < len(taken):
        refuse(shown, "labels", names, "names that differ, in Prometheus too, where dots are _")
    if "le" in names and kind in ("histogram", "timer"):
        refuse(shown, "labels", names, "names without le, which is that of the buckets")
    return names


def _checked_bounds(shown: str, bounds: Sequence[float]) -> tuple[float, ...]:
    allowed = "one or more finite numbers, each above the one before"
    if isinstance(bounds, str) or not isinstance(bounds, Sequence):
        refuse(shown, "buckets", bounds, allowed)
    known = tuple(bounds)
    if not known or not all(isinstance(bound, (int, float)) and isfinite(bound) for bound in known):
        refuse(shown, "buckets", bounds, allowed)
    if any(high <= low for low, high in pairwise(known)):
        refuse(shown, "buckets", bounds, allowed)
    return tuple(float(bound) for bound in known)


def _check_equal(known: Settings, new: Settings) -> None:
    older, newer = known.compared() | {"name": known.name}, new.compared() | {"name": new.name}
    differing = [key for key in newer if not same_setting(older[key], newer[key])]
    if not differing:
        return
    told = "; ".join(f"{key}={newer[key]!r}, registered with {key}={older[key]!r}" for key in differing)
    raise ConfigurationError(
        f"{new.shown} is already registered with other settings: {told}. Use the same settings, or another name",
        policy=new.name,
        setting=differing[0],
        value=newer[differing[0]],
        allowed=f"the registered {older[differing[0]]!r}",
    )


def _refuse_clash_locked(settings: Settings) -> None:
    """Two metrics of one name in Prometheus would be one family there, with both kinds of samples."""
    wanted = _prometheus_names(settings.metric)
    others = (*CATALOGUE, *PROCESS_METRICS, *(known._settings.metric for known in _INSTRUMENTS.values()))
    for other in others:
        shared = wanted & _prometheus_names(other)
        if shared:
            raise ConfigurationError(
                f"{settings.shown}: Prometheus would show it as {min(shared)}, as it does {other.name!r} already: "
                f"use another name",
                policy=settings.name,
                setting="name",
                value=settings.name,
                allowed="a name that no other metric has in Prometheus",
            )


def _prometheus_names(metric: Metric) -> set[str]:
    created = {f"{metric.prometheus_name}_created"} if metric.kind in ("counter", "histogram") else set[str]()
    return {metric.prometheus_name, *metric.prometheus_samples} | created
