"""A run inside this process: what is counted, and what is left behind."""

from __future__ import annotations

import asyncio
import threading
from itertools import pairwise

import pytest

from resilient.demo.frame import Frame
from resilient.demo.guards import NAME, PRIMARY, REPLICA
from resilient.demo.report import Report
from resilient.demo.rows import counts, total
from resilient.demo.run import play, run
from resilient.demo.script import ATTEMPT_TIMEOUT, Script
from resilient.demo.view import View

pytestmark = pytest.mark.realtime


class Spectator(View):
    """Keeps what it is shown."""

    interval = 0.25

    def __init__(self, fails_at: int | None = None) -> None:
        self.frames: list[Frame] = []
        self.reports: list[Report] = []
        self.left = 0
        self._fails_at = fails_at

    def show(self, frame: Frame) -> None:
        self.frames.append(frame)
        if len(self.frames) == self._fails_at:
            raise BrokenPipeError

    def leave(self) -> None:
        self.left += 1

    def close(self, report: Report) -> None:
        self.reports.append(report)


def test_every_user_is_counted_once_on_both_sides_and_nothing_is_left_behind() -> None:
    threads = threading.active_count()
    view = Spectator()

    report = run(view, seconds=2.0, seed=1)

    arrivals = len(list(Script(2.0, 1).arrivals()))
    for side in (report.guarded, report.unguarded):
        assert arrivals - 2 <= side.users <= arrivals
        assert side.users == side.tally.users + side.unfinished
        assert side.users == sum(stretch.came for stretch in side.bins)
        assert side.in_vain <= side.attempts
    assert report.guarded.users == report.unguarded.users
    assert report.elapsed == 2.0
    assert not report.interrupted
    assert view.reports == [report]
    assert view.left == 1
    assert threading.active_count() <= threads


def test_what_the_users_saw_is_what_the_policies_counted() -> None:
    report = run(Spectator(), seconds=2.0, seed=2)

    snapshot, side = report.snapshot, report.guarded
    saw = side.tally
    calls = counts(snapshot, "pipeline", NAME)
    remembered, default = (counts(snapshot, kind, NAME)["applied"] for kind in ("stale", "fallback"))
    fresh = calls["success"] + calls["fallback"] - remembered - default
    # Who gave up was served all the same, as far as the policies know.
    for served, seen in ((fresh, saw.answered), (remembered, saw.from_memory), (default, saw.default)):
        assert seen <= served <= seen + saw.gave_up
    assert saw.answered > 0
    assert calls["failure"] == calls["timeout"] == calls["rejected"] == saw.failed == 0
    assert total(snapshot, "timeout", PRIMARY) == side.attempts
    assert total(snapshot, "timeout", REPLICA) == side.to_replica


def test_frames_come_at_their_interval_and_show_the_stages_of_the_script() -> None:
    view = Spectator()

    run(view, seconds=1.5, seed=1)

    assert 1 <= len(view.frames) <= 6
    assert view.frames[-1].elapsed >= 1.5
    assert all(frame.stage is frame.script.at(frame.elapsed) for frame in view.frames)
    assert view.frames[-1].stage.name == "recovered"
    assert any("upstream down" in news.text for news in view.frames[-1].news)
    assert [news.at for news in view.frames[-1].news] == sorted(news.at for news in view.frames[-1].news)


def test_a_view_that_fails_ends_the_run_and_leaves_no_task() -> None:
    view = Spectator(fails_at=1)

    async def main() -> None:
        with pytest.raises(BrokenPipeError):
            await play(view, Script(5.0, 1))
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())
    assert view.left == 1
    assert view.reports == []


def test_it_runs_on_another_thread_too() -> None:
    reports: list[Report] = []
    thread = threading.Thread(target=lambda: reports.append(run(Spectator(), seconds=1.0, seed=1)))
    thread.start()
    thread.join(10.0)

    assert reports[0].guarded.users > 20


def test_the_guarded_client_wins_on_all_counts_even_in_ten_seconds() -> None:
    view = Spectator()
    report = run(view, seconds=10.0, seed=1)
    ours, theirs = report.guarded, report.unguarded

    times = [0.0, *(frame.elapsed for frame in view.frames)]
    if max(after - before for before, after in pairwise(times)) > view.interval + ATTEMPT_TIMEOUT / 2:
        pytest.skip("this machine stood still for longer than healthy calls may take")

    assert ours.tally.errors < theirs.tally.errors
    assert ours.tally.unanswered < theirs.tally.unanswered
    assert ours.tally.answered > theirs.tally.answered
    assert ours.tally.wasted < theirs.tally.wasted / 2
    assert ours.in_vain < theirs.in_vain
    assert report.closed_after is not None
