"""Recover: one strategy for an error, picked by its most specific class."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import pytest

from resilient import (
    CircuitOpenError,
    ConfigurationError,
    Registry,
    RejectedError,
    bulkhead,
    circuit_breaker,
    fallback,
    pipeline,
    retry,
)
from resilient.backoff import constant
from resilient.degradation import Degradation
from resilient.policies.recover import Recover, recover
from resilient.testing import FakeClock, disabled, record_events
from tests.behaviour.cancelling import cancelled_at
from tests.behaviour.kit import Asyncio, Backend, Threads, Trio

BACKENDS: list[Backend] = [Threads(), Asyncio(), Trio()]
LOOPS = BACKENDS[1:]

everywhere = pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
on_loops = pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.name)
each_face = pytest.mark.parametrize("face", ["decorated", "called"])


class CacheMiss(LookupError):
    pass


class MemoryPressure(Exception):
    pass


@pytest.fixture(autouse=True)
def clock(fake_clock: FakeClock) -> FakeClock:
    return fake_clock


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def degradation(registry: Registry) -> Degradation:
    return Degradation(name="shop", registry=registry)


@pytest.fixture
def policy(registry: Registry, degradation: Degradation) -> Recover:
    return recover(
        {
            ConnectionError: "retry",
            MemoryPressure: "degrade",
            ValueError: "fail_fast",
            CacheMiss: "ignore",
            TimeoutError: fallback(default="later", registry=registry),
        },
        retry=retry(attempts=3, backoff=constant(0.5), registry=registry),
        degradation=degradation,
        registry=registry,
    )


class Script:
    """A body that raises one thing after the other, and then returns."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.calls = 0

    async def __call__(self, backend: Backend) -> str:
        self.calls += 1
        await backend.checkpoint()
        if self.errors:
            raise self.errors.pop(0)
        return "result"


def errors_of(policy: Recover) -> dict[str, int]:
    counted: Any = policy.snapshot()["errors"]
    return {strategy: count for strategy, count in counted.items() if count}


def run(policy: Any, backend: Backend, face: str, *errors: BaseException) -> tuple[object, int]:
    """What came of the call, result or error, and how often the body was called."""
    script = Script(*errors)

    async def main() -> object:
        try:
            return await backend.use(face, policy, script.__call__, backend)
        except Exception as error:
            return error

    return backend.run(main), script.calls


# each word


@everywhere
@each_face
def test_retry_calls_again(policy: Recover, backend: Backend, face: str, clock: FakeClock) -> None:
    assert run(policy, backend, face, ConnectionError(), ConnectionRefusedError()) == ("result", 3)
    assert clock.sleeps == [0.5, 0.5]
    assert errors_of(policy) == {"retry": 2}


@everywhere
@each_face
def test_a_retry_that_gives_up_raises_the_last_error_and_nothing_else_serves_for_it(
    registry: Registry, backend: Backend, face: str
) -> None:
    policy = recover(
        {ConnectionError: "retry", Exception: fallback(default="never", registry=registry)},
        retry=retry(attempts=2, backoff=constant(0), registry=registry),
        registry=registry,
    )
    last = ConnectionResetError()
    assert run(policy, backend, face, ConnectionError(), last) == (last, 2)
    assert run(policy, backend, face, KeyError()) == ("never", 1)


@everywhere
@each_face
def test_fail_fast_and_what_is_not_listed_is_raised_at_once(policy: Recover, backend: Backend, face: str) -> None:
    for error, counted in ((UnicodeError(), "fail_fast"), (ZeroDivisionError(), "unlisted")):
        assert run(policy, backend, face, error) == (error, 1)
        assert errors_of(policy).pop(counted) == 1


