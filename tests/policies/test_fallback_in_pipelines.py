"""Fallbacks with other policies around and inside, and how their pipelines count."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from resilient import (
    BulkheadFullError,
    CircuitOpenError,
    CircuitState,
    Registry,
    RetryExhaustedError,
    TimeoutExceededError,
    bulkhead,
    circuit_breaker,
    fallback,
    pipeline,
    retry,
    stale,
    timeout,
)
from resilient.drivers import tasks
from resilient.fused import is_guarded
from resilient.operation import Served
from resilient.pipeline import Faces
from resilient.policies.rate_limiter import rate_limiter
from resilient.policies.throttle import throttle
from resilient.testing import FakeClock
from tests.policies.fallback_kit import FACES, Face, run


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture(params=FACES, ids=str)
def face(request: pytest.FixtureRequest) -> Face:
    chosen: Face = request.param
    return chosen


def failing(*args: object) -> Any:
    raise ConnectionError("down")


def outcomes(registry: Registry, name: str) -> dict[str, int]:
    calls: Any = registry.snapshot()["pipeline"][name]["calls"]
    return {outcome: count for outcome, count in calls.items() if count}


def error_name(error: Exception) -> str:
    return type(error).__name__


class TestAroundOtherPolicies:
    def test_it_sees_an_open_circuit(self, face: Face, registry: Registry) -> None:
        breaker = circuit_breaker(consecutive_failures=1, registry=registry)
        instead = fallback(lambda error: error_name(error), pass_error=True, registry=registry)
        guarded = face.guard(pipeline("search", instead, breaker, registry=registry), failing_without_arguments)
        assert [guarded(), guarded()] == ["ConnectionError", "CircuitOpenError"]
        totals: Any = breaker.snapshot()["totals"]
        assert (totals["failure"], totals["rejected"]) == (1, 1)

    def test_it_sees_that_the_time_is_up(self, face: Face, registry: Registry, fake_clock: FakeClock) -> None:
        instead = fallback(lambda error: error_name(error), pass_error=True, registry=registry)
        policy = pipeline("search", instead, timeout(1.0, registry=registry), registry=registry)

        def late() -> str:
            fake_clock.advance(2.0)
            return "late"

        async def async_late() -> str:
            await tasks.sleep(2.0)
            return "late"

        if face.backend == "thread":
            assert face.guard(policy, late)() == "TimeoutExceededError"
        else:
            assert run(face.backend, policy(async_late)) == "TimeoutExceededError"
        assert outcomes(registry, "search") == {"fallback": 1}

    def test_it_sees_the_last_error_of_a_retry(self, face: Face, registry: Registry, fake_clock: FakeClock) -> None:
        calls: list[int] = []

        def body() -> None:
            calls.append(1)
            raise ConnectionError(f"attempt {len(calls)}")

        instead = fallback(str, pass_error=True, registry=registry)
        policy = pipeline(instead, retry(attempts=3, backoff=1, registry=registry), registry=registry)
        assert face.guard(policy, body)() == "attempt 3"
        assert fake_clock.sleeps == [1.0, 1.0]

    def test_it_sees_an_exhausted_retry(self, registry: Registry, fake_clock: FakeClock) -> None:
        again = retry(on_result=lambda x: x is None, attempts=2, on_exhausted="raise", registry=registry)
        policy = pipeline(fallback(default=1, on=RetryExhaustedError, registry=registry), again, registry=registry)
        assert policy.call(lambda: None) == 1

    @pytest.mark.parametrize(
        "make",
        [
            lambda registry: rate_limiter(limit=1, period=60.0, registry=registry),
            lambda registry: throttle(k=1.0, registry=registry),
        ],
        ids=["rate limiter", "throttle"],
    )
    def test_it_sees_a_limit(self, make: Callable[[Registry], Faces], registry: Registry) -> None:
        limit: Any = make(registry)
        policy = pipeline("search", fallback(default="instead", registry=registry), limit, registry=registry)
        served = [policy.call(failing_if, number > 0) for number in range(50)]
        assert served[0] == "through"
        assert set(served[1:]) == {"instead"}

    def test_it_sees_a_full_bulkhead(self, face: Face, registry: Registry) -> None:
        room = bulkhead(max_concurrent=1, registry=registry)
        seen: list[Exception] = []

        def instead(error: Exception) -> str:
            seen.append(error)
            return "instead"

        with room:
            policy = pipeline(fallback(instead, pass_error=True, registry=registry), room, registry=registry)
            assert face.guard(policy, lambda: "through")() == "instead"
        assert [type(error) for error in seen] == [BulkheadFullError]
        assert room.in_flight == 0

    def test_named_rejections_alone_can_be_replaced(self, registry: Registry) -> None:
        breaker = circuit_breaker(consecutive_failures=1, registry=registry)
        policy = pipeline(fallback(default="instead", on=CircuitOpenError, registry=registry), breaker)
        with pytest.raises(ConnectionError):
            policy.call(failing)
        assert policy.call(failing) == "instead"

    @pytest.mark.parametrize("backend", ["asyncio", "trio"])
    def test_a_cancellation_by_a_timeout_outside_is_not_replaced(
        self, backend: str, registry: Registry, fake_clock: FakeClock
    ) -> None:
        async def body() -> None:
            await tasks.sleep(2.0)

        inner = fallback(default=1, registry=registry)
        policy = pipeline("search", timeout(1.0, registry=registry), inner, registry=registry)
        with pytest.raises(TimeoutExceededError):
            run(backend, policy(body))
        assert inner.snapshot()["calls"] == {"not_needed": 0, "applied": 0, "failed": 0}
        assert outcomes(registry, "search") == {"timeout": 1}

    def test_a_breaker_around_it_counts_a_success(self, face: Face, registry: Registry) -> None:
        breaker = circuit_breaker(consecutive_failures=1, registry=registry)
        policy = pipeline("search", breaker, fallback(default=1, registry=registry), registry=registry)
        assert face.guard(policy, failing)() == 1
        assert breaker.state is CircuitState.CLOSED

    def test_stale_inside_comes_first(self, face: Face, registry: Registry, fake_clock: FakeClock) -> None:
        broken = False

        def body() -> str:
            if broken:
                raise ConnectionError
            return "good"

        policy = pipeline(
            "search", fallback(default="nothing", registry=registry), stale(0, 60, registry=registry), registry=registry
        )
        guarded = face.guard(policy, body)
        assert guarded() == "good"
        broken = True
        assert guarded() == "good"
        fake_clock.advance(60)
        assert guarded() == "nothing"
        assert outcomes(registry, "search") == {"success": 1, "fallback": 2}


def failing_without_arguments() -> Any:
    raise ConnectionError("down")


def failing_if(fails: bool) -> str:
    if fails:
        raise ConnectionError
    return "through"


class TestWhoAsksAboutAResult:
    """Sees what the caller will see, and not what carries it."""

    def test_a_retry_around_it(self, face: Face, registry: Registry, fake_clock: FakeClock) -> None:
        asked: list[object] = []

        def unwanted(result: object) -> bool:
            asked.append(result)
            return result == "instead"

        again = retry(on_result=unwanted, attempts=2, backoff=1, retry_after=asked.append, registry=registry)
        policy = pipeline("search", again, fallback(default="instead", registry=registry), registry=registry)
        assert face.guard(policy, failing)() == "instead"
        assert asked == ["instead"] * 3
        assert outcomes(registry, "search") == {"fallback": 1}

    def test_the_error_of_an_exhausted_retry_around_it(self, registry: Registry, fake_clock: FakeClock) -> None:
        again = retry(on_result=bool, attempts=2, on_exhausted="raise", registry=registry)
        policy = pipeline(again, fallback(default="instead", registry=registry), registry=registry)
        with pytest.raises(RetryExhaustedError) as raised:
            policy.call(failing)
        assert raised.value.result == "instead"

    def test_a_breaker_around_it(self, face: Face, registry: Registry) -> None:
        asked: list[object] = []
        breaker = circuit_breaker(on_result=asked.append, registry=registry)
        policy = pipeline(breaker, fallback(default="instead", registry=registry), registry=registry)
        assert face.guard(policy, failing)() == "instead"
        assert asked == ["instead"]

    def test_a_fallback_around_it(self, face: Face, registry: Registry) -> None:
        outer = fallback(default="outer", on_result=lambda result: result == "inner", registry=registry)
        policy = pipeline("search", outer, fallback(default="inner", registry=registry), registry=registry)
        assert face.guard(policy, failing)() == "outer"
        assert face.guard(policy, lambda: "fine")() == "fine"
        assert outcomes(registry, "search") == {"success": 1, "fallback": 1}

    def test_a_stale_cache_around_it_keeps_nothing_of_it(self, face: Face, registry: Registry) -> None:
        kept = stale(60, 60, registry=registry)
        policy = pipeline("search", kept, fallback(default="instead", registry=registry), registry=registry)
        guarded = face.guard(policy, failing)
        assert [guarded(), guarded()] == ["instead", "instead"]
        assert kept.snapshot()["keys"] == 0
        assert outcomes(registry, "search") == {"fallback": 2}


class TestOutcomes:
    def test_what_a_fallback_served_counts_apart(self, face: Face, registry: Registry) -> None:
        policy = pipeline("search", fallback(default=1, on=ConnectionError, registry=registry), registry=registry)
        face.guard(policy, failing)()
        face.guard(policy, lambda: 2)()
        with pytest.raises(ZeroDivisionError):
            face.guard(policy, lambda: 1 // 0)()
        assert outcomes(registry, "search") == {"success": 1, "fallback": 1, "failure": 1}
        snapshot: Any = registry.snapshot()["pipeline"]["search"]
        assert (snapshot["errors"], snapshot["active"]) == ({"ZeroDivisionError": 1}, 0)

    def test_it_takes_the_time_that_it_took(self, face: Face, registry: Registry, fake_clock: FakeClock) -> None:
        def slow() -> None:
            fake_clock.advance(2.0)
            raise ConnectionError

        policy = pipeline("search", fallback(default=1, registry=registry), registry=registry)
        face.guard(policy, slow)()
        histogram = registry.call_meter("search").durations()["fallback", None]
        assert (histogram.count, histogram.sum) == (1, 2.0)

    def test_the_series_is_there_from_the_start(self, registry: Registry) -> None:
        pipeline("search", fallback(default=1, registry=registry), registry=registry)(failing)
        assert ("fallback", None) in registry.call_meter("search").durations()

    def test_fresh_results_are_successes(self, face: Face, registry: Registry) -> None:
        guarded = face.guard(pipeline("search", stale(60, 60, registry=registry), registry=registry), lambda: 1)
        guarded()
        guarded()
        assert outcomes(registry, "search") == {"success": 2}

    def test_a_guarded_function_inside_another_hands_out_values(self, registry: Registry) -> None:
        inner = fallback(default=1, registry=registry)(failing)

        @retry(registry=registry)
        def outer() -> object:
            return inner()

        assert outer() == 1

    @pytest.mark.parametrize("form", ["decorator", "call"])
    def test_a_type_error_about_the_function_passes_the_fallback(self, form: str, registry: Registry) -> None:
        async def body() -> None: ...

        policy = fallback(default=1, registry=registry)
        with pytest.raises(TypeError, match=r"coroutine|call_async"):
            policy(lambda: body())() if form == "decorator" else policy.call(lambda: body())

    def test_pipelines_without_a_fallback_do_not_pay_for_it(self, registry: Registry) -> None:
        plain = retry(registry=registry)(failing)
        falling_back = fallback(default=1, registry=registry)(failing)
        assert is_guarded(plain)
        assert is_guarded(falling_back)
        assert "Served" in falling_back.__code__.co_names
        assert "Served" not in plain.__code__.co_names
        assert ("fallback", None) not in registry.call_meter("absent").durations()

    def test_the_carrier_never_reaches_the_caller(self, face: Face, registry: Registry, fake_clock: FakeClock) -> None:
        around: list[Any] = [
            retry(registry=registry),
            circuit_breaker(registry=registry),
            timeout(5, registry=registry),
            bulkhead(registry=registry),
            rate_limiter(limit=10, registry=registry),
            throttle(registry=registry),
            stale(5, 60, registry=registry),
        ]
        policy = pipeline("search", *around, fallback(default=1, registry=registry), registry=registry)
        result = face.guard(policy, failing)()
        assert type(result) is not Served
        assert result == 1

    def test_stacked_above_it_they_are_one_pipeline(self, registry: Registry) -> None:
        guarded = retry(on_result=lambda result: False, registry=registry)(
            fallback(default=1, registry=registry)(failing)
        )
        assert guarded() == 1
        assert outcomes(registry, f"{__name__}.failing") == {"fallback": 1}

    def test_calls_at_the_same_time_are_counted_each(self, registry: Registry) -> None:
        async def body() -> None:
            await asyncio.sleep(0)
            raise ConnectionError

        async def main() -> list[Any]:
            guarded = pipeline("search", fallback(default=1, registry=registry), registry=registry)(body)
            return await asyncio.gather(*[guarded() for _ in range(100)])

        assert run("asyncio", partial(main)) == [1] * 100
        assert outcomes(registry, "search") == {"fallback": 100}
