"""The line of marks: what became of the users who came in each stretch of the run."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from functools import reduce
from math import ceil
from operator import add
from typing import Final

from resilient.demo.script import Stage
from resilient.demo.users import Bin

MOSTLY: Final = 0.95


class Mark(Enum):
    """How it went; the value is the word in the legend."""

    NOBODY = ""
    ANSWERED = "answered"
    MEMORY = "from memory"
    PARTLY = "partly"
    FAILED = "failed"
    DEFAULT = "default"
    WAITING = "waiting"


FANCY: Final = {
    Mark.NOBODY: "·",
    Mark.ANSWERED: "█",
    Mark.MEMORY: "◆",
    Mark.PARTLY: "▄",
    Mark.FAILED: "×",  # noqa: RUF001 - a cross, not a letter
    Mark.DEFAULT: "○",
    Mark.WAITING: "░",
}
ASCII: Final = {
    Mark.NOBODY: ".",
    Mark.ANSWERED: "#",
    Mark.MEMORY: "m",
    Mark.PARTLY: "+",
    Mark.FAILED: "x",
    Mark.DEFAULT: "o",
    Mark.WAITING: "?",
}


def mark(stretch: Bin) -> Mark:
    """One mark for all the users of one stretch."""
    settled = stretch.came - stretch.waiting
    if stretch.waiting > settled:
        return Mark.WAITING
    if not settled:
        return Mark.NOBODY
    share = (stretch.answered + stretch.from_memory) / settled
    if share >= MOSTLY:
        return Mark.MEMORY if stretch.from_memory > stretch.answered else Mark.ANSWERED
    if share >= 0.5:
        return Mark.PARTLY
    return Mark.DEFAULT if stretch.default > stretch.failed else Mark.FAILED


def fitted(bins: Sequence[Bin], width: int) -> list[Bin]:
    """The bins, some joined where there are more of them than columns."""
    size = max(1, ceil(len(bins) / max(1, width)))
    return [reduce(add, bins[start : start + size]) for start in range(0, len(bins), size)]


def marks(bins: Sequence[Bin], width: int) -> list[Mark]:
    return [mark(stretch) for stretch in fitted(bins, width)]


def ruler(stages: Sequence[Stage], seconds: float, columns: int) -> list[tuple[Stage, str]]:
    """The names of the stages, each cut or filled to its share of the columns, with a gap after it."""
    cells = []
    for stage in stages:
        start, end = (round(at / seconds * columns) for at in (stage.start, stage.end))
        cells.append((stage, stage.name[: max(0, end - start - 1)].ljust(end - start)))
    return cells
