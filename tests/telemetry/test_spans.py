"""The tree of spans of a guarded call, and what they say."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.trace import SpanKind, StatusCode

from resilient import (
    CircuitOpenError,
    Registry,
    TimeoutExceededError,
    bulkhead,
    circuit_breaker,
    failover,
    fallback,
    pipeline,
    rate_limiter,
    retry,
    stale,
    timeout,
)
from resilient.testing import FakeClock, fake_clock
from tests.telemetry.spans_kit import Seen, Tree, own, recording

PATIENCE = 20.0


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    with recording(monkeypatch) as seen:
        yield seen


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def clock() -> Iterator[FakeClock]:
    with fake_clock() as clock:
        yield clock


def failing(times: int, error: type[Exception] = ConnectionError, result: object = "result") -> Callable[[], Any]:
    left = [error] * times

    def body() -> Any:
        if left:
            raise left.pop()
        return result

    return body


def raising(error: BaseException) -> Callable[[], Any]:
    def body() -> Any:
        raise error

    return body


class TestExecute:
    def test_its_name_kind_scope_and_what_it_says_at_the_start(self, seen: Seen, registry: Registry) -> None:
        pay = pipeline("pay", circuit_breaker(registry=registry), timeout(5, registry=registry), registry=registry)
        at_the_start: list[dict[str, Any]] = []
        pay.call(lambda: at_the_start.append(dict(seen.started[0].attributes or {})))
        assert at_the_start == [
            {"resilience.pipeline.name": "pay", "resilience.policy.types": ("circuit_breaker", "timeout")}
        ]
        span = seen.one("execute pay")
        assert (span.kind, span.instrumentation_scope and span.instrumentation_scope.name) == (
            SpanKind.INTERNAL,
            "resilient",
        )

    def test_of_a_success(self, seen: Seen, registry: Registry) -> None:
        pay = pipeline(
            "pay",
            fallback(default=0, registry=registry),
            retry(registry=registry),
            circuit_breaker(registry=registry),
            timeout(5, registry=registry),
            registry=registry,
        )
        assert pay.call(lambda: 1) == 1
        assert seen.tree() == [("execute pay", [])]
        assert own(seen.one("execute pay")) == {
            "resilience.pipeline.name": "pay",
            "resilience.policy.types": ("fallback", "retry", "circuit_breaker", "timeout"),
            "resilience.outcome": "success",
            "resilience.retry.result": "first_try",
            "resilience.circuit_breaker.state": "closed",
            "resilience.fallback.result": "not_needed",
        }
        assert seen.one("execute pay").status.status_code is StatusCode.UNSET

    @pytest.mark.parametrize(
        "error, outcome, kind",
        [
            (LookupError("secret"), "failure", "LookupError"),
            (TimeoutExceededError("late", policy="p", seconds=1.0), "timeout", "resilient.errors.TimeoutExceededError"),
            (
                CircuitOpenError("open", policy="p", retry_after=1.0),
                "rejected",
                "resilient.errors.CircuitOpenError",
            ),
        ],
    )
    def test_of_a_call_that_raises(
        self, seen: Seen, registry: Registry, error: Exception, outcome: str, kind: str
    ) -> None:
        with pytest.raises(type(error)):
            circuit_breaker("pay", registry=registry).call(raising(error))
        assert seen.named("execute pay") == [
            {
                "resilience.policy.types": ("circuit_breaker",),
                "resilience.outcome": outcome,
                "resilience.circuit_breaker.state": "closed",
                "error.type": kind,
            }
        ]
        span = seen.one("execute pay")
        assert (span.status.status_code, span.status.description, span.events) == (StatusCode.ERROR, None, ())

    @pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
    def test_of_a_call_that_is_cancelled(self, seen: Seen, registry: Registry, error: type[BaseException]) -> None:
        with pytest.raises(error):
            retry(name="pay", registry=registry).call(raising(error()))
        assert seen.named("execute pay") == [{"resilience.policy.types": ("retry",), "resilience.outcome": "cancelled"}]
        assert seen.one("execute pay").status.status_code is StatusCode.UNSET
        assert seen.one("execute pay").events == ()

    def test_the_state_of_the_breaker_is_that_at_entry(self, seen: Seen, registry: Registry, clock: FakeClock) -> None:
        breaker = circuit_breaker("pay", consecutive_failures=1, open_duration=10, half_open_calls=1, registry=registry)
        with pytest.raises(ConnectionError):
            breaker.call(failing(1))
        with pytest.raises(CircuitOpenError):
            breaker.call(failing(0))
        clock.advance(10)
        breaker.call(failing(0))
        breaker.call(failing(0))
        states = [span["resilience.circuit_breaker.state"] for span in seen.named("execute pay")]
        assert states == ["closed", "open", "open", "closed"]

    def test_the_time_in_a_queue_is_told_only_where_there_was_one(
        self, seen: Seen, registry: Registry, clock: FakeClock
    ) -> None:
        limiter = rate_limiter("pay", limit=1, period=2.0, max_wait=9.0, registry=registry)
        limiter.call(int)
        limiter.call(int)
        first, second = seen.named("execute pay")
        assert "resilience.rate_limiter.queue.duration" not in first
        assert second["resilience.rate_limiter.queue.duration"] == 2.0

    def test_the_time_in_the_queue_of_a_bulkhead(self, seen: Seen, registry: Registry) -> None:
        room = bulkhead("pay", max_concurrent=1, max_queue=1, registry=registry)
        inside, leave = threading.Event(), threading.Event()

        def stay() -> None:
            inside.set()
            leave.wait(PATIENCE)

        first = threading.Thread(target=room.call, args=[stay])
        second = threading.Thread(target=room.call, args=[int])
        first.start()
        inside.wait(PATIENCE)
        second.start()
        while not room.queued:
            pass
        leave.set()
        first.join(PATIENCE)
        second.join(PATIENCE)
        told = [span.get("resilience.bulkhead.queue.duration", 0.0) for span in seen.named("execute pay")]
        assert told[0] == 0.0
        assert told[1] > 0.0

    def test_a_result_that_a_retry_takes_from_a_fallback_inside_of_it(self, seen: Seen, registry: Registry) -> None:
        again, instead = retry(backoff=0, registry=registry), fallback(default=0, registry=registry)
        pipeline("pay", again, instead, registry=registry).call(failing(9))
        (said,) = seen.named("execute pay")
        assert (said["resilience.outcome"], said["resilience.retry.result"]) == ("fallback", "first_try")

    def test_a_refused_call_has_no_result_of_a_retry_that_it_did_not_reach(
        self, seen: Seen, registry: Registry
    ) -> None:
        breaker = circuit_breaker("pay", registry=registry)
        pay = pipeline(
            "pay", fallback(default=0, registry=registry), breaker, retry(registry=registry), registry=registry
        )
        breaker.trip()
        assert pay.call(int) == 0
        (said,) = seen.named("execute pay")
        assert "resilience.retry.result" not in said
        assert said["resilience.circuit_breaker.state"] == breaker.state.value


class TestRetries:
    def test_every_further_attempt_is_a_span(self, seen: Seen, registry: Registry, clock: FakeClock) -> None:
        retry(name="pay", attempts=4, backoff=[0.5, 2.0], registry=registry).call(failing(2))
        assert seen.tree() == [("execute pay", [("attempt pay", []), ("attempt pay", [])])]
        assert seen.named("attempt pay") == [
            {
                "resilience.attempt.number": 2,
                "resilience.retry.backoff": 0.5,
                "resilience.attempt.result": "retryable_failure",
            },
            {"resilience.attempt.number": 3, "resilience.retry.backoff": 2.0, "resilience.attempt.result": "success"},
        ]
        (said,) = seen.named("execute pay")
        assert (said["resilience.attempt.count"], said["resilience.retry.result"]) == (3, "recovered")
        assert [span.status.status_code for span in seen.ended] == [StatusCode.UNSET] * 3

    @pytest.mark.parametrize(
        "settings, last, result, count, outcome",
        [
            ({"attempts": 2}, "retryable_failure", "exhausted", 2, "failure"),
            ({"attempts": 9, "max_duration": 1.5}, "retryable_failure", "deadline", 2, "failure"),
            ({"attempts": 9, "on": ConnectionError}, "failure", "not_retryable", 2, "failure"),
        ],
    )
    def test_a_retry_that_gives_up_says_why(
        self,
        seen: Seen,
        registry: Registry,
        clock: FakeClock,
        settings: dict[str, Any],
        last: str,
        result: str,
        count: int,
        outcome: str,
    ) -> None:
        errors = iter([ConnectionError, LookupError, LookupError])

        def body() -> None:
            raise next(errors)

        with pytest.raises(LookupError):
            retry(name="pay", backoff=1.0, registry=registry, **settings).call(body)
        assert [span["resilience.attempt.result"] for span in seen.named("attempt pay")] == [last]
        (said,) = seen.named("execute pay")
        assert (said["resilience.retry.result"], said["resilience.attempt.count"]) == (result, count)
        assert (said["resilience.outcome"], said["error.type"]) == (outcome, "LookupError")

    def test_the_error_of_an_attempt_is_no_error_of_its_span(self, seen: Seen, registry: Registry) -> None:
        with pytest.raises(ConnectionError):
            retry(name="pay", attempts=2, backoff=0, registry=registry).call(failing(9))
        assert seen.one("attempt pay").status.status_code is StatusCode.UNSET
        assert seen.one("attempt pay").events == ()

    def test_a_result_that_nobody_wants(self, seen: Seen, registry: Registry) -> None:
        retry(name="pay", on_result=lambda result: result is None, attempts=2, backoff=0, registry=registry).call(
            failing(0, result=None)
        )
        (said,) = seen.named("execute pay")
        assert (said["resilience.outcome"], said["resilience.retry.result"]) == ("success", "exhausted")
        assert [span["resilience.attempt.result"] for span in seen.named("attempt pay")] == ["retryable_failure"]

    @pytest.mark.parametrize("setting", ["on", "on_result", "retry_after"])
    def test_an_attempt_ends_also_where_a_question_to_the_user_fails(
        self, seen: Seen, registry: Registry, setting: str
    ) -> None:
        asked: list[None] = []

        def question(_: object) -> Any:
            asked.append(None)
            if len(asked) == 2:
                raise ZeroDivisionError
            return None if setting == "retry_after" else True

        settings: dict[str, Any] = {setting: question}
        with pytest.raises(ZeroDivisionError):
            retry(name="pay", backoff=0, registry=registry, **settings).call(
                failing(0 if setting == "on_result" else 9)
            )
        assert [span["resilience.attempt.result"] for span in seen.named("attempt pay")] == ["failure"]

    def test_an_attempt_that_is_cancelled(self, seen: Seen, registry: Registry) -> None:
        errors = iter([ConnectionError(), KeyboardInterrupt()])

        def body() -> None:
            raise next(errors)

        with pytest.raises(KeyboardInterrupt):
            retry(name="pay", backoff=0, registry=registry).call(body)
        assert [span["resilience.attempt.result"] for span in seen.named("attempt pay")] == ["cancelled"]
        assert seen.one("execute pay").attributes["resilience.outcome"] == "cancelled"  # type: ignore[index]

    def test_user_spans_stand_below_the_attempt_that_they_belong_to(self, seen: Seen, registry: Registry) -> None:
        number = 0

        @retry(name="pay", backoff=0, registry=registry)
        def body() -> None:
            nonlocal number
            number += 1
            with seen.user(f"user {number}"):
                if number < 3:
                    raise ConnectionError

        with seen.user("request"):
            body()
        pay: Tree = [("user 1", []), ("attempt pay", [("user 2", [])]), ("attempt pay", [("user 3", [])])]
        name = seen.tree()[0][1][0][0]
        assert name.startswith("execute ")
        below = [(span.replace(name.removeprefix("execute "), "pay"), rest) for span, rest in seen.tree()[0][1][0][1]]
        assert below == pay

    def test_a_guarded_call_in_a_guarded_call_has_a_tree_of_its_own(self, seen: Seen, registry: Registry) -> None:
        inner = retry(name="inner", backoff=0, registry=registry)
        outer = retry(name="outer", backoff=0, registry=registry)
        bodies = iter([failing(1), failing(9), failing(1)])

        def call_inner() -> Any:
            return inner.call(next(bodies))

        outer.call(lambda: (call_inner(), failing(0)())[1])
        with pytest.raises(ConnectionError):
            retry(name="outer2", attempts=1, registry=registry).call(call_inner)
        assert seen.tree() == [
            ("execute outer", [("execute inner", [("attempt inner", [])])]),
            ("execute outer2", [("execute inner", [("attempt inner", []), ("attempt inner", [])])]),
        ]
        results = [span.get("resilience.retry.result") for span in seen.named("execute outer")]
        assert results == ["first_try"]


class TestFallbacks:
    @pytest.mark.parametrize("made", ["default", "handler", "stale", "failover"])
    def test_what_stands_in_is_a_span(self, seen: Seen, registry: Registry, made: str) -> None:
        def handler() -> str:
            with seen.user():
                return "instead"

        body = failing(9)
        call: Any
        if made == "default":
            assert fallback(default="instead", name="pay", registry=registry).call(body) == "instead"
        elif made == "handler":
            assert fallback(handler, name="pay", registry=registry).call(body) == "instead"
        elif made == "stale":
            kept = stale(0, 60, name="pay", registry=registry)
            bodies = iter([failing(0, result="instead"), body])
            call = kept(lambda: next(bodies)())
            call()
            assert own(seen.ended[0])["resilience.fallback.result"] == "not_needed"
            seen.clear()
            assert call() == "instead"
        else:
            call = failover(("one", body), ("two", handler), name="pay", registry=registry)
            assert call() == "instead"
        execute, *_ = seen.tree()
        users: Tree = [("user", [])] if made in ("handler", "failover") else []
        assert [below for _, below in execute[1]] == [users]
        (said,) = [own(span) for span in seen.ended if span.name.startswith("execute")]
        assert (said["resilience.outcome"], said["resilience.fallback.result"]) == ("fallback", "applied")
        assert "error.type" not in said
        (part,) = [span for span in seen.ended if span.name.startswith("fallback ")]
        assert own(part)["resilience.fallback.result"] == "applied"
        assert [span.status.status_code for span in seen.ended] == [StatusCode.UNSET] * len(seen.ended)

    def test_a_handler_that_fails(self, seen: Seen, registry: Registry) -> None:
        with pytest.raises(LookupError):
            fallback(failing(9, LookupError), name="pay", registry=registry).call(failing(9))
        assert seen.named("fallback pay") == [{"resilience.fallback.result": "failed"}]
        (said,) = seen.named("execute pay")
        assert (said["resilience.outcome"], said["resilience.fallback.result"], said["error.type"]) == (
            "failure",
            "failed",
            "LookupError",
        )

    def test_a_handler_that_is_cancelled_has_no_result(self, seen: Seen, registry: Registry) -> None:
        with pytest.raises(KeyboardInterrupt):
            fallback(raising(KeyboardInterrupt()), name="pay", registry=registry).call(failing(9))
        assert seen.named("fallback pay") == [{}]
        assert seen.named("execute pay") == [
            {"resilience.policy.types": ("fallback",), "resilience.outcome": "cancelled"}
        ]
