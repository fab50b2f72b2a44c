"""The summary and the JSON document."""

from __future__ import annotations

import json

import pytest

from resilient.demo.report import document
from resilient.demo.summary import change, comparisons, headline, savings, summary_text, verdict
from resilient.demo.users import Tally
from tests.demo.kit import report, side_report, snapshot

BETTER = side_report(users=100, tally=Tally(answered=90, refused=10, wasted=1.0, p50=0.02, p99=0.3), in_vain=5)
WORSE = side_report(users=100, tally=Tally(answered=60, failed=40, wasted=50.0, p50=0.04, p99=3.0), in_vain=50)


def test_the_table_sets_guarded_against_unguarded() -> None:
    table = {row.label: row for row in comparisons(report(guarded=BETTER, unguarded=WORSE))}

    errors = table["errors seen by users"]
    assert (errors.guarded, errors.unguarded, errors.change) == ("10", "40", "-75 %")
    waste = table["time wasted waiting"]
    assert (waste.guarded, waste.unguarded, waste.change) == ("1.0 s", "50.0 s", "-98 %")
    vain = table["calls that hit the dead upstream"]
    assert (vain.guarded, vain.unguarded, vain.change) == ("5", "50", "-90 %")
    assert table["99 % of the answers within"].guarded == "300 ms"
    assert "still waiting at the end" not in table


def test_users_who_still_wait_at_the_end_are_not_hidden() -> None:
    table = {row.label: row for row in comparisons(report(unguarded=side_report(unfinished=3)))}

    assert (table["still waiting at the end"].guarded, table["still waiting at the end"].unguarded) == ("0", "3")


def test_the_verdict_says_which_client_was_better() -> None:
    assert verdict(report(guarded=BETTER, unguarded=WORSE)) == (
        "With the policies 75 % fewer users left without an answer, and 98 % less time wasted."
    )


def test_the_verdict_does_not_flatter() -> None:
    assert verdict(report(guarded=WORSE, unguarded=BETTER)) == (
        "With the policies 300 % more users left without an answer, and 4900 % more time wasted."
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
    ],
)
def test_a_change_is_in_percent_of_the_unguarded_number(ours: float, theirs: float, expected: str) -> None:
    assert change(ours, theirs) == expected


def test_policies_that_had_nothing_to_do_say_so() -> None:
    told = dict(savings(report()))

    assert told["retry"] == told["attempt timeout"] == "had nothing to do."
    assert told["circuit breaker"] == "stayed closed."


def test_each_policy_tells_what_it_has_counted() -> None:
    counted = json.loads(json.dumps(snapshot()))
    counted["retry"]["inventory"]["calls"]["recovered"] = 83
    counted["retry"]["inventory"]["attempts"]["success"] = 83
    counted["retry"]["inventory"]["attempts"]["retryable_failure"] = 131
    counted["circuit_breaker"]["inventory"]["rejected"] = 1
    counted["timeout"]["inventory.attempt"]["calls"]["timed_out"] = 61
    counted["timeout"]["inventory"]["calls"]["timed_out"] = 1

    told = dict(savings(report(snapshot=counted)))

    assert told["retry"] == "83 calls failed at first and got an answer after all, with 131 retries."
    assert told["circuit breaker"].startswith("1 attempt refused at once")
    assert told["circuit breaker"].endswith("it let calls pass again 700 ms after the upstream was back.")
    assert told["attempt timeout"].startswith("61 attempts cut off after 250 ms")
    assert told["total timeout"].endswith("1 call ended there.")
    assert "back" not in dict(savings(report(snapshot=counted, closed_after=None)))["circuit breaker"]


def test_the_headline_tells_whether_it_was_ended_by_hand() -> None:
    assert headline(report()) == "Summary (all of 30 s, seed 7)"
    assert headline(report(interrupted=True, elapsed=4.25)) == "Summary (ended by hand after 4.2 of 30 s, seed 7)"


def test_the_text_shows_both_lines_of_marks() -> None:
    lines = summary_text(report()).splitlines()

    assert "guarded     " + "#" * 60 in lines
    assert "unguarded   " + "#" * 60 in lines


def test_the_document_holds_the_same_numbers() -> None:
    made = json.loads(json.dumps(document(report(guarded=BETTER, unguarded=WORSE))))

    assert made["guarded"]["errors"] == {"total": 10, "refused": 10, "failed": 0, "gave_up": 0}
    assert made["unguarded"]["attempts_at_dead_upstream"] == 50
    assert made["guarded"]["p99_seconds"] == 0.3
    assert made["policies"]["circuit_breaker"]["inventory"]["state"] == "closed"
    assert made["stages"][0]["name"] == "healthy"
    assert made["events"] == [{"at": 12.0, "text": "circuit breaker opened: 12 failures in a row"}]
