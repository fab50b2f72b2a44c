"""Steady, rising and sudden load, and an outage, through a client with policies and one without, at the same time.

Both are real and on one machine that may be busy: what is asserted are shares and counts with room to spare.
"""

from __future__ import annotations

import pytest

from resilient.demo.guards import CONNECTIONS, PRIMARY
from resilient.demo.script import WORKERS, Health
from tests.load.scenario import Act, Outcome, play

pytestmark = [pytest.mark.load, pytest.mark.realtime]


@pytest.fixture(scope="module")
def steady() -> Outcome:
    return play(Act("steady", 5.0, 60.0))


@pytest.fixture(scope="module")
def ramp() -> Outcome:
    return play(Act("rise", 5.0, 10.0, until=120.0), Act("top", 1.0, 120.0))


@pytest.fixture(scope="module")
def spike() -> Outcome:
    strained = Health(slow_share=0.35)
    return play(Act("before", 2.0, 30.0), Act("spike", 2.0, 200.0, health=strained), Act("after", 4.0, 30.0))


@pytest.fixture(scope="module")
def outage() -> Outcome:
    return play(
        Act("before", 2.0, 60.0),
        Act("down", 3.0, 60.0, health=Health("refused")),
        Act("hung", 2.0, 60.0, health=Health("hanging")),
        Act("after", 4.0, 60.0),
    )


@pytest.mark.parametrize("scenario", ["steady", "ramp", "spike", "outage"])
def test_nothing_is_left_behind(scenario: str, request: pytest.FixtureRequest) -> None:
    outcome: Outcome = request.getfixturevalue(scenario)

    assert outcome.permits_left == 0
    assert outcome.tasks == 0
    assert outcome.threads <= 0


@pytest.mark.parametrize("scenario", ["steady", "ramp", "spike", "outage"])
def test_every_user_is_counted_once_on_both_sides(scenario: str, request: pytest.FixtureRequest) -> None:
    outcome: Outcome = request.getfixturevalue(scenario)

    users = len(list(outcome.traffic.arrivals()))
    for side in (outcome.guarded, outcome.unguarded):
        assert side.users == users == len(side.settled) + side.unfinished


@pytest.mark.parametrize("scenario", ["steady", "ramp"])
def test_what_is_healthy_is_left_alone(scenario: str, request: pytest.FixtureRequest) -> None:
    outcome: Outcome = request.getfixturevalue(scenario)
    ours, theirs = outcome.guarded, outcome.unguarded

    assert ours.errors <= theirs.errors + 0.02 * ours.users
    assert ours.of("answered") >= 0.9 * ours.users
    # Hedges included, and less those who shared the answer of another.
    assert 0.5 * theirs.http.attempts <= ours.http.attempts <= 1.3 * theirs.http.attempts
    assert outcome.changes == []


def test_a_ramp_is_followed_all_the_way_up(ramp: Outcome) -> None:
    start, end = ramp.act("rise")
    middle = (start + end) / 2

    assert ramp.guarded.sent_between(middle, end) > 1.5 * ramp.guarded.sent_between(start, middle)
    assert ramp.guarded.fresh_since(ramp.act("top")[0]) >= 0.9


def test_a_spike_costs_users_of_the_guarded_client_a_fraction_of_the_errors(spike: Outcome) -> None:
    ours, theirs = spike.guarded, spike.unguarded

    assert theirs.errors > 0.3 * theirs.came_between(*spike.act("spike"))
    assert ours.errors < theirs.errors / 4
    assert ours.of("answered", "from_memory") > 1.5 * theirs.of("answered")


def test_a_spike_never_has_more_under_way_than_the_bulkhead_lets_in(spike: Outcome) -> None:
    assert spike.guarded.http.most_under_way <= CONNECTIONS
    assert spike.unguarded.http.most_under_way == WORKERS


def test_a_spike_is_over_soon_after_its_end(spike: Outcome) -> None:
    # Both have had two seconds by then.
    assert spike.guarded.fresh_since(spike.act("after")[0] + 2.0) >= 0.9


def test_an_outage_is_no_error_to_users_of_the_guarded_client(outage: Outcome) -> None:
    start, end = outage.act("down")[0], outage.act("hung")[1]
    ours, theirs = outage.guarded, outage.unguarded

    assert theirs.errors_between(start, end) > 0.8 * theirs.came_between(start, end)
    # Only a machine that stands still for longer than users wait makes one.
    assert ours.errors < theirs.errors / 10
    assert ours.of("failed") == 0


def test_an_outage_is_not_made_worse_by_calls_in_vain(outage: Outcome) -> None:
    down = outage.act("down")
    ours, theirs = outage.guarded, outage.unguarded

    # What it takes to open the circuit, and two probes in each break.
    probes = 2 * (outage.act("hung")[1] - down[0]) / outage.pace.open_duration
    assert ours.http.in_vain <= 2 * WORKERS + probes + CONNECTIONS
    assert ours.sent_between(*down) < 0.5 * theirs.sent_between(*down)


def test_an_outage_opens_the_circuit_and_the_end_of_it_closes_it(outage: Outcome) -> None:
    back = outage.act("after")[0]
    opened = [at for at, state in outage.changes if state == "open"]

    assert outage.act("down")[0] <= opened[0] <= back
    after = outage.closed_after(back)
    assert after is not None
    assert after <= 3.0
    assert outage.snapshot["circuit_breaker"][PRIMARY]["state"] == "closed"
    assert outage.guarded.fresh_since(back + 3.0) >= 0.9
