"""The picture that rich draws."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from resilient.core.events import Event
from resilient.demo.frame import News, news_of, news_of_stage, tone_of
from resilient.demo.live import LiveView, picture, summary
from resilient.demo.users import MARKS, Bin
from tests.demo.kit import SCRIPT, frame, report, side


def drawn(renderable: object, width: int, *, colour: bool = False) -> list[str]:
    out = StringIO()
    console = Console(
        file=out, width=width, force_terminal=colour, color_system="truecolor" if colour else None, highlight=False
    )
    console.print(renderable)
    return out.getvalue().splitlines()


@pytest.mark.parametrize("width", [60, 80, 110])
def test_the_picture_fits_into_the_terminal(width: int) -> None:
    lines = drawn(picture(frame(), width), width)

    assert all(len(line.rstrip()) <= width for line in lines)
    assert len(lines) <= 23


def test_nothing_is_cut_at_80_columns() -> None:
    assert not any("…" in line for line in drawn(picture(frame(), 80), 80))
    for stage in SCRIPT.stages:
        assert not any("…" in line for line in drawn(picture(frame(stage.start), 80), 80))


def test_the_picture_keeps_its_height_while_news_come() -> None:
    few = drawn(picture(frame(news=[]), 80), 80)
    many = drawn(picture(frame(news=[News(1.0, "something")] * 9), 80), 80)

    assert len(few) == len(many)


def test_the_picture_tells_stage_marks_users_policies_and_news() -> None:
    lines = drawn(picture(frame(), 80), 80)
    text = "\n".join(lines)

    assert "15.0 of 30 s" in lines[0]
    assert "upstream failing: two of five answers are 503" in lines[0]
    assert "guarded    " + "█" * 30 + "·" * 30 in text
    assert "guarded           38      4       2      4  25 ms  1.2 s       5 12 of 12" in text
    assert "policy 5        5 calls                 circuit breaker open 0.8 s, 100 % fail" in text
    assert "12.0 s  circuit breaker opened: 12 failures in a row" in text


def test_an_outage_is_seen_in_the_marks() -> None:
    memory, default = [Bin(9, from_memory=9)] * 5, [Bin(9, default=9)] * 5
    bins = (*[Bin(9, 9)] * 20, *[Bin(9, failed=9)] * 10, *memory, *default, *[Bin(9)] * 5, *[Bin()] * 15)
    assert len(bins) == MARKS

    lines = drawn(picture(frame(guarded=side(bins=bins)), 80), 80)

    assert lines[3].rstrip() == "guarded    " + "█" * 20 + "×" * 10 + "◆" * 5 + "○" * 5 + "░" * 5 + "·" * 15  # noqa: RUF001


def test_colours_come_only_where_they_are_wanted() -> None:
    assert "\x1b[" in "".join(drawn(picture(frame(), 80), 80, colour=True))
    assert "\x1b" not in "".join(drawn(picture(frame(), 80), 80))


def test_minor_news_are_left_out() -> None:
    text = "\n".join(drawn(picture(frame(news=[News(1.0, "half-open", minor=True), News(2.0, "opened")]), 80), 80))

    assert "opened" in text
    assert "half-open" not in text


@pytest.mark.parametrize("width", [60, 80, 110])
def test_the_summary_fits_into_the_terminal(width: int) -> None:
    lines = drawn(summary(report(), width), width)

    assert all(len(line.rstrip()) <= width for line in lines)
    assert any("errors seen by users" in line for line in lines)


def test_the_view_gives_the_terminal_back_however_it_ends() -> None:
    out = StringIO()
    view = LiveView(Console(file=out, width=80, force_terminal=True))
    view.open(SCRIPT)
    view.show(frame())
    assert "\x1b[?25l" in out.getvalue()

    view.leave()
    view.leave()

    assert out.getvalue().rindex("\x1b[?25h") > out.getvalue().rindex("\x1b[?25l")
    view.close(report())
    assert "Summary" in out.getvalue()


def test_what_the_breaker_does_is_told_in_words() -> None:
    def event(after: str, **data: object) -> Event:
        told = {"from": "closed", "to": after, "reason": "5 failures in a row", "last_error": None, **data}
        return Event("circuit_state_changed", "circuit_breaker", "inventory", None, 12.5, told)

    assert news_of(event("open", last_error="OSError"), 10.0) == News(
        2.5, "circuit breaker opened: 5 failures in a row (OSError)", "bad"
    )
    assert news_of(event("open"), 10.0).text == "circuit breaker opened: 5 failures in a row"
    assert news_of(event("half_open"), 10.0).minor
    assert news_of(event("closed", reason="2 of 2 probes succeeded"), 10.0) == News(
        2.5, "circuit breaker closed: 2 of 2 probes succeeded", "good"
    )


def test_stages_have_the_tone_of_their_health() -> None:
    assert [tone_of(stage) for stage in SCRIPT.stages] == ["good", "warn", "warn", "bad", "bad", "good"]
    assert news_of_stage(SCRIPT.stages[3]).text == "upstream down: refuses connections"
