"""Failover: what it looks like, what it refuses, and the rules of the house."""

from __future__ import annotations

import asyncio
import gc
import inspect
import sys
import threading
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest
import trio

from resilient import (
    CircuitBreaker,
    CircuitState,
    ConfigurationError,
    Failover,
    Registry,
    circuit_breaker,
    failover,
    fallback,
    retry,
)
from resilient.drivers import tasks
from resilient.testing import FakeClock, disabled
from tests.policies.failover_kit import Provider, build, counts, outcomes, policy_in
from tests.policies.fallback_kit import as_async, cancel_at_every_step


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


class TestWhatItLooksLike:
    def test_it_is_a_function_like_the_first(self, registry: Registry) -> None:
        def fetch(word: str, *, limit: int = 10) -> list[str]:
            """Look a word up."""
            return [word] * limit

        search = failover(("fetch", fetch), ("other", lambda word, *, limit=10: []), registry=registry)
        assert inspect.isfunction(search)
        assert (search.__name__, search.__doc__) == ("fetch", "Look a word up.")
        assert inspect.signature(search) == inspect.signature(fetch)
        assert search.__wrapped__ is fetch  # type: ignore[attr-defined]

    def test_it_is_async_if_the_providers_are(self, registry: Registry) -> None:
        async def fetch() -> int:
            return 1

        assert inspect.iscoroutinefunction(failover(("a", fetch), ("b", fetch), registry=registry))

    def test_decorators_above_it_join_its_pipeline(
        self, primary: Provider, replica: Provider, registry: Registry, fake_clock: FakeClock
    ) -> None:
        search = failover(("primary", primary), ("replica", replica), name="search", registry=registry)
        patient = retry(on=ExceptionGroup, attempts=2, backoff=1, registry=registry)(search)
        primary.error, replica.error = ConnectionError("down"), KeyError("gone")
        with pytest.raises(ExceptionGroup):
            patient()
        assert (primary.calls, replica.calls, fake_clock.sleeps) == (2, 2, [1.0])
        replica.error = None
        assert patient() == ("replica",)
        assert outcomes(registry, "search") == {"failure": 1, "fallback": 1}

    def test_decorators_of_the_first_provider_are_inside_its_breaker(
        self, registry: Registry, fake_clock: FakeClock
    ) -> None:
        calls: list[int] = []

        @retry(attempts=3, backoff=1, registry=registry)
        def fetch() -> int:
            calls.append(1)
            raise ConnectionError

        search = failover(("fetch", fetch), ("other", lambda: 2), name="search", registry=registry)
        assert search() == 2
        breaker = registry.find(CircuitBreaker, "search.fetch")
        assert breaker is not None
        assert (len(calls), breaker.snapshot()["failures"]) == (3, 1)

    def test_methods_can_be_providers(self, registry: Registry) -> None:
        class Client:
            def __init__(self, host: str) -> None:
                self.host = host

            def fetch(self, word: str) -> str:
                if self.host == "down":
                    raise ConnectionError
                return f"{word} from {self.host}"

        search = failover(("a", Client("down").fetch), ("b", Client("up").fetch), registry=registry)
        assert search("otter") == "otter from up"

    def test_disabled_leaves_the_first_alone(
        self, search: Callable[..., Any], primary: Provider, replica: Provider
    ) -> None:
        primary.error = ConnectionError("down")
        with disabled():
            with pytest.raises(ConnectionError):
                search()
        assert replica.calls == 0

    def test_the_policy_itself_puts_the_others_behind_any_call(
        self, primary: Provider, replica: Provider, registry: Registry
    ) -> None:
        failover(("primary", primary), ("replica", replica), name="search", registry=registry)
        policy = policy_in(registry)

        def third(x: int) -> object:
            raise ConnectionError

        assert policy.call(third, 1) == ("replica", 1)
        assert policy(third)(1) == ("replica", 1)


class TestRefused:
    @pytest.mark.parametrize(
        "make, says",
        [
            (lambda: failover(), "at least two"),
            (lambda: failover(("a", len)), "at least two"),
            (lambda: failover(("a", len), ("a", len)), "names that differ"),
            (lambda: failover(len, len), "pairs of a name and a function"),  # type: ignore[arg-type]
            (lambda: failover(("a", len), ("b", 1)), "pairs of a name and a function"),  # type: ignore[arg-type]
            (lambda: failover(("a", len), (" ", len)), "pairs of a name and a function"),
            (lambda: failover(("a", len), ("b", as_async(len))), "all of them async functions, or none"),
            (lambda: failover(("a", len), ("b", len), deadline=0), "deadline=0"),
            (lambda: failover(("a", len), ("b", len), on=SystemExit), "subclass of Exception"),
            (lambda: failover(("a", len), ("b", len), name=""), "name=''"),
        ],
    )
    def test_wrong_settings_when_it_is_made(self, make: Callable[[], object], says: str) -> None:
        with pytest.raises(ConfigurationError) as raised:
            make()
        assert says in str(raised.value)

    def test_the_same_name_with_other_settings(self, primary: Provider, registry: Registry) -> None:
        def fetch() -> int:
            return 1

        failover(("a", fetch), ("b", fetch), name="search", registry=registry)
        failover(("a", fetch), ("b", fetch), name="search", registry=registry)
        assert len(registry.all(Failover)) == 1
        with pytest.raises(ConfigurationError, match="already registered"):
            failover(("a", fetch), ("c", fetch), name="search", registry=registry)

    def test_generators_and_blocks(self, registry: Registry) -> None:
        def generator() -> Any:
            yield 1

        with pytest.raises(TypeError, match="as a list"):
            failover(("a", generator), ("b", generator), registry=registry)
        failover(("a", len), ("b", len), name="search", registry=registry)
        with pytest.raises(TypeError, match="call what failover"):
            with policy_in(registry):
                pass

    def test_a_plain_provider_that_returns_a_coroutine(self, registry: Registry) -> None:
        async def fetch() -> int:
            return 1

        def failing() -> Any:
            raise ConnectionError

        search = failover(("a", failing), ("b", lambda: fetch()), registry=registry)
        with pytest.raises(TypeError, match="returned a coroutine"):
            search()


