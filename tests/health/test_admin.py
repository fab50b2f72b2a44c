"""Changing policies from outside: who may, what is changed, and what is on record of it."""

from __future__ import annotations

import gc
import json
import logging
from typing import Any

import pytest

from resilient import Registry, bulkhead, circuit_breaker, retry
from resilient.core.events import EVERYTHING, Event
from resilient.degradation import Degradation
from resilient.health import Health
from resilient.health.admin import MOST_EVENTS
from resilient.health.events import KEPT, RecentEvents
from resilient.testing import FakeClock, record_events
from tests.health.kit import Answer, Face, ask_asgi, ask_wsgi

TOKEN = "open-sesame"
CHANGES = [
    "circuit_breaker/payments/trip",
    "bulkhead/room/resize",
    "degradation/shop/force_level",
    "policies",
    "events",
]


@pytest.fixture
def health(private: Registry) -> Health:
    circuit_breaker("payments", open_duration=30, registry=private)
    bulkhead("room", max_concurrent=10, registry=private)
    Degradation(name="shop", registry=private)
    return Health(token={"oncall": TOKEN}, admin=True, registry=private)


def post(face: Face, health: Health, path: str, settings: Any = None, token: str | None = TOKEN) -> Answer:
    body = b"" if settings is None else json.dumps(settings).encode()
    return face.ask(health, f"/admin/{path}", method="POST", body=body, token=token)


class TestWho:
    @pytest.mark.parametrize("path", CHANGES)
    @pytest.mark.parametrize("token", [None, "", "wrong", TOKEN + "x"])
    def test_nobody_without_a_token(self, face: Face, health: Health, path: str, token: str | None) -> None:
        before = health._admin._registry.snapshot() if health._admin else None
        for method in ("GET", "POST", "PUT"):
            answer = face.ask(health, f"/admin/{path}", method=method, token=token, body=b'{"max_concurrent": 1}')
            assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert answer.json == {"error": "a bearer token is needed"}
        assert health._admin is not None
        after = health._admin._registry.snapshot()
        assert before is not None
        assert [after[kind].keys() for kind in after] == [before[kind].keys() for kind in before]
        assert after["circuit_breaker"]["payments"]["state"] == "closed"
        assert after["bulkhead"]["room"]["limit"] == 10

    def test_nobody_even_where_details_are_for_everybody(self, face: Face, private: Registry) -> None:
        health = Health(token=TOKEN, details="always", admin=True, registry=private)
        assert face.ask(health, "/admin/policies").status == 401

    @pytest.mark.parametrize("path", CHANGES)
    def test_nobody_where_it_is_off(self, face: Face, private: Registry, path: str) -> None:
        breaker = circuit_breaker("payments", registry=private)
        health = Health(token=TOKEN, details="always", registry=private)
        for method in ("GET", "POST"):
            assert face.ask(health, f"/admin/{path}", method=method, token=TOKEN).status == 404
        assert breaker.state == "closed"

    def test_those_who_may_look_need_not_be_those_who_may_change(self, face: Face, private: Registry) -> None:
        health = Health(token="look", admin={"oncall": "change"}, registry=private)

        assert face.ask(health, "/admin/policies", token="look").status == 401
        assert face.ask(health, "/admin/policies", token="change").status == 200
        assert "system" in face.ask(health, "/", token="look").json
        assert "system" in face.ask(health, "/", token="change").json