@everywhere
@each_face
def test_ignore_gives_the_default(policy: Recover, registry: Registry, backend: Backend, face: str) -> None:
    with record_events() as events:
        assert run(policy, backend, face, CacheMiss()) == (None, 1)
    assert events == []
    given = recover({CacheMiss: "ignore"}, default="nothing", registry=registry)
    assert run(given, backend, face, CacheMiss()) == ("nothing", 1)
    assert run(given, backend, face) == ("result", 1)


@everywhere
@each_face
def test_degrade_tells_the_degradation_and_raises(
    policy: Recover, degradation: Degradation, backend: Backend, face: str
) -> None:
    error = MemoryPressure()
    assert run(policy, backend, face, error) == (error, 1)
    change: Any = degradation.snapshot()["last_change"]
    assert (change["to"], change["reason"], change["signal"]) == ("reduced", "escalated", "MemoryPressure")


@everywhere
@each_face
def test_degrade_serves_what_degraded_serves(
    degradation: Degradation, registry: Registry, backend: Backend, face: str
) -> None:
    policy = recover(
        {MemoryPressure: "degrade", KeyError: "fail_fast"},
        degradation=degradation,
        degraded=fallback(lambda backend: "less", registry=registry),
        registry=registry,
    )
    assert run(policy, backend, face, MemoryPressure()) == ("less", 1)
    assert degradation.level == "reduced"
    error = KeyError()
    assert run(policy, backend, face, error) == (error, 1)


@everywhere
@each_face
def test_a_policy_does_what_it_does(policy: Recover, backend: Backend, face: str) -> None:
    with record_events() as events:
        assert run(policy, backend, face, TimeoutError()) == ("later", 1)
    assert [(event.kind, event.policy_kind, event.data["error"]) for event in events] == [
        ("fallback_applied", "fallback", "TimeoutError")
    ]


@everywhere
@each_face
def test_calls_again_are_judged_like_the_first(policy: Recover, backend: Backend, face: str) -> None:
    error = ValueError()
    assert run(policy, backend, face, ConnectionError(), TimeoutError()) == ("later", 2)
    assert run(policy, backend, face, ConnectionError(), CacheMiss()) == (None, 2)
    assert run(policy, backend, face, ConnectionError(), error) == (error, 2)
    assert errors_of(policy) == {"retry": 3, "fallback": 1, "ignore": 1, "fail_fast": 1}


# which strategy


def test_the_most_specific_class_decides_whatever_the_order(registry: Registry) -> None:
    for order in (1, -1):
        listed: Any = dict(
            list({OSError: "fail_fast", ConnectionError: "ignore", ConnectionResetError: "retry"}.items())[::order]
        )
        policy = recover(listed, retry=retry(attempts=2, backoff=constant(0), registry=registry), registry=registry)
        assert run(policy, BACKENDS[0], "called", ConnectionResetError())[1] == 2
        assert run(policy, BACKENDS[0], "called", BrokenPipeError()) == (None, 1)
        error = FileNotFoundError()
        assert run(policy, BACKENDS[0], "called", error) == (error, 1)


def test_of_two_bases_the_first_in_the_resolution_order_decides(registry: Registry) -> None:
    class Both(KeyError, ConnectionError):
        pass

    policy = recover({ConnectionError: "fail_fast", LookupError: "ignore"}, registry=registry)
    assert run(policy, BACKENDS[0], "called", Both()) == (None, 1)


def test_several_retry_policies_keep_to_their_own_errors(registry: Registry, clock: FakeClock) -> None:
    policy = recover(
        {
            ConnectionError: retry(attempts=2, backoff=constant(1), registry=registry),
            KeyError: retry(attempts=3, backoff=constant(5), registry=registry),
        },
        name="both",
        registry=registry,
    )
    assert run(policy, BACKENDS[0], "called", KeyError(), ConnectionError(), KeyError()) == ("result", 4)
    assert sorted(clock.sleeps) == [1, 5, 5]
    assert sorted(registry.snapshot()["retry"]) == ["both", "both#2"]


