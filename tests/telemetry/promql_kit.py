"""What an expression of PromQL names, read from its text, against what the catalogue has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from resilient.telemetry.catalogue import CATALOGUE, Metric, prometheus_label
from resilient.telemetry.values import values_of

ADDED_BY_PROMETHEUS = {"job", "instance"}
WORDS = {"and", "bool", "by", "offset", "on", "or", "unless"}

SAMPLES: dict[str, Metric] = {name: metric for metric in CATALOGUE for name in metric.prometheus_samples}

_SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)?\{([^{}]*)\}")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
_GROUPING = re.compile(r"\b(?:by|on|without|ignoring)\s*\(([^()]*)\)")
_WORD = re.compile(r"\b[a-zA-Z_:][\w:]*\b(?!\s*\()")


@dataclass
class Named:
    """The names of samples, the labels that each is selected by, and those that are kept, the outermost first."""

    samples: set[str] = field(default_factory=set)
    matchers: list[tuple[str, str, str]] = field(default_factory=list)
    kept: list[set[str]] = field(default_factory=list)


def named(expression: str) -> Named:
    found = Named()
    rest = re.sub(r"\[[^\[\]]*\]", "", expression)
    for name, inside in _SELECTOR.findall(rest):
        matchers = _MATCHER.findall(inside)
        assert ",".join(f'{label}{sign}"{value}"' for label, sign, value in matchers) == inside
        names = [name]
        if not name:
            label, sign, value = matchers.pop(0)
            assert (label, sign) == ("__name__", "=~")
            names = value.split("|")
        found.samples.update(names)
        found.matchers += [(one, label, value) for one in names for label, _, value in matchers]
    rest = _SELECTOR.sub("", rest)
    for inside in _GROUPING.findall(rest):
        found.kept.append({label.strip() for label in inside.split(",")})
    rest = _GROUPING.sub("", rest)
    found.samples.update(set(_WORD.findall(rest)) - WORDS)
    return found


def unknown(expression: str, recorded: frozenset[str] = frozenset()) -> Iterator[str]:
    """What the expression names and the catalogue has not got. `recorded` are names that rules have given."""
    found = named(expression)
    if not found.samples:
        yield f"no metric in {expression}"
    kept = set(ADDED_BY_PROMETHEUS)
    for name in found.samples - recorded:
        if name in SAMPLES:
            kept |= labels_of(name)
        else:
            yield f"metric {name}"
    if not found.samples & recorded:
        yield from (f"kept label {label}" for label in sorted(set().union(*found.kept) - kept))
    for name, label, pattern in found.matchers:
        if name not in SAMPLES:
            continue
        if label not in labels_of(name):
            yield f"label {label} of {name}"
        elif not pattern.startswith("$"):
            yield from (f"{label}={value!r} of {name}" for value in set(pattern.split("|")) - values(name, label))


def labels_of(name: str) -> set[str]:
    own = {prometheus_label(attribute) for attribute in SAMPLES[name].attributes}
    return own | ADDED_BY_PROMETHEUS | ({"le"} if name.endswith("_bucket") else set())


def values(name: str, label: str) -> set[str]:
    metric = SAMPLES[name]
    (attribute,) = (attribute for attribute in metric.attributes if prometheus_label(attribute) == label)
    return set(values_of(metric, attribute) or ())
