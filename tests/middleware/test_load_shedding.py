"""Load shedding: what is refused, and when."""

from __future__ import annotations

from typing import Any

import pytest

from resilient import ConfigurationError, registry
from resilient.degradation import Degradation
from resilient.policies.sheddable import PRIORITIES, Sheddable
from tests.middleware.kit import Twin

PATHS = {"asgi": "path", "wsgi": "PATH_INFO"}


def by_path(twin: Twin) -> Any:
    return lambda request: request[PATHS[twin.name[:4]]][1:] or None


def test_the_least_important_goes_first_and_the_critical_never(twin: Twin) -> None:
    degradation = Degradation()
    app = twin.module.LoadShedding(twin.app(), degradation=degradation, priority=by_path(twin))
    statuses = {}
    for level in degradation.levels:
        degradation.force_level(level)
        statuses[level] = [twin.ask(app, path=f"/{priority}").status for priority in PRIORITIES]
    assert statuses == {
        "normal": [200, 200, 200, 200],
        "reduced": [200, 200, 503, 503],
        "minimal": [200, 503, 503, 503],
    }


def test_a_refusal_says_when_to_come_back(twin: Twin) -> None:
    degradation = Degradation()
    degradation.force_level("minimal")
    app = twin.module.RequestId(twin.module.LoadShedding(twin.app(), degradation=degradation, retry_after=7.5))
    reply = twin.ask(app, headers=[("X-Request-ID", "r-17")])
    assert reply.status == 503
    assert reply.headers["retry-after"] == "8"
    assert reply.json() == {"status": 503, "error": "unavailable", "retry_after": 8, "request_id": "r-17"}


@pytest.mark.parametrize("priority", [None, lambda request: None])
def test_a_request_without_a_priority_is_standard(twin: Twin, priority: Any) -> None:
    degradation = Degradation()
    app = twin.module.LoadShedding(twin.app(), degradation=degradation, priority=priority)
    degradation.force_level("reduced")
    assert twin.ask(app).status == 200
    degradation.force_level("minimal")
    assert twin.ask(app).status == 503


def test_what_is_refused_is_counted_and_does_not_reach_the_application(twin: Twin) -> None:
    begun: list[None] = []
    degradation = Degradation()
    degradation.force_level("reduced")
    app = twin.module.LoadShedding(
        twin.app(lambda: begun.append(None)), degradation=degradation, priority=by_path(twin)
    )
    for path in ("/bulk", "/bulk", "/standard"):
        twin.ask(app, path=path)
    assert len(begun) == 1
    policies = {policy.name: policy.snapshot()["totals"] for policy in registry.all(Sheddable)}
    assert policies["http_requests.bulk"] == {"passed": 0, "rejected": 2}
    assert policies["http_requests.standard"] == {"passed": 1, "rejected": 0}


def test_a_priority_that_there_is_not_is_an_error_of_the_application(twin: Twin) -> None:
    app = twin.module.LoadShedding(twin.app(), degradation=Degradation(), priority=lambda request: "high")
    with pytest.raises(LookupError, match=r"'high'.*critical"):
        twin.ask(app)


def test_an_application_may_be_made_again_with_another_degradation(twin: Twin) -> None:
    for _ in range(2):
        degradation = Degradation()
        degradation.force_level("minimal")
        assert twin.ask(twin.module.LoadShedding(twin.app(), degradation=degradation)).status == 503


@pytest.mark.parametrize("settings", [{"degradation": None}, {"retry_after": 0}, {"priority": "bulk"}])
def test_wrong_settings_are_refused(twin: Twin, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="LoadShedding"):
        twin.module.LoadShedding(twin.app(), **{"degradation": Degradation(), **settings})