def test_rejections_are_retried_only_where_their_class_is_listed(registry: Registry, clock: FakeClock) -> None:
    again = retry(attempts=3, backoff=constant(0.5), registry=registry)
    error = CircuitOpenError(retry_after=2.0)
    broad = recover({Exception: "retry"}, retry=again, registry=registry)
    assert run(broad, BACKENDS[0], "called", error) == (error, 1)
    named = recover({RejectedError: "retry"}, retry=again, registry=registry)
    assert run(named, BACKENDS[0], "called", CircuitOpenError(retry_after=2.0)) == ("result", 2)
    assert clock.sleeps == [2.0]
    assert run(named, BACKENDS[0], "called", error, ConnectionError())[1] == 2
    both = recover({RejectedError: "retry", ConnectionError: "retry"}, retry=again, registry=registry)
    assert run(both, BACKENDS[0], "called", error, ConnectionError()) == ("result", 3)
    assert run(both, BACKENDS[0], "called", ConnectionError(), error) == ("result", 3)


def test_the_policys_own_choice_stays_in_force(registry: Registry) -> None:
    policy = recover(
        {Exception: fallback(default="served", on=KeyError, registry=registry)},
        registry=registry,
    )
    assert run(policy, BACKENDS[0], "called", KeyError()) == ("served", 1)
    error = ValueError()
    assert run(policy, BACKENDS[0], "called", error) == (error, 1)


def test_an_outer_retry_decides_for_itself_about_what_fails_fast(registry: Registry) -> None:
    both = pipeline(
        "both",
        retry(on=ValueError, attempts=2, backoff=constant(0), registry=registry),
        recover({ValueError: "fail_fast"}, registry=registry),
        registry=registry,
    )
    assert run(both, BACKENDS[0], "called", ValueError()) == ("result", 2)


# names, counts, events


def test_the_policies_inside_take_its_name_and_count_as_ever(policy: Recover, registry: Registry) -> None:
    @policy
    def fetch(errors: list[Exception]) -> str:
        if errors:
            raise errors.pop()
        return "result"

    fetch([])
    fetch([ConnectionError()])
    fetch([TimeoutError()])
    (name,) = registry.snapshot()["recover"]
    assert name.endswith("fetch")
    calls: Any = registry.snapshot()["retry"][name]["calls"]
    assert (calls["first_try"], calls["recovered"], calls["not_retryable"]) == (1, 1, 1)
    assert registry.snapshot()["fallback"][name]["calls"] == {"not_needed": 2, "applied": 1, "failed": 0}
    outcomes: Any = registry.snapshot()["pipeline"][name]["calls"]
    assert outcomes["fallback"] == 1


def test_in_a_pipeline_they_take_the_name_of_that(registry: Registry) -> None:
    pipeline(
        "payments",
        recover({KeyError: fallback(default=0, registry=registry), OSError: "retry"}, registry=registry),
        circuit_breaker(registry=registry),
        registry=registry,
    )
    assert {kind: list(names) for kind, names in registry.snapshot().items()} == {
        "recover": ["payments"],
        "retry": ["payments"],
        "fallback": ["payments"],
        "circuit_breaker": ["payments"],
    }


def test_a_name_is_shared_where_the_strategies_mean_the_same(registry: Registry) -> None:
    def make(attempts: int = 3, default: object = "later") -> Recover:
        return recover(
            {ConnectionError: "retry", TimeoutError: fallback(default=default, registry=registry)},
            retry=retry(attempts=attempts, registry=registry),
            name="fetch",
            registry=registry,
        )

    first = make()
    assert make() is first
    for other in ({"attempts": 4}, {"default": "never"}):
        with pytest.raises(ConfigurationError, match="already registered"):
            make(**other)


def test_with_policies_disabled_errors_pass(policy: Recover) -> None:
    error = CacheMiss()
    with disabled():
        assert run(policy, BACKENDS[0], "called", error) == (error, 1)


# refusals

