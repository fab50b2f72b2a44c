"""What a run came to: counted values only, as dataclasses and as a JSON document."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from resilient.demo.frame import News
from resilient.demo.rows import Snapshot
from resilient.demo.script import Pace, Script
from resilient.demo.users import Bin, Tally


@dataclass(frozen=True, slots=True)
class SideReport:
    """One client.

    `unfinished` users were still waiting at the end. `attempts` went to the upstream, `in_vain` of them while it was
    dead; others went to the replica.
    """

    users: int
    tally: Tally
    unfinished: int
    attempts: int
    in_vain: int
    to_replica: int
    bins: tuple[Bin, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """A run that is over. `closed_after` is how long after the upstream's recovery the circuit closed."""

    script: Script
    pace: Pace
    elapsed: float
    interrupted: bool
    guarded: SideReport
    unguarded: SideReport
    snapshot: Snapshot
    news: tuple[News, ...]
    closed_after: float | None


def document(report: Report) -> dict[str, object]:
    """The report as values that `json.dumps` accepts."""
    return {
        "seconds": report.script.seconds,
        "seed": report.script.seed,
        "elapsed": round(report.elapsed, 3),
        "interrupted": report.interrupted,
        "stages": [
            {"name": stage.name, "meaning": stage.meaning, "start": round(stage.start, 3), "end": round(stage.end, 3)}
            for stage in report.script.stages
        ],
        "limits": {
            "total_timeout": report.pace.total_timeout,
            "plain_timeout": report.pace.plain_timeout,
            "patience": report.pace.patience,
            "memory": report.pace.memory,
        },
        "guarded": _side(report.guarded),
        "unguarded": _side(report.unguarded),
        "policies": report.snapshot,
        "events": [{"at": round(news.at, 3), "text": news.text} for news in report.news],
    }


def _side(side: SideReport) -> dict[str, object]:
    tally = side.tally
    return {
        "users": side.users,
        "answered": tally.answered,
        "from_memory": tally.from_memory,
        "default": tally.default,
        "errors": {
            "total": tally.errors,
            "failed": tally.failed,
            "gave_up": tally.gave_up,
        },
        "unfinished": side.unfinished,
        "wasted_seconds": round(tally.wasted, 3),
        "p50_seconds": _rounded(tally.p50),
        "p99_seconds": _rounded(tally.p99),
        "attempts": side.attempts,
        "attempts_at_dead_upstream": side.in_vain,
        "attempts_at_replica": side.to_replica,
        "marks": [asdict(stretch) for stretch in side.bins],
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)
