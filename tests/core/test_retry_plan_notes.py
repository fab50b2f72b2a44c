"""What a retry writes on the error that it gives up with, and which backoff it draws next."""

from __future__ import annotations

from resilient.core.backoff import as_backoff
from resilient.core.retry_plan import RetryPlan, RetryRun, add_one_note


def test_an_error_keeps_the_last_note_of_each_policy_and_those_of_others() -> None:
    error = ValueError()
    error.add_note("mine")
    for note in (
        "retry 'a': gave up after 2 attempts",
        "retry 'b': gave up after 3 attempts",
        "retry 'a': gave up after 4 attempts",
    ):
        add_one_note(error, note)
    assert error.__notes__ == ["mine", "retry 'b': gave up after 3 attempts", "retry 'a': gave up after 4 attempts"]


def test_a_backoff_that_was_drawn_ahead_is_not_kept_for_the_attempt_after_another_wait() -> None:
    plan = RetryPlan(
        on=lambda error: 7.0,
        on_result=None,
        attempts=5,
        backoff=as_backoff([1.0, 2.0, 3.0]),
        max_duration=None,
        retry_after=None,
        retry_after_max=60.0,
        budget=None,
        on_exhausted="return",
    )
    run = RetryRun(plan, 0.0)
    assert run.upcoming() == run.upcoming() == 1.0
    assert run.after_error(ValueError(), 0.0) == 7.0
    assert run.upcoming() == 2.0