PRIVATE = Registry()
AGAIN = retry(registry=PRIVATE)
LESS = fallback(default=None, registry=PRIVATE)
SHOP = Degradation(registry=PRIVATE)

WRONG: dict[str, Callable[[], object]] = {
    "nothing listed": lambda: recover({}),
    "no dict": lambda: recover([KeyError]),  # type: ignore[arg-type]
    "an unknown word": lambda: recover({KeyError: "skip"}),  # type: ignore[dict-item]
    "no strategy": lambda: recover({KeyError: None}),  # type: ignore[dict-item]
    "no class": lambda: recover({"KeyError": "retry"}),  # type: ignore[dict-item]
    "an object": lambda: recover({KeyError(): "retry"}),  # type: ignore[dict-item]
    "a class of no error": lambda: recover({int: "retry"}),  # type: ignore[dict-item]
    "interrupts": lambda: recover({KeyboardInterrupt: "retry"}),  # type: ignore[dict-item]
    "all there is": lambda: recover({BaseException: "ignore"}),  # type: ignore[dict-item]
    "a policy that goes around": lambda: recover({KeyError: bulkhead(registry=PRIVATE)}),  # type: ignore[dict-item]
    "a factory": lambda: recover({KeyError: retry}),  # type: ignore[dict-item]
    "degrade alone": lambda: recover({KeyError: "degrade"}),
    "degradation for nothing": lambda: recover({KeyError: "retry"}, degradation=SHOP),
    "no degradation": lambda: recover({KeyError: "degrade"}, degradation="shop"),  # type: ignore[arg-type]
    "degraded for nothing": lambda: recover({KeyError: "retry"}, degraded=LESS),
    "degraded of another kind": lambda: recover({KeyError: "degrade"}, degradation=SHOP, degraded=AGAIN),  # type: ignore[arg-type]
    "retry for nothing": lambda: recover({KeyError: "ignore"}, retry=AGAIN),
    "retry of another kind": lambda: recover({KeyError: "retry"}, retry=LESS),  # type: ignore[arg-type]
    "default for nothing": lambda: recover({KeyError: "retry"}, default=None),
    "a retry that never would": lambda: recover({KeyError: retry(on=OSError, registry=PRIVATE)}),
    "a word that never would": lambda: recover({KeyError: "retry"}, retry=retry(on=(OSError,), registry=PRIVATE)),
    "a fallback that never would": lambda: recover({KeyError: fallback(default=0, on=OSError, registry=PRIVATE)}),
    "a retry that leaves rejections alone": lambda: recover(
        {RejectedError: retry(on=lambda error: True, registry=PRIVATE)}
    ),
    "no registry": lambda: recover({KeyError: "retry"}, registry=None),  # type: ignore[arg-type]
    "no name": lambda: recover({KeyError: "retry"}, name=""),
}


@pytest.mark.parametrize("make", WRONG.values(), ids=WRONG)
def test_what_makes_no_sense_is_refused_when_it_is_made(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigurationError):
        make()


def test_generators_blocks_and_async_handlers_for_plain_functions_are_refused(
    policy: Recover, registry: Registry
) -> None:
    def items() -> Iterator[int]:
        yield 1

    for one in (policy, recover({CacheMiss: "ignore"}, registry=registry)):
        with pytest.raises(TypeError, match=r"recover.* can't guard generator functions"):
            one(items)
    with pytest.raises(TypeError, match="recover can't be used as a block"), policy:
        pass

    async def handler() -> int:
        return 1

    with pytest.raises(TypeError, match="handler is async"):
        recover({KeyError: fallback(handler, registry=registry)}, registry=registry)(lambda: 1)


# what holds for all policies


