"""The end of the story: guarded against unguarded, and what each policy had to do with it."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import wrap

from resilient.demo import rows, text
from resilient.demo.marks import ASCII, Mark, marks, ruler
from resilient.demo.report import Report, SideReport
from resilient.demo.script import ATTEMPT_TIMEOUT
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
        Comparison("users", text.count(guarded.users), text.count(unguarded.users)),
        Comparison("answered", text.count(ours.answered), text.count(theirs.answered), ""),
        Comparison(
            "errors seen by users",
            text.count(ours.errors),
            text.count(theirs.errors),
            change(ours.errors, theirs.errors),
        ),
        Comparison("refused at once", text.count(ours.refused), text.count(theirs.refused), detail=True),
        Comparison("failed", text.count(ours.failed), text.count(theirs.failed), detail=True),
        Comparison(
            f"gave up after {report.pace.patience:g} s",
            text.count(ours.gave_up),
            text.count(theirs.gave_up),
            detail=True,
        ),
        Comparison(
            "time wasted waiting",
            text.duration(ours.wasted),
            text.duration(theirs.wasted),
            change(ours.wasted, theirs.wasted),
        ),
        Comparison(
            "calls that hit the dead upstream",
            text.count(guarded.in_vain),
            text.count(unguarded.in_vain),
            change(guarded.in_vain, unguarded.in_vain),
        ),
        Comparison("half of the answers within", text.duration(ours.p50), text.duration(theirs.p50)),
        Comparison("99 % of the answers within", text.duration(ours.p99), text.duration(theirs.p99)),
        Comparison("calls sent upstream", text.count(guarded.attempts), text.count(unguarded.attempts)),
    ]
    if guarded.unfinished or unguarded.unfinished:
        left = Comparison("still waiting at the end", text.count(guarded.unfinished), text.count(unguarded.unfinished))
        table.insert(6, left)
    return table


def change(ours: float, theirs: float) -> str:
    """How the guarded number compares, in percent of the unguarded one."""
    if not theirs:
        return ""
    percent = round(100 * (ours / theirs - 1))
    return "same" if percent == 0 else f"{percent:+,d} %"


def savings(report: Report) -> list[tuple[str, str]]:
    """What each policy saved, from its own counts."""
    name, snapshot = report.name, report.snapshot
    calls = rows.counts(snapshot, "retry", name)
    attempts = rows.counts(snapshot, "timeout", f"{name}.attempt")["timed_out"]
    ended = rows.counts(snapshot, "timeout", name)["timed_out"]
    return [
        ("retry", _retry(calls["recovered"], rows.retries(snapshot, name))),
        ("circuit breaker", _breaker(report)),
        ("attempt timeout", _attempt_timeout(report, attempts)),
        ("total timeout", _total_timeout(report, ended)),
    ]


def _retry(recovered: int, retries: int) -> str:
    if not retries:
        return "had nothing to do."
    answered = text.plural(recovered, "call", "calls")
    return f"{answered} failed at first and got an answer after all, with {text.plural(retries, 'retry', 'retries')}."


def _breaker(report: Report) -> str:
    refused = rows.number(report.snapshot, "circuit_breaker", report.name, "rejected")
    if not refused:
        return "stayed closed."
    spared = f"{text.plural(refused, 'attempt', 'attempts')} refused at once instead of sent to a failing upstream"
    if report.closed_after is None:
        return f"{spared}."
    return f"{spared}; it let calls pass again {text.duration(report.closed_after)} after the upstream was back."


def _attempt_timeout(report: Report, timed_out: int) -> str:
    if not timed_out:
        return "had nothing to do."
    ended = text.plural(timed_out, "attempt", "attempts")
    return (
        f"{ended} cut off after {text.duration(ATTEMPT_TIMEOUT)}, so that workers were free for others; "
        f"the plain client's may take {report.pace.plain_timeout:g} s."
    )


def _total_timeout(report: Report, timed_out: int) -> str:
    limit = f"bounds each call at {report.pace.total_timeout:g} s, retries and waits included"
    return f"{limit}; {text.plural(timed_out, 'call', 'calls')} ended there."


def verdict(report: Report) -> str:
    """The whole in one sentence."""
    ours, theirs = report.guarded.tally, report.unguarded.tally
    if not (ours.users and theirs.users):
        return "It ended before there was anything to compare."
    unanswered = _compared(
        report.guarded.users - ours.answered, report.unguarded.users - theirs.answered, "fewer", "as many"
    )
    waste = _compared(ours.wasted, theirs.wasted, "less", "as much")
    return f"With the policies {unanswered} users left without an answer, and {waste} time wasted."


def _compared(ours: float, theirs: float, less: str, same: str) -> str:
    if round(ours, 1) == round(theirs, 1):
        return same
    if not theirs:
        return "more"
    return f"{text.percent(abs(1 - ours / theirs))} {less if ours < theirs else 'more'}"


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
