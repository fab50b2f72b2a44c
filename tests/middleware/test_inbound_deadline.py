"""The inbound deadline: what the client is going to wait is the deadline of the request."""

from __future__ import annotations

from typing import Any

import pytest

from resilient import ConfigurationError, TimeoutExceededError, current_deadline, timeout
from resilient.testing import FakeClock, fake_clock
from tests.middleware.kit import Pairs, Twin


def remaining() -> float | None:
    deadline = current_deadline()
    return None if deadline is None else round(deadline.remaining(), 6)


def seen(twin: Twin, headers: Pairs, **settings: Any) -> str:
    with fake_clock():
        app = twin.module.InboundDeadline(twin.app(remaining), **settings)
        return twin.ask(app, headers=headers).body.decode()


@pytest.mark.parametrize(
    "headers, shown",
    [
        ([("X-Request-Timeout", "2.5")], "2.5"),
        ([("grpc-timeout", "250m")], "0.25"),
        ([("X-Request-Timeout", "2"), ("grpc-timeout", "3S")], "2.0"),
        ([("X-Request-Timeout", "9"), ("grpc-timeout", "3S")], "3.0"),
        ([("X-Request-Timeout", "9"), ("X-Request-Timeout", "4")], "4.0"),
        ([("X-Request-Timeout", "3600")], "60.0"),
        ([("X-Request-Timeout", "soon")], "None"),
        ([("X-Request-Timeout", "soon"), ("X-Request-Timeout", "4")], "4.0"),
        ([("X-Request-Timeout", "-1")], "None"),
        ([("X-Request-Timeout", "nan")], "None"),
        ([("grpc-timeout", "1n")], "0.0"),
        ([("X-Request-Timeout", "1," * 5000)], "1.0"),
        ([("X-Request-Timeout", "9," * 9 + "1")], "9.0"),
        ([], "None"),
    ],
)
def test_the_headers_become_the_deadline(twin: Twin, headers: Pairs, shown: str) -> None:
    assert seen(twin, headers) == shown


def test_the_service_decides_on_the_longest_and_on_what_holds_without_a_header(twin: Twin) -> None:
    assert seen(twin, [("X-Request-Timeout", "3600")], maximum=30) == "30.0"
    assert seen(twin, [], maximum=30, default=10) == "10.0"
    assert seen(twin, [("X-Request-Timeout", "soon")], default=10) == "10.0"
    assert seen(twin, [("X-Request-Timeout", "20")], default=10) == "20.0"


@pytest.mark.parametrize(
    "headers", [[("X-Request-Timeout", "0")], [("grpc-timeout", "0n"), ("X-Request-Timeout", "5")]]
)
def test_what_nobody_waits_for_is_not_begun(twin: Twin, headers: Pairs) -> None:
    begun: list[None] = []
    app = twin.module.RequestId(twin.module.InboundDeadline(twin.app(lambda: begun.append(None))))
    reply = twin.ask(app, headers=[*headers, ("X-Request-ID", "r-17")])
    assert reply.status == 504
    assert reply.json() == {"status": 504, "error": "timed_out", "request_id": "r-17"}
    assert begun == []


def test_a_nearer_deadline_stays(twin: Twin) -> None:
    with fake_clock(), timeout(1.0, interrupt="never"):
        app = twin.module.InboundDeadline(twin.app(remaining))
        assert twin.ask(app, headers=[("X-Request-Timeout", "5")]).body == b"1.0"


def test_an_application_that_is_late_is_not_interrupted(twin: Twin) -> None:
    def take(clock: FakeClock) -> str:
        clock.advance(10)
        return "late, but whole"

    with fake_clock() as clock:
        app = twin.module.InboundDeadline(twin.app(lambda: take(clock)))
        assert twin.ask(app, headers=[("X-Request-Timeout", "5")]).body == b"late, but whole"


def test_policies_inside_keep_to_it(twin: Twin) -> None:
    def wait(clock: FakeClock) -> None:
        with timeout(60, interrupt="never"):
            clock.advance(3)
            deadline = current_deadline()
            assert deadline is not None
            assert round(deadline.remaining(), 6) == 2
            raise TimeoutExceededError

    with fake_clock() as clock:
        app = twin.module.standard(twin.app(lambda: wait(clock)))
        assert twin.ask(app, headers=[("X-Request-Timeout", "5")]).status == 504


def test_it_is_undone_after_an_error(twin: Twin) -> None:
    def fail() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        twin.ask(twin.module.InboundDeadline(twin.app(fail)), headers=[("X-Request-Timeout", "5")])
    assert current_deadline() is None


@pytest.mark.parametrize(
    "settings", [{"maximum": 0}, {"maximum": None}, {"default": 0}, {"default": "1"}, {"maximum": 5, "default": 6}]
)
def test_wrong_settings_are_refused(twin: Twin, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="InboundDeadline"):
        twin.module.InboundDeadline(twin.app(), **settings)
