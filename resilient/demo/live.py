"""The view in a terminal, drawn by rich: marks, users, policies and news, and at the end the summary."""

from __future__ import annotations

from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Final, Literal

from resilient.demo import text
from resilient.demo.frame import Frame, Side, tone_of
from resilient.demo.marks import FANCY, Mark, marks, ruler
from resilient.demo.report import Report
from resilient.demo.rows import Row, Tone
from resilient.demo.savings import savings
from resilient.demo.script import WORKERS, Script
from resilient.demo.summary import comparisons, headline, verdict
from resilient.demo.users import MARKS, Bin
from resilient.demo.view import View

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

INDENT: Final = 11
WIDEST: Final = 100
LABEL: Final = 11
POLICY: Final = 16
NEWS: Final = 5

STYLES: Final[dict[Tone, str]] = {"good": "green", "warn": "yellow", "bad": "red", "calm": ""}
MARK_STYLES: Final = {
    Mark.NOBODY: "dim",
    Mark.ANSWERED: "green",
    Mark.MEMORY: "cyan",
    Mark.PARTLY: "yellow",
    Mark.FAILED: "bold red",
    Mark.DEFAULT: "magenta",
    Mark.WAITING: "dim",
}


class LiveView(View):
    """A picture that is drawn anew several times a second; the last one stays."""

    interval = 0.125

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console

        self.console = console or Console(highlight=False)
        self._live: Live | None = None

    def open(self, script: Script) -> None:
        from rich.live import Live

        self._live = Live(console=self.console, auto_refresh=False, vertical_overflow="crop")
        self._live.start()

    def show(self, frame: Frame) -> None:
        if self._live is not None:
            self._live.update(picture(frame, self._width()), refresh=True)

    def leave(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def close(self, report: Report) -> None:
        self.console.print(summary(report, self._width()))

    def _width(self) -> int:
        return min(WIDEST, self.console.width)


def picture(frame: Frame, width: int) -> RenderableType:
    """One frame, at most `width` columns wide."""
    from rich.console import Group
    from rich.text import Text

    return Group(
        _top(frame, width),
        Text(),
        _ruler(frame.script, width, frame.elapsed),
        _strip("guarded", frame.guarded.bins, width),
        _strip("unguarded", frame.unguarded.bins, width),
        _legend(),
        Text(),
        _users(frame, width),
        Text(),
        _policies(frame.rows, width),
        Text(),
        *_news(frame),
    )


def summary(report: Report, width: int) -> RenderableType:
    """The table of guarded against unguarded, and what each policy did."""
    from rich.console import Group
    from rich.text import Text

    return Group(
        Text(),
        Text(headline(report), style="bold"),
        Text(),
        _comparison(report),
        Text(),
        _savings(report, width),
        Text(),
        Text(verdict(report), style="bold"),
    )


def _top(frame: Frame, width: int) -> Text:
    """How far it is, and how the upstream is; a bar between them where there is room for it."""
    from rich.text import Text

    style = STYLES[tone_of(frame.stage)]
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append(f"{frame.elapsed:4.1f} of {frame.script.seconds:g} s  ", style="bold")
    columns = min(20, width - 70)
    if columns > 5:
        done = round(columns * min(1.0, frame.elapsed / frame.script.seconds))
        line.append("=" * done, style=style).append("-" * (columns - done) + "  ", style="dim")
    line.append("upstream ").append(frame.stage.name, style=f"bold {style}").append(f": {frame.stage.meaning}")
    return line


def _columns(width: int) -> int:
    return max(1, min(MARKS, width - INDENT))


def _ruler(script: Script, width: int, elapsed: float) -> Text:
    """The stages above their marks; those to come are dim."""
    from rich.text import Text

    line = Text(" " * INDENT, no_wrap=True)
    columns = len(marks([Bin()] * MARKS, _columns(width)))
    for stage, cell in ruler(script.stages, script.seconds, columns):
        line.append(cell, style=STYLES[tone_of(stage)] if stage.start <= elapsed else "dim")
    return line


def _strip(label: str, bins: Sequence[Bin], width: int) -> Text:
    from rich.text import Text

    line = Text(label.ljust(INDENT), no_wrap=True)
    for one in marks(bins, _columns(width)):
        line.append(FANCY[one], style=MARK_STYLES[one])
    return line


def _legend() -> Text:
    from rich.text import Text

    line = Text(" " * INDENT, no_wrap=True, overflow="ellipsis")
    for one in Mark:
        if one.value:
            line.append(f"{FANCY[one]} ", style=MARK_STYLES[one])
            line.append(f"{one.value}  ", style="dim")
    return line


def _users(frame: Frame, width: int) -> Table:
    heads = ("answered", 8), ("memory", 6), ("default", 7), ("errors", 6)
    table = _table(width, ("last 3 s", LABEL), *heads, ("p50", 6), ("p99", 6), ("waiting", 7), ("busy", 8))
    for label, side in (("guarded", frame.guarded), ("unguarded", frame.unguarded)):
        table.add_row(label, *_side(side))
    return table


def _side(side: Side) -> list[str | Text]:
    from rich.text import Text

    recent = side.recent
    return [
        text.count(recent.answered),
        text.count(recent.from_memory),
        text.count(recent.default),
        Text(text.count(recent.errors), style="red" if recent.errors > recent.answered else ""),
        text.duration(recent.p50),
        text.duration(recent.p99),
        text.count(side.waiting),
        Text(f"{side.busy} of {WORKERS}", style="yellow" if side.busy == WORKERS else ""),
    ]


def _policies(rows: list[Row], width: int) -> Table:
    """Two policies a line, the first half of them on the left."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, show_header=False)
    for size in (POLICY - 1, width // 2 - POLICY - 1) * 2:
        table.add_column(width=size, no_wrap=True, overflow="ellipsis")
    half = (len(rows) + 1) // 2
    for pair in zip_longest(rows[:half], rows[half:]):
        cells = [(Text(row.label, style="dim"), Text(row.doing, style=STYLES[row.tone])) for row in pair if row]
        table.add_row(*chain.from_iterable(cells))
    return table


def _table(width: int, *columns: tuple[str, int]) -> Table:
    """Columns of fixed widths, so that nothing moves while the numbers change."""
    from rich.table import Table

    gap = 2 if width >= 90 else 1
    table = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False, header_style="dim")
    for head, size in columns:
        side: Literal["left", "right"] = "left" if size == LABEL else "right"
        table.add_column(head, width=size, justify=side, no_wrap=True, overflow="ellipsis")
    return table


def _news(frame: Frame) -> list[Text]:
    """The latest news, oldest first; always as many lines, so that nothing below moves."""
    from rich.text import Text

    latest = [item for item in frame.news if not item.minor][-NEWS:]
    lines = [Text.assemble((f"{item.at:6.1f} s  ", "dim"), (item.text, STYLES[item.tone])) for item in latest]
    for line in lines:
        line.no_wrap, line.overflow = True, "ellipsis"
    return lines + [Text()] * (NEWS - len(lines))


def _comparison(report: Report) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("")
    for head in ("guarded", "unguarded", ""):
        table.add_column(head, justify="right", no_wrap=True)
    for row in comparisons(report):
        style = "dim" if row.detail else ""
        better = "green" if row.change.startswith("-") else "red" if row.change.startswith("+") else ""
        table.add_row(
            Text(f"  {row.label}" if row.detail else row.label, style=style),
            Text(row.guarded, style=style),
            Text(row.unguarded, style=style),
            Text(row.change, style=better),
        )
    return table


def _savings(report: Report, width: int) -> Table:
    from rich.table import Table

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.width = min(width, 90)
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column()
    for policy, sentence in savings(report):
        grid.add_row(policy, sentence)
    return grid
