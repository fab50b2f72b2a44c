"""The line of marks, and the ruler above it."""

from __future__ import annotations

import pytest

from resilient.demo.marks import ASCII, FANCY, Mark, fitted, mark, marks, ruler
from resilient.demo.script import Script
from resilient.demo.users import MARKS, Bin


@pytest.mark.parametrize(
    "stretch, expected",
    [
        (Bin(), Mark.NOBODY),
        (Bin(came=20), Mark.WAITING),
        (Bin(came=20, answered=9), Mark.WAITING),
        (Bin(came=20, answered=20), Mark.ANSWERED),
        (Bin(came=20, answered=19, failed=1), Mark.ANSWERED),
        (Bin(came=20, answered=18, failed=2), Mark.PARTLY),
        (Bin(came=20, answered=10, failed=10), Mark.PARTLY),
        (Bin(came=20, answered=9, failed=11), Mark.FAILED),
        (Bin(came=20, answered=10, from_memory=10), Mark.ANSWERED),
        (Bin(came=20, answered=9, from_memory=11), Mark.MEMORY),
        (Bin(came=20, from_memory=19, default=1), Mark.MEMORY),
        (Bin(came=20, from_memory=18, default=2), Mark.PARTLY),
        (Bin(came=20, answered=2, failed=9, default=9), Mark.FAILED),
        (Bin(came=20, failed=9, default=11), Mark.DEFAULT),
        (Bin(came=20, answered=10), Mark.ANSWERED),
    ],
)
def test_a_mark_tells_what_became_of_most_users_of_its_stretch(stretch: Bin, expected: Mark) -> None:
    assert mark(stretch) is expected


def test_marks_are_told_apart_without_colours() -> None:
    for glyphs in (ASCII, FANCY):
        assert set(glyphs) == set(Mark)
        assert len(set(glyphs.values())) == len(Mark)
        assert all(len(glyph) == 1 for glyph in glyphs.values())
    assert all(glyph.isascii() for glyph in ASCII.values())


@pytest.mark.parametrize("width", [1, 7, 20, 59, 60, 200])
def test_a_narrow_terminal_joins_stretches_and_loses_nobody(width: int) -> None:
    bins = [Bin(came=index, answered=index) for index in range(MARKS)]

    joined = fitted(bins, width)

    assert len(joined) <= max(1, min(MARKS, width))
    assert sum(stretch.came for stretch in joined) == sum(range(MARKS))
    assert len(marks(bins, width)) == len(joined)


def test_every_stage_is_named_above_its_marks() -> None:
    script = Script(30.0, 1)

    cells = ruler(script.stages, 30.0, MARKS)

    assert sum(len(cell) for _, cell in cells) == MARKS
    assert [cell.strip() for _, cell in cells] == [stage.name for stage in script.stages]


def test_a_narrow_ruler_cuts_names_and_keeps_a_gap_between_them() -> None:
    script = Script(30.0, 1)

    line = "".join(cell for _, cell in ruler(script.stages, 30.0, 20))

    assert len(line) == 20
    assert len(line.split()) == len(script.stages)
