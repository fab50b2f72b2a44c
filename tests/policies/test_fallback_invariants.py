"""Fallback: what it refuses, and the rules of the house."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest
import trio

from resilient import ConfigurationError, Registry, fallback
from resilient.core.meters import LockedNumber
from resilient.decorate import kind_of
from resilient.policies.fallback import Fallback
from resilient.testing import disabled, record_events
from tests.policies.fallback_kit import FACES, Face, as_async, run


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture(params=FACES, ids=str)
def face(request: pytest.FixtureRequest) -> Face:
    chosen: Face = request.param
    return chosen


def failing(*args: object, **kwargs: object) -> Any:
    raise ConnectionError("down")


def counts(policy: Fallback[Any]) -> dict[str, int]:
    calls: Any = policy.snapshot()["calls"]
    return {result: count for result, count in calls.items() if count}


class TestRefused:
    @pytest.mark.parametrize(
        "make, says",
        [
            (lambda: fallback(), "give one of the two"),  # type: ignore[call-overload]
            (lambda: fallback(len, default=1), "give one of the two"),  # type: ignore[call-overload]
            (lambda: fallback([]), "fallback(default=[])"),  # type: ignore[call-overload]
            (lambda: fallback(ConnectionError), "on=ConnectionError"),
            (lambda: fallback(default=1, pass_error=True), "needs a handler"),  # type: ignore[call-overload]
            (lambda: fallback(len, pass_error="yes"), "True or False"),  # type: ignore[call-overload]
            (lambda: fallback(default=1, on=KeyboardInterrupt), "subclass of Exception"),
            (lambda: fallback(default=1, on="ConnectionError"), "exception class"),  # type: ignore[call-overload]
            (lambda: fallback(default=1, on_result=1), "function"),  # type: ignore[call-overload]
            (lambda: fallback(default=1, name=""), "name"),
        ],
    )
    def test_wrong_settings_when_it_is_made(self, make: Callable[[], object], says: str) -> None:
        with pytest.raises(ConfigurationError) as raised:
            make()
        assert says in str(raised.value)
        assert str(raised.value).startswith("fallback")

    def test_the_same_name_with_other_settings(self, registry: Registry) -> None:
        policy = fallback(default=1, name="search", registry=registry)
        assert fallback(default=1, name="search", registry=registry) is policy
        with pytest.raises(ConfigurationError, match="default=2"):
            fallback(default=2, name="search", registry=registry)

    def test_an_async_handler_for_a_plain_function_at_decoration(self, registry: Registry) -> None:
        async def handler() -> int:
            return 1

        policy = fallback(handler, registry=registry)
        with pytest.raises(TypeError, match=r"handler .*handler is async.*give a plain function"):
            policy(failing)
        with pytest.raises(TypeError, match="guard an `async def`"):
            policy.call(failing)

    def test_one_that_is_seen_to_be_async_only_then_at_the_call(self, registry: Registry) -> None:
        async def hidden() -> int:
            return 1

        policy = fallback(lambda: hidden(), registry=registry)
        with pytest.raises(TypeError, match="give a plain function"):
            policy(failing)()
        with pytest.raises(TypeError, match="give a plain function"):
            fallback(default=1, registry=registry)(policy(failing))()

    def test_generators_at_decoration(self, registry: Registry) -> None:
        def generator() -> Any:
            yield 1

        async def async_generator() -> Any:
            yield 1

        for function in (generator, async_generator):
            with pytest.raises(TypeError, match=r"can't guard .*generator functions.*as a list"):
                fallback(default=1, registry=registry)(function)

    def test_blocks(self, registry: Registry) -> None:
        policy = fallback(default=1, registry=registry)
        with pytest.raises(TypeError, match=r"Decorate a function.*\.call\(function\)"):
            with policy:
                pass
        with pytest.raises(TypeError, match="Decorate a function"):
            with policy._pipeline():
                pass

        async def block() -> None:
            async with policy._pipeline():
                pass

        with pytest.raises(TypeError, match="Decorate a function"):
            asyncio.run(block())

    def test_an_async_function_by_call(self, registry: Registry) -> None:
        async def body() -> None: ...

        with pytest.raises(TypeError, match="call_async"):
            fallback(default=1, registry=registry).call(body)
        with pytest.raises(TypeError, match=r"policy\.call\("):
            asyncio.run(fallback(default=1, registry=registry).call_async(failing_to_be_async))  # type: ignore[arg-type]


def failing_to_be_async() -> int:
    return 1


class TestHouseRules:
    def test_what_is_guarded_keeps_its_kind(self, registry: Registry) -> None:
        async def body() -> None: ...

        policy = fallback(default=1, registry=registry)
        assert kind_of(policy(body)) == "async function"
        assert kind_of(policy(failing)) == "function"
        assert policy(failing).__wrapped__ is failing  # type: ignore[attr-defined]

    def test_a_listener_hears_it_and_changes_nothing(self, face: Face, registry: Registry) -> None:
        policy = fallback(default=1, name="search", registry=registry)

        def broken(event: object) -> None:
            policy.snapshot()
            raise RuntimeError

        policy.subscribe(broken)
        with record_events(policy="search") as events:
            assert face.guard(policy, failing)() == 1
        assert [(event.kind, event.policy_kind, dict(event.data)) for event in events] == [
            ("fallback_applied", "fallback", {"error": "ConnectionError"})
        ]

    def test_nothing_is_told_where_it_fails(self, registry: Registry) -> None:
        with record_events() as events:
            with pytest.raises(ZeroDivisionError):
                fallback(lambda: 1 // 0, registry=registry).call(failing)
        assert events == []

    def test_a_handler_may_call_the_policy(self, registry: Registry) -> None:
        policy: Fallback[int] = fallback(lambda x: guarded(x - 1) if x else 0, registry=registry)
        guarded = policy(failing)
        assert guarded(5) == 0
        assert counts(policy) == {"applied": 6}

    def test_context_variables_of_the_body_and_the_handler_are_seen_after_them(
        self, face: Face, registry: Registry
    ) -> None:
        variable: ContextVar[int] = ContextVar("variable", default=0)

        def body() -> int:
            variable.set(variable.get() + 10)
            raise ConnectionError

        async def async_body() -> int:
            return body()

        def handler() -> int:
            variable.set(variable.get() + 1)
            return variable.get()

        policy = fallback(handler, registry=registry)

        async def main() -> int:
            variable.set(5)
            assert await policy(async_body)() == 16
            return variable.get()

        if face.backend == "thread":
            variable.set(5)
            assert face.guard(policy, body)() == 16
            assert variable.get() == 16
        else:
            assert run(face.backend, main) == 16

    def test_disabled_lets_the_error_through(self, face: Face, registry: Registry) -> None:
        guarded = face.guard(fallback(default=1, registry=registry), failing)
        with disabled():
            with pytest.raises(ConnectionError):
                guarded()
        assert guarded() == 1

    @pytest.mark.parametrize("handler", [None, lambda: 1, lambda: 1 // 0])
    def test_nothing_of_a_call_stays_behind(self, handler: Any, registry: Registry) -> None:
        class Error(Exception):
            pass

        policy = fallback(default=1, registry=registry) if handler is None else fallback(handler, registry=registry)
        left: list[weakref.ref[Error]] = []

        def new() -> Error:
            error = Error()
            left.append(weakref.ref(error))
            return error

        def body() -> None:
            raise new()

        guarded = policy(body)
        gc.disable()
        try:
            try:
                guarded()
            except ZeroDivisionError:
                pass
            assert left[0]() is None
        finally:
            gc.enable()

    @pytest.mark.parametrize("backend", ["asyncio", "trio"])
    @pytest.mark.parametrize("handler", [None, lambda: 1, lambda: 1 // 0])
    def test_nothing_of_an_async_call_stays_behind(self, backend: str, handler: Any, registry: Registry) -> None:
        class Error(Exception):
            pass

        policy = fallback(default=1, registry=registry) if handler is None else fallback(handler, registry=registry)
        left: list[weakref.ref[Error]] = []

        def new() -> Error:
            error = Error()
            left.append(weakref.ref(error))
            return error

        async def body() -> None:
            raise new()

        async def main() -> bool:
            try:
                await policy(body)()
            except ZeroDivisionError:
                pass
            return left[0]() is None

        gc.disable()
        try:
            assert run(backend, main)
        finally:
            gc.enable()

    def test_newer_functions_take_the_place_of_older_ones(self, registry: Registry) -> None:
        def make(value: int) -> Fallback[int]:
            def handler() -> int:
                return value

            return fallback(handler, name="search", registry=registry)

        guarded = make(1)(failing)
        make(2)
        assert guarded() == 2

    def test_counts_are_exact_under_eight_threads(self, registry: Registry) -> None:
        policy = fallback(lambda x: 1 // (x % 3), on=ValueError, on_result=lambda x: x == 4, registry=registry)

        def body(x: int) -> int:
            if x % 5 == 0:
                raise ValueError
            if x % 5 == 1:
                raise KeyError
            return x % 5

        guarded = policy(body)

        def work() -> None:
            for x in range(600):
                try:
                    guarded(x)
                except (KeyError, ZeroDivisionError):
                    pass

        before = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            threads = [threading.Thread(target=work) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            sys.setswitchinterval(before)
        needed = [x for x in range(600) if x % 5 in (0, 4)]
        failed = [x for x in needed if x % 3 == 0]
        assert counts(policy) == {
            "not_needed": 8 * (600 - len(needed)),
            "applied": 8 * (len(needed) - len(failed)),
            "failed": 8 * len(failed),
        }

    def test_counts_are_exact_over_threads_asyncio_and_trio(self, registry: Registry) -> None:
        policy = fallback(lambda x: 1 // (x % 3), on=ValueError, registry=registry)

        def body(x: int) -> int:
            if x % 2:
                raise ValueError
            return x

        plain, asynchronous = policy(body), policy(as_async(body))

        def in_thread() -> None:
            for x in range(300):
                try:
                    plain(x)
                except ZeroDivisionError:
                    pass

        async def in_task() -> None:
            for x in range(300):
                try:
                    await asynchronous(x)
                except ZeroDivisionError:
                    pass

        def in_loop() -> None:
            asyncio.run(in_task())

        works: list[Callable[[], object]] = [in_thread, in_loop, in_loop, lambda: trio.run(in_task)]
        before = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            threads = [threading.Thread(target=work) for work in works]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            sys.setswitchinterval(before)
        assert counts(policy) == {"not_needed": 4 * 150, "applied": 4 * 100, "failed": 4 * 50}

    def test_bodies_and_handlers_of_different_threads_run_side_by_side(self, registry: Registry) -> None:
        in_the_body, in_the_handler = threading.Barrier(5, timeout=10), threading.Barrier(5, timeout=10)

        def body() -> int:
            in_the_body.wait()
            raise ConnectionError

        policy = fallback(in_the_handler.wait, registry=registry)
        threads = [threading.Thread(target=policy(body)) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not in_the_body.broken
        assert counts(policy) == {"applied": 5}

    def test_without_the_gil_the_counters_lock(self, registry: Registry) -> None:
        policy = fallback(default=1, registry=registry)
        policy._meter.applied = LockedNumber()  # type: ignore[assignment]
        policy.call(failing)
        assert counts(policy) == {"applied": 1}
