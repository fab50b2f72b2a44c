"""Failover: providers in order, each behind its own breaker, under one deadline."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from resilient import (
    CircuitBreaker,
    CircuitOpenError,
    CircuitState,
    Registry,
    TimeoutExceededError,
    circuit_breaker,
    failover,
    timeout,
)
from resilient.drivers import tasks
from resilient.testing import FakeClock, record_events
from tests.policies.failover_kit import Provider, build, counts, outcomes, policy_in
from tests.policies.fallback_kit import as_async, run


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture(params=["thread", "asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture
def primary() -> Provider:
    return Provider("primary")


@pytest.fixture
def replica() -> Provider:
    return Provider("replica")


@pytest.fixture
def search(backend: str, primary: Provider, replica: Provider, registry: Registry) -> Callable[..., Any]:
    return build(backend, ("primary", primary), ("replica", replica), name="search", registry=registry)


class TestOrder:
    def test_the_first_is_asked_first(self, search: Callable[..., Any], replica: Provider, registry: Registry) -> None:
        assert search(1) == ("primary", 1)
        assert replica.calls == 0
        assert counts(registry) == {"not_needed": 1}
        assert outcomes(registry, "search") == {"success": 1}

    def test_where_it_fails_the_next_is_asked_with_the_same_arguments(
        self, search: Callable[..., Any], primary: Provider, registry: Registry
    ) -> None:
        primary.error = ConnectionError("down")
        with record_events() as events:
            assert search(1) == ("replica", 1)
        assert counts(registry) == {"applied": 1}
        assert outcomes(registry, "search") == {"fallback": 1}
        assert policy_in(registry).snapshot()["served"] == {"primary": 0, "replica": 1}
        assert [(event.kind, event.policy_kind, event.policy, dict(event.data)) for event in events] == [
            ("fallback_applied", "failover", "search", {"provider": "replica", "error": "ConnectionError"})
        ]

    def test_other_errors_are_raised_at_once(
        self, backend: str, primary: Provider, replica: Provider, registry: Registry
    ) -> None:
        search = build(backend, ("primary", primary), ("replica", replica), on=ConnectionError, registry=registry)
        primary.error = ValueError("bad word")
        with pytest.raises(ValueError, match="bad word") as raised:
            search(1)
        assert raised.value is primary.error
        assert replica.calls == 0
        assert counts(registry) == {"not_needed": 1}

    def test_errors_of_a_predicate_propagate(
        self, backend: str, primary: Provider, replica: Provider, registry: Registry
    ) -> None:
        def on(error: BaseException) -> bool:
            raise LookupError

        search = build(backend, ("primary", primary), ("replica", replica), on=on, registry=registry)
        primary.error = ConnectionError()
        with pytest.raises(LookupError):
            search()

    @pytest.mark.parametrize("neutral", [KeyboardInterrupt, SystemExit, GeneratorExit])
    def test_neutral_exceptions_are_raised_at_once(
        self, neutral: type[BaseException], primary: Provider, replica: Provider, registry: Registry
    ) -> None:
        search = failover(("primary", primary), ("replica", replica), on=BaseException, registry=registry)
        primary.error = neutral()
        with pytest.raises(neutral) as raised:
            search()
        assert raised.value is primary.error
        assert replica.calls == 0
        assert counts(registry) == {}


class TestBreakers:
    def test_each_provider_has_its_own(self, search: Callable[..., Any], registry: Registry) -> None:
        assert [breaker.name for breaker in registry.all(CircuitBreaker)] == ["search.primary", "search.replica"]

    def test_one_that_is_open_is_skipped(
        self, search: Callable[..., Any], primary: Provider, registry: Registry
    ) -> None:
        primary.error = ConnectionError("down")
        for _ in range(7):
            assert search() == ("replica",)
        assert primary.calls == 5
        assert policy_in(registry).snapshot()["providers"] == {"primary": "open", "replica": "closed"}

    def test_it_is_skipped_whatever_on_says(
        self, backend: str, primary: Provider, replica: Provider, registry: Registry
    ) -> None:
        search = build(
            backend, ("primary", primary), ("replica", replica), on=ConnectionError, name="search", registry=registry
        )
        breaker = registry.find(CircuitBreaker, "search.primary")
        assert breaker is not None
        breaker.force_open()
        assert search() == ("replica",)

    def test_it_is_asked_again_when_the_break_is_over(
        self, search: Callable[..., Any], primary: Provider, registry: Registry, fake_clock: FakeClock
    ) -> None:
        primary.error = ConnectionError("down")
        for _ in range(5):
            search()
        primary.error = None
        assert search() == ("replica",)
        fake_clock.advance(30)
        assert search() == ("primary",)

    def test_one_made_before_under_that_name_is_used(
        self, backend: str, primary: Provider, replica: Provider, registry: Registry
    ) -> None:
        own = circuit_breaker("search.primary", consecutive_failures=1, registry=registry)
        search = build(backend, ("primary", primary), ("replica", replica), name="search", registry=registry)
        primary.error = ConnectionError("down")
        search()
        assert own.state is CircuitState.OPEN

    def test_unnamed_ones_share_nothing(self, registry: Registry) -> None:
        def make(host: str) -> Callable[[], str]:
            def ask() -> str:
                raise ConnectionError

            return failover(("ask", ask), ("default", lambda: host), registry=registry)

        one, other = make("one"), make("other")
        for _ in range(6):
            one()
        one_breaker = one.__resilient__.policies[0]._breakers[0]  # type: ignore[attr-defined]
        other_breaker = other.__resilient__.policies[0]._breakers[0]  # type: ignore[attr-defined]
        assert (one_breaker.state, other_breaker.state) == (CircuitState.OPEN, CircuitState.CLOSED)

    def test_an_open_breaker_of_the_providers_own_is_an_error_as_any(self, registry: Registry) -> None:
        inner = circuit_breaker("inner", registry=registry)
        inner.force_open()
        picky = failover(("a", inner(lambda: 1)), ("b", lambda: 2), on=ConnectionError, registry=registry)
        with pytest.raises(CircuitOpenError) as raised:
            picky()
        assert raised.value.policy == "inner"
        assert failover(("a", inner(lambda: 1)), ("b", lambda: 2), name="other", registry=registry)() == 2


class TestAllFail:
    def test_the_group_holds_the_error_of_each_in_order(
        self, search: Callable[..., Any], primary: Provider, replica: Provider, registry: Registry
    ) -> None:
        primary.error, replica.error = ConnectionError("down"), KeyError("gone")
        with pytest.raises(ExceptionGroup) as raised:
            search()
        assert raised.value.exceptions == (primary.error, replica.error)
        assert raised.value.exceptions[0] is primary.error
        assert str(raised.value) == (
            "failover 'search': all providers failed (primary: ConnectionError, replica: KeyError) (2 sub-exceptions)"
        )
        assert counts(registry) == {"failed": 1}
        assert outcomes(registry, "search") == {"failure": 1}

    def test_skipped_ones_are_in_it(self, search: Callable[..., Any], replica: Provider, registry: Registry) -> None:
        breaker = registry.find(CircuitBreaker, "search.primary")
        assert breaker is not None
        breaker.trip(12)
        replica.error = KeyError("gone")
        with pytest.raises(ExceptionGroup) as raised:
            search()
        skipped, failed = raised.value.exceptions
        assert isinstance(skipped, CircuitOpenError)
        assert skipped.policy == "search.primary"
        assert failed is replica.error

    def test_the_group_can_be_pickled(self, primary: Provider, replica: Provider, registry: Registry) -> None:
        primary.error, replica.error = ConnectionError("down"), KeyError("gone")
        with pytest.raises(ExceptionGroup) as raised:
            failover(("primary", primary), ("replica", replica), registry=registry)()
        again = pickle.loads(pickle.dumps(raised.value))
        assert [str(error) for error in again.exceptions] == ["down", "'gone'"]


class TestDeadline:
    def test_it_holds_for_all_together(self, registry: Registry, fake_clock: FakeClock) -> None:
        async def slow(seconds: float) -> str:
            await tasks.sleep(seconds)
            raise ConnectionError

        async def hung(seconds: float) -> str:
            await asyncio.sleep(3600)
            return "never"

        async def main() -> None:
            search = failover(
                ("slow", slow), ("hung", hung), ("third", slow), deadline=3.0, name="search", registry=registry
            )
            call = asyncio.ensure_future(search(2.0))
            for _ in range(10):
                await asyncio.sleep(0)
            assert not call.done()
            fake_clock.advance(0.999)
            for _ in range(10):
                await asyncio.sleep(0)
            assert not call.done()
            fake_clock.advance(0.001)
            with pytest.raises(TimeoutExceededError) as raised:
                await call
            assert (raised.value.policy, raised.value.seconds) == ("search", 3.0)

        asyncio.run(main())
        assert outcomes(registry, "search") == {"timeout": 1}

    def test_providers_that_it_leaves_no_time_for_are_not_asked(
        self, backend: str, replica: Provider, registry: Registry, fake_clock: FakeClock
    ) -> None:
        def slow() -> object:
            fake_clock.advance(3.0)
            raise error

        error = ConnectionError("down")
        third = Provider("third")
        search = build(
            backend, ("slow", slow), ("replica", replica), ("third", third), name="search", registry=registry
        )
        # Only the deadline: nothing ends the body.
        bounded = timeout(2.0, interrupt="never", registry=registry)(lambda: search())
        if backend != "thread":
            bounded = _bounded_on(backend, slow, replica, third, registry)
        with pytest.raises(ExceptionGroup) as raised:
            bounded()
        first, second, last = raised.value.exceptions
        assert first is error
        assert type(second) is type(last) is TimeoutExceededError
        assert "replica was not asked, because the deadline had passed" in str(second)
        assert (replica.calls, third.calls) == (0, 0)

    def test_each_reads_it_as_the_current_deadline(self, backend: str, registry: Registry) -> None:
        from resilient import current_deadline

        def ask() -> float:
            deadline = current_deadline()
            assert deadline is not None
            return deadline.remaining()

        search = build(backend, ("a", ask), ("b", ask), deadline=60.0, registry=registry)
        assert 50.0 < search() <= 60.0


def _bounded_on(backend: str, *providers: Any) -> Callable[[], Any]:
    *functions, registry = providers
    search = failover(
        *[(name, as_async(one)) for name, one in zip(("slow", "replica", "third"), functions, strict=True)],
        registry=registry,
    )

    @timeout(2.0, interrupt="never", registry=registry)
    async def bounded() -> Any:
        return await search()

    return lambda: run(backend, bounded)
