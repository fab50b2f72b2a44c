"""What a scenario saw, whether that is right, and how it is printed."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import partial
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from typing import Any, TypeVar

T = TypeVar("T")

OURS = "resilient"
PEERS = (
    "tenacity",
    "stamina",
    "backoff",
    "pybreaker",
    "circuitbreaker",
    "aiobreaker",
    "purgatory",
    "hyx",
    "pyfailsafe",
    "interlock-cb",
    "pyresilience",
    "aiolimiter",
    "limits",
    "pyrate-limiter",
)
LIBRARIES = (OURS, *PEERS)


class Verdict(StrEnum):
    RIGHT = "right"
    DOCUMENTED = "documented"
    """Not what the scenario asks for, and its documentation says so."""
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Row:
    peer: str
    form: str
    happened: str
    verdict: Verdict


Case = tuple[str, str, Callable[[], tuple[str, Verdict]]]
"""A library, the form in which it is used, and the scenario in that form."""


def judge(right: bool) -> Verdict:
    return Verdict.RIGHT if right else Verdict.WRONG


def on_a_loop(scenario: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
    return asyncio.run(scenario(*args))


def documented(cases: list[Case], *libraries: str) -> list[Case]:
    """The same cases; what is wrong in these libraries is what their documentation announces."""

    def soften(scenario: Callable[[], tuple[str, Verdict]]) -> tuple[str, Verdict]:
        happened, verdict = scenario()
        return happened, Verdict.DOCUMENTED if verdict is Verdict.WRONG else verdict

    return [
        (library, form, partial(soften, scenario) if library in libraries else scenario)
        for library, form, scenario in cases
    ]


def version(library: str) -> str | None:
    try:
        return version_of("resilient-py" if library == OURS else library)
    except PackageNotFoundError:
        return None


def rows_of(cases: list[Case]) -> list[Row]:
    """Ours first, then the peers in their usual order; those that are not installed are left out."""
    here = [case for case in cases if version(case[0]) is not None]
    here.sort(key=lambda case: LIBRARIES.index(case[0]))
    return [Row(library, form, *scenario()) for library, form, scenario in here]


def aligned(table: list[list[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()


def main(doc: str | None, cases: list[Case]) -> None:
    """A script of one scenario: its table, or with `--json` its rows for the one that runs them all."""
    rows = rows_of(cases)
    if "--json" in sys.argv[1:]:
        print(json.dumps([asdict(row) for row in rows]))
        return
    print((doc or "").strip(), end="\n\n")
    table = [["library", "version", "used as", "what happened", ""]]
    table += [[row.peer, version(row.peer) or "", row.form, row.happened, row.verdict] for row in rows]
    print(*aligned(table), sep="\n")