@on_loops
@each_face
def test_a_cancellation_at_any_await_point_stays_one_and_does_not_count(
    policy: Recover, loop: Backend, face: str
) -> None:
    async def main() -> None:
        whole = await cancelled_at(loop, None, loop.use(face, policy, Script(ConnectionError()).__call__, loop))
        assert whole.result == "result"
        assert whole.steps >= 2
        for point in range(whole.steps):
            before = errors_of(policy).get("retry", 0)
            done = await cancelled_at(loop, point, loop.use(face, policy, Script(ConnectionError()).__call__, loop))
            assert done.cancelled
            assert errors_of(policy)["retry"] - before <= 1

    loop.run(main)
    assert set(errors_of(policy)) == {"retry"}


@everywhere
@each_face
@pytest.mark.parametrize("passing", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_is_no_exception_passes_as_the_same_object(
    policy: Recover, backend: Backend, face: str, passing: type[BaseException]
) -> None:
    thrown = passing()
    script = Script(thrown)

    async def main() -> None:
        with pytest.raises(passing) as caught:
            await backend.use(face, policy, script.__call__, backend)
        assert caught.value is thrown

    backend.run(main)
    assert (script.calls, errors_of(policy)) == (1, {})


VARIABLE: ContextVar[str] = ContextVar("variable", default="unset")


@everywhere
@each_face
def test_context_variables_go_in_and_come_out(policy: Recover, backend: Backend, face: str) -> None:
    async def body() -> None:
        assert VARIABLE.get() == "from the caller"
        VARIABLE.set("from the body")

    async def main() -> None:
        token = VARIABLE.set("from the caller")
        await backend.use(face, policy, body)
        assert VARIABLE.get() == "from the body"
        VARIABLE.reset(token)

    backend.run(main)


def test_five_bodies_are_inside_at_once(policy: Recover) -> None:
    for backend in BACKENDS:
        backend.run(backend.all_at_once, 5, lambda body, backend=backend: backend.called(policy, body))


def test_a_failure_makes_no_reference_cycle(policy: Recover) -> None:
    class Failure(ValueError):
        pass

    class Lost(ConnectionError):
        pass

    def fail(error: type[Exception]) -> None:
        raise error

    for error in (Failure, CacheMiss, Lost):
        gc.collect()
        gc.disable()
        try:
            died: list[None] = []
            try:
                policy.call(fail, error)
            except error as caught:
                weakref.finalize(caught, died.append, None)
            else:
                died.append(None)
            assert died == [None]
        finally:
            gc.enable()


@everywhere
def test_ten_thousand_calls_leave_nothing_behind(
    policy: Recover, backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    # The test runner keeps what is logged.
    caplog.set_level(logging.CRITICAL, "resilient")
    calls = 0

    async def body() -> None:
        nonlocal calls
        calls += 1
        if calls % 4:
            raise (ConnectionError, CacheMiss, TimeoutError)[calls % 3]

    async def some(count: int) -> int:
        for _ in range(count):
            try:
                await backend.called(policy, body)
            except ConnectionError:
                pass
        gc.collect()
        return len(gc.get_objects())

    async def main() -> None:
        await some(100)
        before, threads = await some(100), threading.active_count()
        assert await some(10_000) - before < 50
        assert threading.active_count() <= threads

    backend.run(main)


def test_every_error_counts_once_under_eight_threads(policy: Recover) -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    begin = threading.Barrier(8)

    def miss() -> None:
        raise CacheMiss

    def work() -> None:
        begin.wait(10)
        for _ in range(2_000):
            policy.call(miss)

    threads = [threading.Thread(target=work) for _ in range(8)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert errors_of(policy) == {"ignore": 16_000}


def test_two_loops_and_a_thread_share_one_policy(policy: Recover) -> None:
    def asynchronous() -> None:
        async def main() -> None:
            for _ in range(200):
                assert await BACKENDS[1].called(policy, Script(CacheMiss()).__call__, BACKENDS[1]) is None

        asyncio.run(main())

    threads = [threading.Thread(target=asynchronous) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(200):
        run(policy, BACKENDS[0], "called", CacheMiss())
    for thread in threads:
        thread.join()
    assert errors_of(policy) == {"ignore": 600}
