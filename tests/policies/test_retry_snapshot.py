"""What a retry policy tells of its budget."""

from __future__ import annotations

from resilient import Registry, RetryBudget, retry
from resilient.testing import fake_clock


def test_a_snapshot_has_that_of_the_budget_where_there_is_one() -> None:
    budget = RetryBudget(0.5, window=60)
    with fake_clock():
        policy = retry(budget=budget, registry=Registry())
        policy.call(len, "call")
        assert budget.snapshot()["calls"] == 1
        assert policy.snapshot()["budget"] == budget.snapshot()
    assert "budget" not in retry(registry=Registry()).snapshot()