class TestHouseRules:
    def test_a_cancellation_at_any_step_gives_everything_back(self, registry: Registry) -> None:
        async def failing() -> int:
            await tasks.sleep(0)
            await tasks.sleep(0)
            raise ConnectionError

        async def working() -> int:
            await tasks.sleep(0)
            await tasks.sleep(0)
            return 1

        for backend in ("asyncio", "trio"):
            own = Registry()
            search = failover(("a", failing), ("b", working), deadline=60, name="search", registry=own)
            assert cancel_at_every_step(backend, search, lambda: None) >= 4
            assert counts(own) == {"applied": 1}
            for name in ("search.a", "search.b"):
                breaker = own.find(CircuitBreaker, name)
                assert breaker is not None
                totals: Any = breaker.snapshot()["totals"]
                assert totals["failure" if name == "search.a" else "success"] >= 1
                assert breaker.state is CircuitState.CLOSED

    def test_context_variables_pass_both_ways(self, registry: Registry) -> None:
        variable: ContextVar[int] = ContextVar("variable", default=0)

        def one() -> None:
            variable.set(variable.get() + 1)
            raise ConnectionError

        def other() -> None:
            variable.set(variable.get() + 10)

        variable.set(5)
        failover(("one", one), ("other", other), registry=registry)()
        assert variable.get() == 16

    def test_nothing_of_a_call_stays_behind(self, registry: Registry) -> None:
        class Error(Exception):
            pass

        left: list[weakref.ref[Error]] = []

        def new() -> Error:
            error = Error()
            left.append(weakref.ref(error))
            return error

        def failing(works: bool) -> None:
            raise new()

        def sometimes(works: bool) -> None:
            if not works:
                raise new()

        always_closed = [circuit_breaker(f"search.{name}", registry=registry) for name in ("a", "b")]
        for breaker in always_closed:
            breaker.disable()
        search = failover(("a", failing), ("b", sometimes), name="search", registry=registry)
        gc.disable()
        try:
            for turn in range(100):
                try:
                    search(bool(turn % 2))
                except ExceptionGroup:
                    pass
            assert len(left) == 150
            assert [reference for reference in left if reference() is not None] == []
        finally:
            gc.enable()

    def test_providers_of_different_threads_run_side_by_side(self, registry: Registry) -> None:
        together = threading.Barrier(5, timeout=10.0)

        def failing() -> int:
            raise ConnectionError

        breaker = circuit_breaker("search.a", registry=registry)
        breaker.disable()
        search = failover(("a", failing), ("b", together.wait), name="search", registry=registry)
        threads = [threading.Thread(target=search) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert counts(registry) == {"applied": 5}

    def test_counts_are_exact_over_threads_asyncio_and_trio(self, registry: Registry) -> None:
        async def a(x: int) -> int:
            if x % 2:
                raise ConnectionError
            return x

        async def b(x: int) -> int:
            if x % 3:
                raise KeyError
            return x

        for name in ("a", "b"):
            circuit_breaker(f"search.{name}", registry=registry).disable()
        search = failover(("a", a), ("b", b), name="search", registry=registry)

        async def main() -> None:
            for x in range(300):
                try:
                    await search(x)
                except ExceptionGroup:
                    pass

        runs: list[Callable[[], object]] = [lambda: asyncio.run(main()), lambda: trio.run(main)] * 4
        before = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            threads = [threading.Thread(target=work) for work in runs]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            sys.setswitchinterval(before)
        assert counts(registry) == {"not_needed": 8 * 150, "applied": 8 * 50, "failed": 8 * 100}
        assert policy_in(registry).snapshot()["served"] == {"a": 8 * 150, "b": 8 * 50}

    def test_a_listener_may_call_it(self, primary: Provider, replica: Provider, registry: Registry) -> None:
        search = failover(("primary", primary), ("replica", replica), name="search", registry=registry)
        primary.error = ConnectionError("down")

        def listener(event: object) -> None:
            primary.error = None
            search()
            raise RuntimeError

        policy_in(registry).subscribe(listener)
        assert search() == ("replica",)
        assert counts(registry) == {"applied": 1, "not_needed": 1}

    def test_a_fallback_around_it_sees_the_group(self, registry: Registry) -> None:
        def failing() -> str:
            raise ConnectionError

        search = failover(("a", failing), ("b", failing), registry=registry)
        assert fallback(default="nothing", on=ExceptionGroup, registry=registry)(search)() == "nothing"
