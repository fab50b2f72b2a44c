"""The books about users: who came, what they got, and what it cost them."""

from __future__ import annotations

import pytest

from resilient.demo.users import MARKS, Bin, Settled, Tally, Users, quantile, tally


def users() -> Users:
    return Users(seconds=60.0, patience=3.0)


def test_an_answer_counts_for_the_time_at_which_its_user_came() -> None:
    book = users()
    request = book.come(0, 7, at=1.5)

    assert book.bins[1] == Bin(came=1)
    assert book.bins[1].waiting == 1

    book.settle(request, "answered", at=3.5)

    assert book.bins[1] == Bin(came=1, answered=1)
    assert book.tally() == Tally(answered=1, p50=2.0, p99=2.0)
    assert book.waiting == 0


def test_an_answer_that_comes_after_the_user_has_gone_is_none() -> None:
    book = users()
    request = book.come(0, 7, at=1.0)

    book.settle(request, "answered", at=4.0)

    assert request.outcome == "gave_up"
    assert book.tally() == Tally(gave_up=1, wasted=3.0)


def test_users_give_up_after_their_patience_and_not_before() -> None:
    book = users()
    first, second = book.come(0, 7, at=0.0), book.come(1, 7, at=0.5)

    book.lose_patience(2.9)
    assert first.outcome is None

    book.lose_patience(3.4)
    assert (first.outcome, second.outcome) == ("gave_up", None)
    assert book.tally().wasted == pytest.approx(3.0)
    assert book.waiting == 1


def test_a_request_is_settled_once() -> None:
    book = users()
    request = book.come(0, 7, at=0.0)
    book.lose_patience(5.0)

    book.settle(request, "answered", at=6.0)

    assert book.tally() == Tally(gave_up=1, wasted=3.0)


def test_everybody_who_came_is_answered_failed_or_waiting() -> None:
    book = users()
    requests = [book.come(number, 7, at=number / 10) for number in range(40)]
    for request in requests[:10]:
        book.settle(request, "answered", at=request.at + 0.1)
    for request in requests[10:12]:
        book.settle(request, "default", at=request.at)
    for request in requests[12:15]:
        book.settle(request, "from_memory", at=request.at)
    for request in requests[15:20]:
        book.settle(request, "failed", at=request.at + 1.0)
    book.lose_patience(5.5)

    result = book.tally()
    assert (result.answered, result.from_memory, result.default) == (10, 3, 2)
    assert (result.failed, result.gave_up, result.errors, result.unanswered) == (5, 6, 11, 13)
    assert book.came == result.users + book.waiting == 40
    assert sum((stretch.waiting for stretch in book.bins), 0) == book.waiting == 14


def test_a_tally_of_the_last_seconds_leaves_out_what_was_before() -> None:
    book = users()
    for number in range(5):
        book.settle(book.come(number, 7, at=float(number)), "answered", at=number + 0.5)

    assert book.tally(since=2.5).answered == 3
    assert book.tally(since=2.6).answered == 2
    assert book.tally(since=99.0) == Tally()


def test_what_is_noticed_late_does_not_break_the_order_of_the_record() -> None:
    book = users()
    book.come(0, 7, at=0.0)
    book.settle(book.come(1, 7, at=3.9), "answered", at=4.0)
    book.lose_patience(4.1)

    assert [settled.at for settled in book.settled] == [4.0, 4.0]
    assert book.tally().wasted == pytest.approx(3.0)


def test_the_last_instant_of_the_run_is_in_the_last_bin() -> None:
    book = users()
    book.come(0, 7, at=60.0)

    assert book.bins[MARKS - 1].came == 1


def test_time_is_wasted_only_where_there_is_no_answer() -> None:
    ends = Settled(1.0, 0.5, "answered"), Settled(2.0, 0.25, "default"), Settled(3.0, 2.0, "failed")
    result = tally([*ends, Settled(4.0, 0.125, "from_memory")])

    assert result == Tally(answered=1, from_memory=1, default=1, failed=1, wasted=2.25, p50=0.5, p99=0.5)
    assert (result.errors, result.unanswered, result.users) == (1, 2, 4)


@pytest.mark.parametrize(
    "values, share, expected",
    [
        ([], 0.5, None),
        ([7.0], 0.99, 7.0),
        ([4.0, 1.0, 3.0, 2.0], 0.5, 2.0),
        (list(range(1, 101)), 0.99, 99),
        (list(range(1, 101)), 1.0, 100),
        ([1.0, 2.0], 0.0, 1.0),
    ],
)
def test_quantiles_are_of_the_nearest_rank(values: list[float], share: float, expected: float | None) -> None:
    assert quantile(values, share) == expected
