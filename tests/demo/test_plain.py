"""The view for pipes and files."""

from __future__ import annotations

import pytest

from resilient.demo.plain import HEADER, PlainView, line, opening
from resilient.demo.users import Tally
from tests.demo.kit import SCRIPT, frame, report, side


def test_a_line_tells_the_second_that_has_passed() -> None:
    before = frame(14.0, retries=100)

    assert line(frame(15.0), before) == (
        "  15 failing   half-open  35%    12  38   4   2   4   25 1250   38   4   25 1250"
    )


def test_a_line_shows_a_dash_where_there_is_nothing_to_tell() -> None:
    nobody = side(last_second=Tally())

    assert line(frame(1.0, failing=None, retries=0, guarded=nobody, unguarded=nobody)) == (
        "   1 healthy   half-open    -     0   0   0   0   0    -    -    0   0    -    -"
    )


def test_columns_stand_below_their_heads() -> None:
    heads = HEADER.splitlines()[1]
    shown = line(frame(15.0))

    assert len(heads) == len(shown) <= 80
    for head in ("fail", "retry", "ok", "mem", "def", "err", "p50", "p99"):
        end = heads.index(head) + len(head)
        assert shown[end - 1].strip()
        assert shown[end : end + 1] in ("", " ")


@pytest.mark.parametrize("elapsed", [0.9, 15.0, 3600.0])
def test_lines_are_of_one_length(elapsed: float) -> None:
    assert len(line(frame(elapsed))) == len(line(frame(1.0)))


def test_the_whole_fits_into_80_columns_of_ascii_without_control_characters() -> None:
    written: list[str] = []
    view = PlainView(written.append)
    view.open(SCRIPT)
    view.show(frame(1.0))
    view.show(frame(2.0, retries=120))
    view.leave()
    view.close(report())
    text = "".join(written)

    assert text.isascii()
    assert text.endswith("\n")
    assert all(len(shown) <= 80 for shown in text.splitlines())
    assert all(char.isprintable() for char in text.replace("\n", ""))
    assert not any(shown != shown.rstrip() for shown in text.splitlines())


def test_each_line_counts_from_the_one_before() -> None:
    written: list[str] = []
    view = PlainView(written.append)
    view.show(frame(1.0, retries=10))
    view.show(frame(2.0, retries=13))

    assert [shown.split()[4] for shown in written] == ["10", "3"]


def test_the_opening_names_the_seed_that_repeats_the_run() -> None:
    assert "seed 7" in opening(SCRIPT)
