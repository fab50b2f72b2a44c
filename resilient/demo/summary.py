"""The end of the story: guarded against unguarded, and what each policy had to do with it."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import wrap

from resilient.demo import text
from resilient.demo.marks import ASCII, Mark, marks, ruler
from resilient.demo.report import Report, SideReport
from resilient.demo.savings import savings
from resilient.demo.users import MARKS

INDENT = 12


@dataclass(frozen=True, slots=True)
class Comparison:
    """One line of the table. Details belong to the line above them."""

    label: str
    guarded: str
    unguarded: str
    change: str = ""
    detail: bool = False


def comparisons(report: Report) -> list[Comparison]:
    guarded, unguarded = report.guarded, report.unguarded
    ours, theirs = guarded.tally, unguarded.tally
    table = [
        _counted("users", guarded.users, unguarded.users),
        _counted("answered afresh", ours.answered, theirs.answered),
        _counted("answered from memory", ours.from_memory, theirs.from_memory),
        _counted("served a default", ours.default, theirs.default),
        _compared("errors seen by users", ours.errors, theirs.errors),
        _counted("failed", ours.failed, theirs.failed, detail=True),
        _counted(f"gave up after {report.pace.patience:g} s", ours.gave_up, theirs.gave_up, detail=True),
        Comparison(
            "time wasted waiting",
            text.duration(ours.wasted),
            text.duration(theirs.wasted),
            change(ours.wasted, theirs.wasted),
        ),
        _compared("calls that hit the dead upstream", guarded.in_vain, unguarded.in_vain),
        Comparison("half of fresh answers within", text.duration(ours.p50), text.duration(theirs.p50)),
        Comparison("99 % of fresh answers within", text.duration(ours.p99), text.duration(theirs.p99)),
        _counted("calls sent to the upstream", guarded.attempts, unguarded.attempts),
        _counted("calls sent to the replica", guarded.to_replica, unguarded.to_replica),
    ]
    if guarded.unfinished or unguarded.unfinished:
        table.insert(7, _counted("still waiting at the end", guarded.unfinished, unguarded.unfinished))
    return table


def _counted(label: str, ours: int, theirs: int, *, detail: bool = False) -> Comparison:
    return Comparison(label, text.count(ours), text.count(theirs), detail=detail)


def _compared(label: str, ours: int, theirs: int) -> Comparison:
    return Comparison(label, text.count(ours), text.count(theirs), change(ours, theirs))


def change(ours: float, theirs: float) -> str:
    """How the guarded number compares, in percent of the unguarded one; -100 % is only nothing at all."""
    if not theirs:
        return ""
    percent = round(100 * (ours / theirs - 1))
    if ours:
        percent = max(percent, -99)
    return "same" if percent == 0 else f"{percent:+,d} %"


def verdict(report: Report) -> str:
    """The whole in one sentence."""
    ours, theirs = report.guarded.tally, report.unguarded.tally
    if not (ours.users and theirs.users):
        return "It ended before there was anything to compare."
    unanswered = _in_words(
        ours.unanswered + report.guarded.unfinished, theirs.unanswered + report.unguarded.unfinished, "fewer", "as many"
    )
    waste = _in_words(ours.wasted, theirs.wasted, "less", "as much")
    return f"With the policies {unanswered} users left without an answer, and {waste} time wasted."


def _in_words(ours: float, theirs: float, less: str, same: str) -> str:
    if round(ours, 1) == round(theirs, 1):
        return same
    if not theirs:
        return "more"
    percent = change(ours, theirs).lstrip("+-")
    return f"{percent} {less if ours < theirs else 'more'}"


def headline(report: Report) -> str:
    ended = f"ended by hand after {report.elapsed:.1f} of" if report.interrupted else "all of"
    return f"Summary ({ended} {report.script.seconds:g} s, seed {report.script.seed})"


def summary_text(report: Report) -> str:
    """The summary for a view without colours, in ASCII and at most 80 columns."""
    lines = [headline(report), "", *_strips(report), ""]
    lines.append(f"{'':34}{'guarded':>12}{'unguarded':>13}")
    for row in comparisons(report):
        label = f"  {row.label}" if row.detail else row.label
        lines.append(f"{label:<34}{row.guarded:>12}{row.unguarded:>13}{row.change:>12}".rstrip())
    lines += ["", "What each policy did"]
    for policy, sentence in savings(report):
        first, *others = wrap(sentence, 60)
        lines.append(f"{policy:<17}{first}")
        lines += [f"{'':17}{other}" for other in others]
    return "\n".join([*lines, "", *wrap(verdict(report), 78), ""])


def _strips(report: Report) -> list[str]:
    names = "".join(cell for _, cell in ruler(report.script.stages, report.script.seconds, MARKS))
    legend = "  ".join(f"{ASCII[mark]} {mark.value}" for mark in Mark if mark not in (Mark.NOBODY, Mark.WAITING))
    return [
        f"{'':{INDENT}}{names}".rstrip(),
        *(_strip(label, side) for label, side in (("guarded", report.guarded), ("unguarded", report.unguarded))),
        f"{'':{INDENT}}{legend}",
    ]


def _strip(label: str, side: SideReport) -> str:
    return f"{label:<{INDENT}}" + "".join(ASCII[mark] for mark in marks(side.bins, MARKS))