class TestLists:
    def test_all_policies(self, face: Face, health: Health, private: Registry, clock: FakeClock) -> None:
        retry(name="again", registry=private)
        answer = face.ask(health, "/admin/policies", token=TOKEN)

        assert answer.status == 200
        assert answer.json == {"policies": private.snapshot()}

    def test_the_newest_events_first(self, face: Face, private: Registry, clock: FakeClock) -> None:
        health = Health(token=TOKEN, admin=True, registry=private)
        breaker = circuit_breaker("payments", registry=private)
        breaker.trip(5)
        clock.advance(2)
        breaker.reset()
        clock.advance(1)

        newest, older = face.ask(health, "/admin/events", token=TOKEN).json["events"]

        assert list(newest) == [
            "kind", "policy_kind", "policy", "operation", "timestamp", "seconds_ago", "data",
        ]  # fmt: skip
        assert (newest["kind"], newest["policy"], newest["seconds_ago"]) == ("circuit_state_changed", "payments", 1.0)
        assert (newest["data"]["from"], newest["data"]["to"]) == ("open", "closed")
        assert (older["data"]["to"], older["seconds_ago"]) == ("open", 3.0)

    def test_what_comes_often_does_not_drive_out_what_comes_seldom(self, face: Face, private: Registry) -> None:
        health = Health(token=TOKEN, admin=True, registry=private)
        breaker = circuit_breaker("payments", registry=private)
        breaker.trip()
        for _ in range(5 * KEPT):
            with pytest.raises(Exception, match="is open"):
                breaker.call(int)

        events = face.ask(health, "/admin/events", token=TOKEN).json["events"]

        assert [event["kind"] for event in events] == ["call_rejected"] * KEPT + ["circuit_state_changed"]
        assert len(events) <= MOST_EVENTS

    def test_what_looks_secret_in_an_event_is_not_shown(self) -> None:
        events = RecentEvents()
        events.keep(Event("retry_scheduled", "retry", "again", None, 1.0, {"token": "hunter2", "attempt": 2}))
        assert events.newest(5)[0]["data"] == {"token": "[redacted]", "attempt": 2}

    def test_nothing_is_kept_where_it_is_off_or_gone(self, private: Registry) -> None:
        before = len(EVERYTHING.active)
        health = Health(token=TOKEN, registry=private)
        assert len(EVERYTHING.active) == before
        health = Health(token=TOKEN, admin=True, registry=private)
        assert len(EVERYTHING.active) == before + 1
        del health
        gc.collect()
        assert len(EVERYTHING.active) == before

    def test_lists_are_only_read(self, face: Face, health: Health) -> None:
        for path in ("policies", "events"):
            answer = post(face, health, path)
            assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


class TestChanges:
    @pytest.mark.parametrize(
        "path, settings, before, after",
        [
            ("circuit_breaker/payments/trip", {"duration": 5}, "closed", "open"),
            ("circuit_breaker/payments/trip", None, "closed", "open"),
            ("circuit_breaker/payments/force_open", {}, "closed", "forced_open"),
            ("circuit_breaker/payments/disable", None, "closed", "disabled"),
            ("bulkhead/room/resize", {"max_concurrent": 3}, 10, 3),
            ("degradation/shop/force_level", {"level": "reduced"}, "normal", "reduced"),
        ],
    )
    def test_each_is_done_told_and_recorded(
        self,
        face: Face,
        health: Health,
        caplog: pytest.LogCaptureFixture,
        path: str,
        settings: Any,
        before: object,
        after: object,
    ) -> None:
        kind, name, action = path.split("/")
        with record_events() as events:
            answer = post(face, health, path, settings)

        assert answer.status == 200
        assert answer.json == {"policy_kind": kind, "policy": name, "action": action, "from": before, "to": after}
        (event,) = events
        assert (event.policy_kind, event.policy) == (kind, name)
        assert (event.data["from"], event.data["to"]) == (before, after)
        (record,) = (record for record in caplog.records if record.name == "resilient.admin")
        assert record.levelno == logging.WARNING
        assert {key: record.__dict__[key] for key in ("who", "peer", "action", "policy_kind", "policy")} == {
            "who": "oncall",
            "peer": "192.0.2.7",
            "action": action,
            "policy_kind": kind,
            "policy": name,
        }
        assert (record.__dict__["from_value"], record.__dict__["to_value"]) == (before, after)
        assert "who='oncall'" in record.getMessage()
        assert TOKEN not in caplog.text

    def test_a_breaker_is_reset(self, face: Face, health: Health, private: Registry) -> None:
        post(face, health, "circuit_breaker/payments/force_open")
        answer = post(face, health, "circuit_breaker/payments/reset")
        assert (answer.json["from"], answer.json["to"]) == ("forced_open", "closed")

    def test_a_level_is_let_go(self, face: Face, health: Health) -> None:
        post(face, health, "degradation/shop/force_level", {"level": "minimal"})
        answer = post(face, health, "degradation/shop/force_level", {"level": None})
        assert (answer.json["from"], answer.json["to"]) == ("minimal", "normal")

    def test_a_token_without_a_name_is_known_by_its_address(
        self, face: Face, private: Registry, caplog: pytest.LogCaptureFixture
    ) -> None:
        circuit_breaker("payments", registry=private)
        post(face, Health(token=TOKEN, admin=True, registry=private), "circuit_breaker/payments/trip")
        assert "who='192.0.2.7'" in caplog.text

    def test_a_name_may_hold_slashes_and_anything_else(self, face: Face, private: Registry) -> None:
        name = "a/b trip/ü.<locals>"
        breaker = circuit_breaker(name, registry=private)
        health = Health(token=TOKEN, admin=True, registry=private)

        assert post(face, health, f"circuit_breaker/{name}/trip").status == 200
        assert breaker.state == "open"

    @pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
    def test_changes_are_posted(self, face: Face, health: Health, method: str) -> None:
        answer = face.ask(health, "/admin/circuit_breaker/payments/trip", method=method, token=TOKEN)
        assert (answer.status, answer.headers["allow"]) == (405, "POST")

    @pytest.mark.parametrize(
        "path",
        [
            "",
            "nothing",
            "circuit_breaker",
            "circuit_breaker/payments",
            "circuit_breaker/other/trip",
            "circuit_breaker/room/trip",
            "circuit_breaker/payments/resize",
            "circuit_breaker/payments/call",
            "circuit_breaker/payments/__init__",
            "circuit_breaker//trip",
            "retry/payments/trip",
        ],
    )
    def test_what_there_is_not_is_not_found(self, face: Face, health: Health, path: str) -> None:
        assert post(face, health, path).status == 404


