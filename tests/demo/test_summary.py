"""The summary and the JSON document."""

from __future__ import annotations

import json

import pytest

from resilient.demo.report import document
from resilient.demo.summary import change, comparisons, headline, summary_text, verdict
from resilient.demo.users import Tally
from tests.demo.kit import report, side_report

SERVED = Tally(answered=70, from_memory=20, default=5, failed=3, gave_up=2, wasted=1.0, p50=0.02, p99=0.3)
BETTER = side_report(users=100, tally=SERVED, in_vain=5, to_replica=9)
WORSE = side_report(users=100, tally=Tally(answered=60, failed=40, wasted=50.0, p50=0.04, p99=3.0), in_vain=50)


def test_the_table_sets_guarded_against_unguarded() -> None:
    table = {row.label: row for row in comparisons(report(guarded=BETTER, unguarded=WORSE))}

    errors = table["errors seen by users"]
    assert (errors.guarded, errors.unguarded, errors.change) == ("5", "40", "-88 %")
    waste = table["time wasted waiting"]
    assert (waste.guarded, waste.unguarded, waste.change) == ("1.0 s", "50.0 s", "-98 %")
    vain = table["calls that hit the dead upstream"]
    assert (vain.guarded, vain.unguarded, vain.change) == ("5", "50", "-90 %")
    assert table["99 % of fresh answers within"].guarded == "300 ms"
    assert (table["calls sent to the replica"].guarded, table["calls sent to the replica"].unguarded) == ("9", "0")
    assert "still waiting at the end" not in table


def test_what_came_from_memory_or_was_a_default_is_not_shown_as_a_fresh_answer() -> None:
    table = {row.label: row.guarded for row in comparisons(report(guarded=BETTER, unguarded=WORSE))}

    assert (table["answered afresh"], table["answered from memory"], table["served a default"]) == ("70", "20", "5")
    kinds = "answered afresh", "answered from memory", "served a default", "errors seen by users"
    assert sum(int(table[kind]) for kind in kinds) == int(table["users"])


def test_users_who_still_wait_at_the_end_are_not_hidden() -> None:
    table = {row.label: row for row in comparisons(report(unguarded=side_report(unfinished=3)))}

    assert (table["still waiting at the end"].guarded, table["still waiting at the end"].unguarded) == ("0", "3")


def test_the_verdict_says_which_client_was_better() -> None:
    assert verdict(report(guarded=BETTER, unguarded=WORSE)) == (
        "With the policies 75 % fewer users left without an answer, and 98 % less time wasted."
    )


def test_the_verdict_does_not_flatter() -> None:
    assert verdict(report(guarded=WORSE, unguarded=BETTER)) == (
        "With the policies 300 % more users left without an answer, and 4,900 % more time wasted."
    )
    assert verdict(report()) == ("With the policies as many users left without an answer, and as much time wasted.")
    nothing = side_report(users=0, tally=Tally())
    assert verdict(report(guarded=nothing, unguarded=nothing)) == "It ended before there was anything to compare."
    perfect = side_report(users=9, tally=Tally(answered=9))
    assert "more users" in verdict(report(unguarded=perfect))


@pytest.mark.parametrize(
    "ours, theirs, expected",
    [
        (1.0, 4.0, "-75 %"),
        (4.0, 1.0, "+300 %"),
        (2.0, 2.0, "same"),
        (0.0, 0.0, ""),
        (3.0, 0.0, ""),
        (0.0, 8.0, "-100 %"),
        (0.01, 8.0, "-99 %"),
    ],
)
def test_a_change_is_in_percent_of_the_unguarded_number(ours: float, theirs: float, expected: str) -> None:
    assert change(ours, theirs) == expected


def test_the_headline_tells_whether_it_was_ended_by_hand() -> None:
    assert headline(report()) == "Summary (all of 30 s, seed 7)"
    assert headline(report(interrupted=True, elapsed=4.25)) == "Summary (ended by hand after 4.2 of 30 s, seed 7)"


def test_the_text_shows_both_lines_of_marks() -> None:
    lines = summary_text(report()).splitlines()

    assert "guarded     " + "#" * 60 in lines
    assert "unguarded   " + "#" * 60 in lines


def test_the_document_holds_the_same_numbers() -> None:
    made = json.loads(json.dumps(document(report(guarded=BETTER, unguarded=WORSE))))

    assert made["guarded"]["errors"] == {"total": 5, "failed": 3, "gave_up": 2}
    assert (made["guarded"]["from_memory"], made["guarded"]["default"]) == (20, 5)
    assert made["guarded"]["attempts_at_replica"] == 9
    assert made["unguarded"]["attempts_at_dead_upstream"] == 50
    assert made["guarded"]["p99_seconds"] == 0.3
    assert made["policies"]["circuit_breaker"]["inventory.primary"]["state"] == "closed"
    assert made["stages"][0]["name"] == "healthy"
    assert made["events"] == [{"at": 12.0, "text": "circuit breaker opened: 12 failures in a row"}]
