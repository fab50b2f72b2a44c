"""The ratios as a picture for the documentation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from benchmarks.peers.case import BY_HAND, OURS, Case
from benchmarks.peers.results import Results, Row, all_rows
from benchmarks.peers.table import shown_cost

# Half-way between black and white: the background is that of the page, and may be either.
INK = "#7a828c"
OURS_COLOUR = "#2f81f7"
DEARER_COLOUR = "#d98a1f"
THEIRS_COLOUR = "#8b949e"
LONGEST = 1.3
"""Bars beyond that are cut off; the ratio stands beside each."""


def bars(results: Results, cases: Sequence[Case]) -> list[Row]:
    """For each case in the picture the first goal that names somebody."""
    found: list[Row] = []
    for row in all_rows(results, [case for case in cases if case.shown]):
        named = row.goal is not None and row.other is not None and row.against != BY_HAND and row.ours == OURS
        if named and all(row.case is not other.case for other in found):
            found.append(row)
    return found


def draw(runs: Sequence[Results], cases: Sequence[Case], path: Path) -> None:
    """Each bar is what ours adds to a call, as a share of what the other adds; in another colour where that is more."""
    results = runs[0]
    rows = bars(results, cases)
    if not rows:
        raise SystemExit("none of these cases has a place in the picture")
    settings: Any = {"svg.fonttype": "path", "svg.hashsalt": "resilient", "font.size": 9.5, "text.color": INK}
    with mpl.rc_context(settings):
        figure = Figure(figsize=(9.0, 0.46 * len(rows) + 1.0))
        axes = figure.add_axes((0.39, 0.62 / figure.get_figheight(), 0.38, 1 - 0.72 / figure.get_figheight()))
        for place, row in enumerate(reversed(rows)):
            colour = DEARER_COLOUR if row.value > 1 else OURS_COLOUR
            length = min(row.value, LONGEST)
            axes.barh(place, 1.0, height=0.62, color=THEIRS_COLOUR, alpha=0.28, linewidth=0)
            axes.barh(place, length, height=0.62, color=colour, linewidth=0)
            if row.limit is not None:
                axes.plot([row.limit] * 2, [place - 0.42, place + 0.42], color=INK, linewidth=1.6)
            if row.value > LONGEST:
                axes.text(LONGEST - 0.015, place, "→", va="center", ha="right", color="white", fontweight="bold")
            costs = f"{shown_cost(row.cost, 'second')} : {shown_cost(row.other, 'second')}"
            axes.text(-0.03, place + 0.16, row.case.title, va="center", ha="right")
            axes.text(-0.03, place - 0.2, f"against {row.against}", va="center", ha="right", fontsize=8)
            axes.text(LONGEST + 0.14, place, f"{row.value:.2f}", va="center", ha="right", fontweight="bold")
            axes.text(LONGEST + 0.18, place, costs, va="center", ha="left", fontsize=8)
        axes.axvline(1.0, color=INK, linewidth=0.8)
        axes.set_xlim(0, LONGEST)
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_yticks([])
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0])
        axes.tick_params(colors=INK, labelsize=8, length=3)
        for side in ("top", "right", "left", "bottom"):
            axes.spines[side].set_visible(False)
        axes.set_xlabel(
            f"overhead as a share of theirs, Python {results.python}: shorter is faster, the short line is the goal",
            color=INK,
            fontsize=8.5,
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        FigureCanvasSVG(figure)
        # Without a date the same results give the same file.
        figure.savefig(path, transparent=True, metadata={"Date": None, "Title": "What guarded calls cost"})
