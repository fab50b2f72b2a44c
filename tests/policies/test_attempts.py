"""What the loop over attempts counts and traces where nothing else looks."""

from __future__ import annotations

from typing import Any

import opentelemetry.trace
import pytest

from resilient import Registry, retry
from resilient.core import tracing
from resilient.core.tracing import Part
from resilient.policies.timeout import Timeout
from resilient.testing import fake_clock


def active(registry: Registry) -> list[int]:
    snapshot: Any = registry.snapshot()
    return [each["active"] for each in snapshot["pipeline"].values()]


def test_a_loop_is_one_call_under_way_from_its_first_attempt_to_its_last() -> None:
    registry = Registry()
    seen: list[list[int]] = []
    with fake_clock():
        for attempt in retry(name="loop", attempts=3, backoff=1, registry=registry):
            with attempt:
                seen.append(active(registry))
                if attempt.number < 3:
                    raise ConnectionError
    assert seen == [[1]] * 3
    assert active(registry) == [0]


def test_an_attempt_whose_timeout_does_not_begin_ends_in_its_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    class Told(Part):
        def __enter__(self) -> Told:
            told.append("entered")
            return self

        def __exit__(self, *details: object) -> None:
            told.append("left")

        def end(self, result: str) -> None:
            told.append(result)

    class Trace:
        def attach(self) -> None: ...
        def detach(self) -> None: ...
        def end(self, *of_the_call: object) -> None: ...
        def note(self, attribute: str, value: object) -> None: ...

        def retry(self, number: int, backoff: float) -> Part:
            return Told()

    def interrupted(self: object, frame: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(opentelemetry.trace, "_TRACER_PROVIDER", object())
    monkeypatch.setattr(tracing.TRACING, "api", opentelemetry.trace)
    monkeypatch.setattr(tracing.TRACING, "open", lambda operation: Trace())
    policy = retry(attempts=3, backoff=1, attempt_timeout=5, registry=Registry())

    def loop() -> None:
        for attempt in policy:
            if attempt.number == 2:
                monkeypatch.setattr(Timeout.scope(policy.attempt_timeout, None).__class__, "resume", interrupted)  # type: ignore[arg-type]
            with attempt:
                raise ConnectionError

    with fake_clock(), pytest.raises(KeyboardInterrupt):
        loop()
    assert told == ["entered", "left", "failure"]