class TestBodies:
    @pytest.mark.parametrize(
        "path, body, says",
        [
            ("circuit_breaker/payments/trip", b"{", "the body is no JSON"),
            ("circuit_breaker/payments/trip", b"\xff\xfe\x00", "the body is no JSON"),
            ("circuit_breaker/payments/trip", b"[" * 60_000, "the body is no JSON"),
            ("circuit_breaker/payments/trip", b"[]", "the body is no JSON object"),
            ("circuit_breaker/payments/trip", b'{"for": 3}', "settings that there are: duration"),
            ("circuit_breaker/payments/reset", b'{"for": 3}', "settings that there are: none"),
            ("circuit_breaker/payments/trip", b'{"duration": -1}', "duration=-1 is not allowed"),
            ("circuit_breaker/payments/trip", b'{"duration": 1e999}', "duration=inf is not allowed"),
            ("circuit_breaker/payments/trip", b'{"duration": NaN}', "duration=nan is not allowed"),
            ("bulkhead/room/resize", b"", "max_concurrent must be given"),
            ("bulkhead/room/resize", b'{"max_concurrent": 0}', "max_concurrent=0 is not allowed"),
            ("bulkhead/room/resize", b'{"max_concurrent": true}', "max_concurrent=True is not allowed"),
            ("bulkhead/room/resize", b'{"max_concurrent": "3"}', "max_concurrent='3' is not allowed"),
            ("bulkhead/room/resize", b'{"max_concurrent": 1' + b"0" * 400 + b"}", "1000000 at most"),
            ("degradation/shop/force_level", b'{"level": "worse"}', "level='worse' is not allowed"),
            ("degradation/shop/force_level", b'{"level": ["normal"]}', "is not allowed"),
            ("degradation/shop/force_level", b"{}", "level must be given"),
        ],
    )
    def test_a_wrong_one_changes_nothing_and_is_told_why(
        self,
        face: Face,
        health: Health,
        private: Registry,
        clock: FakeClock,
        caplog: pytest.LogCaptureFixture,
        path: str,
        body: bytes,
        says: str,
    ) -> None:
        before = private.snapshot()
        answer = face.ask(health, f"/admin/{path}", method="POST", body=body, token=TOKEN)

        assert answer.status == 400
        assert says in answer.json["error"]
        assert len(answer.json["error"]) <= 200
        assert private.snapshot() == before
        assert not [record for record in caplog.records if record.name == "resilient.admin"]

    def test_one_that_is_too_long_is_not_read_to_its_end(self, face: Face, health: Health) -> None:
        body = b'{"duration": 1' + b" " * 70_000 + b"}"
        answer = face.ask(health, "/admin/circuit_breaker/payments/trip", method="POST", body=body, token=TOKEN)
        assert (answer.status, answer.json) == (413, {"error": "a body of 65536 bytes at most"})

    def test_no_more_of_it_is_taken_than_it_takes_to_refuse_it(self, health: Health) -> None:
        import asyncio

        taken: list[int] = []

        async def receive() -> Any:
            taken.append(1)
            return {"type": "http.request", "body": b" " * 16384, "more_body": len(taken) < 1000}

        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/admin/circuit_breaker/payments/trip",
            "headers": [(b"authorization", f"Bearer {TOKEN}".encode())],
        }
        asyncio.run(health.asgi()(scope, receive, send))  # type: ignore[arg-type]
        assert (sent[0]["status"], len(taken)) == (413, 5)

    def test_one_of_a_stranger_is_not_read_at_all(self, private: Registry) -> None:
        circuit_breaker("payments", registry=private)
        health = Health(token=TOKEN, admin=True, registry=private)

        class Unread:
            def read(self, size: int = -1) -> bytes:
                raise AssertionError

        environ = {
            "REQUEST_METHOD": "POST",
            "PATH_INFO": "/admin/circuit_breaker/payments/trip",
            "CONTENT_LENGTH": "10",
            "wsgi.input": Unread(),
        }
        statuses: list[str] = []
        health.wsgi()(environ, lambda status, headers: statuses.append(status))
        assert statuses == ["401 Unauthorized"]

    @pytest.mark.parametrize("length", ["", "-1", "1e3", "five", "٣", "99999999999999999999999999999999"])
    def test_a_length_that_is_none_breaks_nothing(self, health: Health, length: str) -> None:
        import io

        environ = {
            "REQUEST_METHOD": "POST",
            "PATH_INFO": "/admin/circuit_breaker/payments/trip",
            "CONTENT_LENGTH": length,
            "HTTP_AUTHORIZATION": f"Bearer {TOKEN}",
            "wsgi.input": io.BytesIO(b'{"duration": 1}'),
        }
        statuses: list[str] = []
        health.wsgi()(environ, lambda status, headers: statuses.append(status))
        assert statuses[0][:3] in ("200", "400")

    def test_a_client_that_goes_away_changes_nothing(self, health: Health, private: Registry) -> None:
        import asyncio

        incoming = [
            {"type": "http.request", "body": b'{"duration"', "more_body": True},
            {"type": "http.disconnect"},
        ]

        async def receive() -> Any:
            return incoming.pop(0)

        async def send(message: Any) -> None:
            raise AssertionError

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/admin/circuit_breaker/payments/trip",
            "headers": [(b"authorization", f"Bearer {TOKEN}".encode())],
        }
        asyncio.run(health.asgi()(scope, receive, send))  # type: ignore[arg-type]
        assert private.snapshot()["circuit_breaker"]["payments"]["state"] == "closed"

    def test_a_callable_of_the_users_that_raises_is_told(
        self, face: Face, private: Registry, caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken(turn: int) -> float:
            raise KeyError("postgres://app:hunter2@db")

        circuit_breaker("payments", open_duration=broken, registry=private)
        health = Health(token=TOKEN, admin=True, registry=private)

        answer = post(face, health, "circuit_breaker/payments/trip")

        assert answer.status == 500
        assert answer.json["error"].startswith("not done: KeyError")
        assert b"hunter2" not in answer.body
        assert "trip by" in caplog.text


def test_both_apps_say_the_same(health: Health) -> None:
    import asyncio

    headers = {"Authorization": f"Bearer {TOKEN}"}
    for path in ("/admin/nothing", "/admin/bulkhead/room/resize"):
        wsgi = ask_wsgi(health.wsgi(), path, "POST", headers, b"{}")
        asgi = asyncio.run(ask_asgi(health.asgi(), path, "POST", headers, b"{}"))
        assert (wsgi.status, wsgi.body, wsgi.headers) == (asgi.status, asgi.body, asgi.headers)
