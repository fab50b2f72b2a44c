"""What the endpoints answer, to whom; over WSGI, and over ASGI on asyncio and trio."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from resilient import CircuitOpenError, ConfigurationError, Registry, bulkhead, circuit_breaker, pipeline, retry
from resilient.degradation import Degradation
from resilient.health import Health, Request
from resilient.health.states import process_age
from resilient.lifecycle import Lifecycle
from resilient.testing import FakeClock
from tests.health.kit import Face, ask_asgi, ask_wsgi

TOKEN = "open-sesame"
SECRET = "hunter2"
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def broken() -> None:
    raise ConnectionError(f"postgres://app:{SECRET}@db/shop?sslkey={SECRET} refused, password={SECRET}")


def make(private: Registry, **settings: Any) -> Health:
    return Health(**{"service": "shop", "version": "1.4.2", "token": TOKEN, "registry": private, **settings})


class TestLive:
    def test_it_runs_nothing_and_says_how_old_the_process_is(self, face: Face, private: Registry) -> None:
        health = make(private)
        calls: list[int] = []
        health.add("database", lambda: calls.append(1))

        answer = face.ask(health, "/live")

        assert answer.status == 200
        assert list(answer.json) == ["status", "timestamp", "uptime_seconds"]
        assert answer.json["status"] == "healthy"
        assert INSTANT.fullmatch(answer.json["timestamp"])
        assert 0 < answer.json["uptime_seconds"] <= process_age() + 0.1
        assert not calls

    def test_nothing_that_fails_concerns_it(self, face: Face, private: Registry) -> None:
        breaker = circuit_breaker("payments", registry=private)
        breaker.force_open()
        health = make(private, critical=breaker)
        health.add("database", broken)
        health.drain()

        assert face.ask(health, "/live").status == 200


class TestReady:
    def test_all_is_well(self, face: Face, private: Registry, clock: FakeClock) -> None:
        health = make(private)
        health.add("database", lambda: clock.advance(0.0125))

        answer = face.ask(health, "/ready", token=TOKEN)

        assert answer.status == 200
        assert list(answer.json) == ["status", "timestamp", "checks"]
        assert answer.json["status"] == "healthy"
        assert answer.json["checks"] == {"database": {"status": "healthy", "response_time_ms": 12.5, "error": None}}

    def test_a_failing_critical_check_makes_503(self, face: Face, private: Registry) -> None:
        health = make(private)
        health.add("database", broken)
        health.add("disk", lambda: None)

        answer = face.ask(health, "/ready", token=TOKEN)

        assert (answer.status, answer.json["status"]) == (503, "unhealthy")
        assert answer.json["checks"]["database"]["status"] == "unhealthy"
        assert answer.json["checks"]["disk"]["status"] == "healthy"
        assert answer.json["reasons"] == ["check database: unhealthy"]

    def test_another_failing_check_makes_degraded_with_200(self, face: Face, private: Registry) -> None:
        health = make(private)
        health.add("cache", broken, critical=False)

        answer = face.ask(health, "/ready")

        assert (answer.status, answer.json["status"]) == (200, "degraded")
        assert answer.json["checks"] == {"cache": {"status": "unhealthy"}}

    def test_what_is_unhealthy_is_not_made_better_by_what_is_degraded(self, face: Face, private: Registry) -> None:
        health = make(private)
        health.add("database", broken)
        health.add("cache", broken, critical=False)

        assert face.ask(health, "/ready").json["status"] == "unhealthy"

    def test_draining_makes_503_until_resumed(self, face: Face, private: Registry) -> None:
        health = make(private)
        health.drain()
        answer = face.ask(health, "/ready", token=TOKEN)
        assert (answer.status, answer.json["reasons"]) == (503, ["draining"])

        health.resume()
        assert face.ask(health, "/ready").status == 200

    def test_a_process_that_ends_is_not_ready(self, face: Face, private: Registry) -> None:
        lifecycle = Lifecycle()
        health = make(private, lifecycle=lifecycle)
        assert face.ask(health, "/ready").status == 200

        lifecycle.drain()

        answer = face.ask(health, "/ready", token=TOKEN)
        assert (answer.status, answer.json["reasons"]) == (503, ["process is draining"])

    def test_a_degraded_level_makes_degraded_with_200(self, face: Face, private: Registry) -> None:
        degradation = Degradation(("full", "less"), name="shop", registry=private)
        health = make(private)
        assert face.ask(health, "/ready").json["status"] == "healthy"

        degradation.force_level("less")

        answer = face.ask(health, "/ready", token=TOKEN)
        assert (answer.status, answer.json["status"]) == (200, "degraded")
        assert answer.json["reasons"] == ["degradation shop: less"]
        assert face.ask(health, "/", token=TOKEN).json["degradation"] == {"shop": "less"}


class TestBreakers:
    def fail(self, breaker: Any) -> None:
        with pytest.raises(ConnectionError):
            breaker.call(broken)

    def test_an_open_one_makes_degraded_with_200(self, face: Face, private: Registry) -> None:
        breaker = circuit_breaker("payments", registry=private)
        health = make(private)
        assert face.ask(health, "/ready").json["status"] == "healthy"

        breaker.trip()

        for path in ("/ready", "/"):
            answer = face.ask(health, path, token=TOKEN)
            assert (answer.status, answer.json["status"]) == (200, "degraded")
            assert answer.json["reasons"] == ["circuit breaker payments: open"]

    def test_a_critical_one_makes_503_while_it_refuses(self, face: Face, private: Registry, clock: FakeClock) -> None:
        breaker = circuit_breaker("payments", open_duration=30, registry=private)
        health = make(private, critical=(breaker,))

        breaker.trip()
        assert face.ask(health, "/ready").status == 503
        clock.advance(29.9)
        assert face.ask(health, "/ready").status == 503
        breaker.force_open()
        assert face.ask(health, "/ready").status == 503
        breaker.reset()
        assert face.ask(health, "/ready").status == 200

    def test_a_critical_one_whose_break_is_over_needs_calls_to_close(
        self, face: Face, private: Registry, clock: FakeClock
    ) -> None:
        breaker = circuit_breaker("payments", open_duration=30, registry=private)
        health = make(private, critical=(breaker,))
        breaker.trip()
        clock.advance(30)

        answer = face.ask(health, "/ready")

        assert (answer.status, answer.json["status"]) == (200, "degraded")
        assert breaker.state == "open"

    def test_a_half_open_one_is_degraded_even_if_critical(
        self, face: Face, private: Registry, clock: FakeClock
    ) -> None:
        breaker = circuit_breaker("payments", open_duration=30, half_open_calls=2, registry=private)
        health = make(private, critical=(breaker,))
        breaker.trip()
        clock.advance(30)
        breaker.call(int)
        assert breaker.state == "half_open"

        answer = face.ask(health, "/ready")

        assert (answer.status, answer.json["status"]) == (200, "degraded")

    def test_a_disabled_one_is_no_worse(self, face: Face, private: Registry) -> None:
        breaker = circuit_breaker("payments", registry=private)
        breaker.disable()

        assert face.ask(make(private), "/ready").json["status"] == "healthy"

    def test_only_the_critical_one_itself_counts_not_one_of_its_name(self, face: Face, private: Registry) -> None:
        critical = circuit_breaker("payments", registry=Registry())
        health = make(private, critical=critical)
        circuit_breaker("payments", registry=private).force_open()

        assert face.ask(health, "/ready").status == 200
        critical.force_open()
        assert face.ask(health, "/ready").status == 503

    def test_a_critical_pipeline_stands_for_its_breakers(self, face: Face, private: Registry) -> None:
        breaker = circuit_breaker("payments", registry=private)
        health = make(private, critical=[pipeline("pay", retry(), breaker, registry=private)])
        breaker.force_open()

        assert face.ask(health, "/ready").status == 503

    @pytest.mark.parametrize("settings", [{}, {"half_open_failure_rate": 0.5}])
    def test_probing_takes_no_permit_and_changes_nothing(
        self, face: Face, private: Registry, clock: FakeClock, settings: Any
    ) -> None:
        """INVARIANT 35."""
        breaker = circuit_breaker(
            "payments", consecutive_failures=2, open_duration=30, half_open_calls=2, registry=private, **settings
        )
        room = bulkhead("room", max_concurrent=1, registry=private)
        health = make(private, critical=breaker)

        def probe_all() -> None:
            for path in ("/live", "/ready", "/startup", "/"):
                for _ in range(5):
                    face.ask(health, path, token=TOKEN)

        def unmoved() -> None:
            before = private.snapshot()
            probe_all()
            assert private.snapshot() == before

        self.fail(breaker)
        unmoved()
        self.fail(breaker)
        assert breaker.state == "open"
        unmoved()
        clock.advance(30)
        unmoved()
        assert breaker.state == "open"
        breaker.call(int)
        assert breaker.state == "half_open"
        unmoved()
        with room:
            unmoved()
        # Of the two permits of the half-open circuit one was used above, and the probes took none.
        breaker.call(int)
        assert breaker.state == "closed"

    def test_all_permits_of_a_half_open_one_are_left_to_calls(
        self, face: Face, private: Registry, clock: FakeClock
    ) -> None:
        breaker = circuit_breaker("payments", open_duration=30, half_open_calls=1, registry=private)
        health = make(private, critical=breaker)
        breaker.trip()
        clock.advance(30)

        def inside() -> str:
            for path in ("/ready", "/"):
                assert face.ask(health, path, token=TOKEN).status == 200
            with pytest.raises(CircuitOpenError):
                breaker.call(int)
            return "passed"

        for path in ("/ready", "/"):
            face.ask(health, path)
        assert breaker.call(inside) == "passed"
        assert breaker.state == "closed"

    @pytest.mark.parametrize("critical", ["payments", 3, [3], retry(), [pipeline(retry())], None])
    def test_what_is_no_breaker_is_not_critical(self, critical: Any) -> None:
        with pytest.raises(ConfigurationError) as caught:
            Health(critical=critical)
        assert caught.value.setting == "critical"

    def test_one_with_a_key_is_not_critical(self) -> None:
        with pytest.raises(ConfigurationError, match="one key that is open says little"):
            Health(critical=circuit_breaker(key=lambda tenant: tenant, registry=Registry()))


class TestStartup:
    def test_it_is_503_until_each_marked_check_has_passed_once(
        self, face: Face, private: Registry, clock: FakeClock
    ) -> None:
        warm = {"cache": False, "model": True}
        health = make(private)
        health.add("cache", lambda: warm["cache"], startup=True, ttl=0)
        health.add("model", lambda: warm["model"], startup=True, ttl=0)
        health.add("database", broken)

        answer = face.ask(health, "/startup", token=TOKEN)
        assert (answer.status, answer.json["status"]) == (503, "unhealthy")
        assert answer.json["reasons"] == ["check cache: not passed yet"]
        warm.update(cache=True, model=False)
        assert face.ask(health, "/startup").status == 200
        warm["cache"] = False
        assert face.ask(health, "/startup").status == 200
        health.add("late", lambda: False, startup=True)
        assert face.ask(health, "/startup").status == 200

    def test_having_passed_for_another_probe_counts(self, face: Face, private: Registry, clock: FakeClock) -> None:
        outcomes = iter([True, False])
        health = make(private)
        health.add("cache", lambda: next(outcomes), startup=True, ttl=0)
        face.ask(health, "/ready")

        assert face.ask(health, "/startup").status == 200

    def test_a_tolerated_failure_is_no_pass(self, face: Face, private: Registry) -> None:
        health = make(private)
        health.add("cache", lambda: False, startup=True, fail_after=5)

        assert face.ask(health, "/ready").status == 200
        assert face.ask(health, "/startup").status == 503

    def test_it_can_be_said_by_hand(self, face: Face, private: Registry) -> None:
        health = make(private)
        health.add("cache", lambda: False, startup=True)
        health.started()

        assert face.ask(health, "/startup").status == 200

    def test_with_no_such_check_it_is_healthy_at_once_whatever_else_fails(self, face: Face, private: Registry) -> None:
        health = make(private)
        health.add("database", broken)

        assert face.ask(health, "/startup").status == 200


class TestOverview:
    def test_it_shows_everything_to_those_with_a_token(self, face: Face, private: Registry) -> None:
        circuit_breaker("payments", registry=private)
        circuit_breaker("stock", registry=private).force_open()
        bulkhead("room", max_concurrent=3, registry=private)
        health = make(private)
        health.add("database", lambda: {"pool_in_use": 2})

        shown = face.ask(health, "/", token=TOKEN).json

        assert (shown["status"], shown["service"], shown["version"]) == ("degraded", "shop", "1.4.2")
        assert shown["checks"]["database"]["details"] == {"pool_in_use": 2}
        assert shown["circuit_breakers"] == {"payments": "closed", "stock": "forced_open"}
        assert shown["bulkheads"] == {"room": {"in_flight": 0, "limit": 3, "queued": 0, "max_queue": 0, "rejected": 0}}
        assert shown["degradation"] == {}
        assert list(shown["system"]) == ["memory_bytes", "cpu_seconds", "cpu_count", "threads", "uptime_seconds"]
        assert shown["system"]["memory_bytes"] > 1_000_000
        assert shown["system"]["threads"] >= 1

    def test_a_failing_critical_check_makes_503(self, face: Face, private: Registry) -> None:
        health = make(private)
        health.add("database", broken)

        assert face.ask(health, "/").status == 503

    def test_a_policy_that_can_not_be_read_is_left_out(
        self, face: Face, private: Registry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        good, bad = (circuit_breaker(name, registry=private) for name in ("good", "bad"))
        whole = type(bad).snapshot
        monkeypatch.setattr(type(bad), "snapshot", lambda self: 1 / 0 if self is bad else whole(self))

        assert face.ask(make(private), "/", token=TOKEN).json["circuit_breakers"] == {"good": "closed"}
        assert "can't be read" in caplog.text
        assert good.state == "closed"


class TestStrangers:
    WRONG = (None, "", "wrong", TOKEN + "x", TOKEN[:-1], TOKEN.upper(), f"{TOKEN}, {TOKEN}", "é", "\x00")

    @pytest.mark.parametrize("token", WRONG)
    def test_they_see_nothing_but_statuses(self, face: Face, private: Registry, token: str | None) -> None:
        """INVARIANT 35."""
        circuit_breaker("payments", registry=private).trip()
        health = make(private)
        health.add("database", broken)
        health.add("cache", lambda: {"size": 3})

        for path in ("/ready", "/"):
            shown = face.ask(health, path, token=token).json
            assert list(shown) == ["status", "timestamp", "checks"]
            assert shown["checks"] == {"database": {"status": "unhealthy"}, "cache": {"status": "healthy"}}
        health.add("model", broken, startup=True)
        starting = face.ask(health, "/startup", token=token).json
        assert list(starting) == ["status", "timestamp", "checks"]
        assert starting["checks"] == {"model": {"status": "unhealthy"}}
        health.remove("model")
        drafted = face.ask(health, "/", token=token, headers={"Accept": "application/health+json"}).json
        assert list(drafted) == ["status", "checks"]
        assert [sorted(entry) for (entry,) in drafted["checks"].values()] == [["status", "time"]] * 2

    @pytest.mark.parametrize("scheme", ["Basic ", "", "Token ", "Bearer", "Bearer\t"])
    def test_a_token_under_another_scheme_is_none(self, face: Face, private: Registry, scheme: str) -> None:
        shown = face.ask(make(private), "/", headers={"Authorization": scheme + TOKEN}).json
        assert "system" not in shown

    @pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER  "])
    def test_the_scheme_may_be_written_in_any_case(self, face: Face, private: Registry, scheme: str) -> None:
        assert "system" in face.ask(make(private), "/", headers={"Authorization": scheme + TOKEN}).json

    def test_each_of_several_tokens_opens(self, face: Face, private: Registry) -> None:
        health = make(private, token={"grafana": "one", "oncall": "two"})
        for token, opens in (("one", True), ("two", True), ("three", False)):
            assert ("system" in face.ask(health, "/", token=token).json) is opens

    def test_a_token_beyond_ascii_opens(self, private: Registry) -> None:
        health = make(private, token="schlüssel")
        sent = "schlüssel".encode().decode("latin-1")
        request = Request("GET", "/", {"authorization": f"Bearer {sent}"})
        assert "system" in json.loads(health.respond(request).body)

    def test_without_a_token_nobody_sees_details(self, face: Face, private: Registry) -> None:
        health = make(private, token=None)
        for token in (None, "", "None"):
            assert "system" not in face.ask(health, "/", token=token).json

    def test_details_may_be_for_everybody_or_nobody(self, face: Face, private: Registry) -> None:
        assert "system" in face.ask(make(private, details="always"), "/").json
        assert "system" not in face.ask(make(private, details="never"), "/", token=TOKEN).json

    def test_nothing_secret_leaves_through_an_error(self, face: Face, private: Registry) -> None:
        """INVARIANT 35."""
        health = make(private, details="always")
        health.add("database", broken)
        for headers in ({}, {"Accept": "application/health+json"}):
            answer = face.ask(health, "/", headers=headers)
            assert SECRET.encode() not in answer.body
            assert b"ConnectionError" in answer.body

    def test_tokens_are_compared_in_constant_time(
        self, face: Face, private: Registry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from resilient.health import responses

        compared: list[tuple[int, int]] = []

        def compare(one: bytes, other: bytes) -> bool:
            compared.append((len(one), len(other)))
            return one == other

        monkeypatch.setattr(responses, "compare_digest", compare)
        health = make(private, token={"a": "one", "b": "a much longer one"})
        face.ask(health, "/", token="one")

        # All of them, each in the same length, wherever the one that fits stands.
        assert compared == [(32, 32)] * 2

    def test_no_repr_shows_a_token(self, private: Registry) -> None:
        health = make(private, admin="another")
        assert TOKEN not in repr(health) + repr(vars(health))
        for wrong in ("", " ", " padded", b"bytes", {"name": ""}, {"name": 3}, ["a"]):
            with pytest.raises(ConfigurationError) as caught:
                Health(token=wrong)  # type: ignore[arg-type]
            assert "padded" not in str(caught.value)


class TestHttp:
    def test_no_answer_is_to_be_stored(self, face: Face, private: Registry) -> None:
        health = make(private)
        for path in ("/", "/live", "/ready", "/startup", "/nothing"):
            headers = face.ask(health, path).headers
            assert headers["cache-control"] == "no-store"
            assert headers["content-type"] == "application/json"
            assert headers["x-content-type-options"] == "nosniff"

    def test_a_head_has_the_headers_of_a_get(self, face: Face, private: Registry, clock: FakeClock) -> None:
        health = make(private)
        health.add("database", broken)
        for path in ("/", "/ready", "/startup", "/nothing"):
            get, head = (face.ask(health, path, method=method) for method in ("GET", "HEAD"))
            assert head.status == get.status
            assert head.headers == get.headers
            assert head.body == b""
            assert int(get.headers["content-length"]) == len(get.body)

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "get", "BREW"])
    def test_another_method_is_refused(self, face: Face, private: Registry, method: str) -> None:
        health = make(private)
        for path in ("/", "/live", "/ready", "/startup"):
            answer = face.ask(health, path, method=method)
            assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
            assert answer.json == {"error": "method not allowed"}

    @pytest.mark.parametrize("path", ["/nothing", "/live/x", "/livex", "//live", "/Live", "/admin", "/admin/policies"])
    def test_another_path_is_not_found(self, face: Face, private: Registry, path: str) -> None:
        answer = face.ask(make(private), path, token=TOKEN)
        assert (answer.status, answer.json) == (404, {"error": "not found"})

    def test_a_slash_at_the_end_is_no_other_path(self, face: Face, private: Registry) -> None:
        assert face.ask(make(private), "/live/").status == 200

    @pytest.mark.parametrize("root", ["", "/health", "/a/b/"])
    def test_it_answers_below_the_prefix_where_it_is_mounted(self, face: Face, private: Registry, root: str) -> None:
        health = make(private)
        for path in ("/live", "/"):
            assert face.ask(health, path, root=root.rstrip("/")).status == 200

    def test_servers_that_take_the_prefix_off_the_path_are_understood(self, private: Registry) -> None:
        async def main() -> list[int]:
            app = make(private).asgi()
            scope = {"type": "http", "method": "GET", "root_path": "/health", "headers": []}
            statuses: list[int] = []

            async def send(message: Any) -> None:
                statuses.append(message.get("status", 0))

            async def receive() -> Any: ...

            for path in ("/live", "/health/live", "/health", "/healthy/live"):
                await app({**scope, "path": path}, receive, send)
            return [status for status in statuses if status]

        assert asyncio.run(main()) == [200, 200, 200, 404]

    @pytest.mark.parametrize(
        "accept, media",
        [
            ("application/health+json", "application/health+json"),
            ("text/html, Application/Health+JSON ;q=0.5", "application/health+json"),
            ("application/health+json;q=0", "application/json"),
            ("application/json", "application/json"),
            ("*/*", "application/json"),
            ("application/*, ;;, ,", "application/json"),
        ],
    )
    def test_the_form_of_the_draft_is_for_those_who_ask_for_it(
        self, face: Face, private: Registry, accept: str, media: str
    ) -> None:
        for path in ("/", "/live", "/ready", "/startup"):
            answer = face.ask(make(private), path, headers={"Accept": accept})
            assert answer.headers["content-type"] == media
            assert answer.json["status"] == ("pass" if media.endswith("health+json") else "healthy")

    def test_the_draft_has_its_own_words(self, face: Face, private: Registry, clock: FakeClock) -> None:
        circuit_breaker("payments", registry=private).trip()
        health = make(private)
        health.add("database", broken)
        health.add("cache", lambda: False, critical=False)
        accept = {"Accept": "application/health+json"}

        answer = face.ask(health, "/", headers=accept, token=TOKEN)

        shown = answer.json
        assert (answer.status, shown["status"], shown["serviceId"], shown["version"]) == (503, "fail", "shop", "1.4.2")
        checks = {name: entry for name, (entry,) in shown["checks"].items()}
        assert [(name, entry["status"]) for name, entry in checks.items()] == [
            ("database:responseTime", "fail"),
            ("cache:responseTime", "warn"),
            ("payments:circuitBreaker", "warn"),
            ("uptime", "pass"),
        ]
        assert checks["cache:responseTime"]["output"] == "the check returned False"
        assert checks["payments:circuitBreaker"]["observedValue"] == "open"
        assert checks["database:responseTime"]["observedUnit"] == "ms"


class TestBeside:
    def test_an_application_gets_all_but_what_is_below_the_prefix(self, private: Registry) -> None:
        def application(environ: Any, start_response: Any) -> Any:
            start_response("204 No Content", [])
            return []

        app = make(private).wsgi(application, prefix="/health/")
        found = {path: ask_wsgi(app, path).status for path in ("/health", "/health/live", "/healthy", "/", "/live")}
        assert found == {"/health": 200, "/health/live": 200, "/healthy": 204, "/": 204, "/live": 204}

    def test_an_asgi_application_gets_websockets_and_its_lifespan_too(self, private: Registry) -> None:
        got: list[str] = []

        async def application(scope: Any, receive: Any, send: Any) -> None:
            got.append(scope["type"])
            if scope["type"] == "http":
                await send({"type": "http.response.start", "status": 204, "headers": []})
                await send({"type": "http.response.body", "body": b""})

        app = make(private).asgi(application)

        async def main() -> dict[str, int]:
            for kind in ("lifespan", "websocket"):
                await app({"type": kind, "path": "/health/live"}, None, None)  # type: ignore[arg-type]
            return {path: (await ask_asgi(app, path)).status for path in ("/health/live", "/live", "/health")}

        assert asyncio.run(main()) == {"/health/live": 200, "/live": 204, "/health": 200}
        assert got == ["lifespan", "websocket", "http"]

    @pytest.mark.parametrize("prefix", ["health", "//health", 3, None])
    def test_a_prefix_is_a_path(self, private: Registry, prefix: Any) -> None:
        for build in (make(private).wsgi, make(private).asgi):
            with pytest.raises(ConfigurationError):
                build(prefix=prefix)


class TestServed:
    def test_alone_it_answers_to_a_server_that_starts_and_stops(self, private: Registry) -> None:
        app = make(private).asgi()
        incoming = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
        sent: list[str] = []

        async def receive() -> Any:
            return incoming.pop(0)

        async def send(message: Any) -> None:
            sent.append(message["type"])

        asyncio.run(app({"type": "lifespan"}, receive, send))  # type: ignore[arg-type]
        assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]

    def test_a_websocket_is_closed(self, private: Registry) -> None:
        app = make(private).asgi()
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            sent.append(message)

        asyncio.run(app({"type": "websocket", "path": "/live"}, receive, send))  # type: ignore[arg-type]
        assert sent == [{"type": "websocket.close", "code": 1000}]

    def test_two_hundred_requests_run_each_check_once(self, private: Registry) -> None:
        """INVARIANT 35."""
        calls: list[str] = []
        health = make(private)

        async def slow() -> None:
            calls.append("async")
            await asyncio.sleep(0.05)

        health.add("sync", lambda: calls.append("sync"))
        health.add("async", slow)

        async def main() -> list[int]:
            app = health.asgi()
            return [answer.status for answer in await asyncio.gather(*(ask_asgi(app, "/ready") for _ in range(200)))]

        assert set(asyncio.run(main())) == {200}
        assert sorted(calls) == ["async", "sync"]
        calls.clear()
        again = make(private)
        again.add("sync", lambda: calls.append("sync"), ttl=60)
        with ThreadPoolExecutor(200) as pool:
            statuses = set(pool.map(lambda _: ask_wsgi(again.wsgi(), "/ready").status, range(200)))
        assert (statuses, calls) == ({200}, ["sync"])


class TestAdding:
    def test_a_function_stays_as_it_is(self, private: Registry) -> None:
        health = make(private)

        @health.check("database", timeout=1.0, ttl=0.5, critical=False, fail_after=2, startup=True)
        def ping() -> None: ...

        (check,) = health.checks
        assert check.function is ping
        assert (check.timeout, check.ttl, check.critical, check.fail_after, check.startup) == (1.0, 0.5, False, 2, True)

    def test_a_cell_that_is_run_twice_replaces_its_check(self, private: Registry) -> None:
        health = make(private)
        for timeout in (1.0, 2.0):

            def ping() -> None: ...

            health.add("database", ping, timeout=timeout)

        assert [check.timeout for check in health.checks] == [2.0]

    def test_another_function_of_the_same_name_is_refused(self, private: Registry) -> None:
        health = make(private)
        health.add("database", broken)
        with pytest.raises(ConfigurationError, match=r"test_probes\.broken has this one"):
            health.add("database", print)

    def test_a_check_that_is_removed_is_not_asked(self, face: Face, private: Registry) -> None:
        health = make(private)
        health.add("database", broken)
        assert health.remove("database")
        assert not health.remove("database")
        assert face.ask(health, "/ready").json["checks"] == {}

    def test_the_brackets_can_not_be_left_out(self, private: Registry) -> None:
        with pytest.raises(ConfigurationError, match=r'write @health.check\("database"\)'):
            make(private).check(broken)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "wrong",
        [{"service": 3}, {"version": 1.2}, {"details": True}, {"registry": None}, {"admin": True, "token": None}],
    )
    def test_a_wrong_setting_is_refused(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ConfigurationError) as caught:
            Health(**wrong)
        assert caught.value.setting == next(iter(wrong))


def test_the_package_imports_nothing_of_it_and_it_imports_nothing_heavy() -> None:
    heavy = ("asyncio", "anyio", "trio", "structlog", "prometheus_client", "opentelemetry", "sqlalchemy", "redis")
    program = (
        "import sys, resilient; assert not [name for name in sys.modules if name.startswith('resilient.health')]\n"
        f"import resilient.health; print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
