"""The straight line that is fused for a pipeline does what the chain of its policies does."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient import (
    BulkheadFullError,
    CircuitOpenError,
    Registry,
    RetryBudget,
    bulkhead,
    circuit_breaker,
    fallback,
    fused,
    pipeline,
    rate_limiter,
    retry,
    stale,
    subscribe,
    timeout,
)
from resilient.core.deadline import deadline_at
from resilient.policies.base import Policy
from resilient.testing import disabled, fake_clock

Script = list[tuple[float, str]]


class Refused(Exception):
    pass


# No sum of these times is another one: what is due at the very instant depends on how the sums are rounded.
MAKERS: dict[str, Callable[[Registry], Policy]] = {
    "fallback": lambda registry: fallback(default="instead", on=(Refused, CircuitOpenError), registry=registry),
    "fallback by a handler": lambda registry: fallback(lambda *args, **kwargs: (args, kwargs), registry=registry),
    "fallback for a result": lambda registry: fallback(
        default="instead", on_result=lambda result: result == "bad", registry=registry
    ),
    "retry": lambda registry: retry(backoff=1.013, registry=registry),
    "retry with a budget": lambda registry: retry(
        backoff=0.509, budget=RetryBudget(ratio=0.5, min_per_second=0.01), registry=registry
    ),
    "retry of results": lambda registry: retry(
        backoff=1.013, on_result=lambda result: result == "bad", registry=registry
    ),
    "retry, each in time": lambda registry: retry(backoff=1.013, attempt_timeout=2.027, registry=registry),
    "breaker": lambda registry: circuit_breaker(consecutive_failures=2, open_duration=5.059, registry=registry),
    "breaker of results": lambda registry: circuit_breaker(
        consecutive_failures=2, open_duration=5.059, on_result=lambda result: result == "bad", registry=registry
    ),
    "bulkhead": lambda registry: bulkhead(max_concurrent=1, registry=registry),
    "limiter": lambda registry: rate_limiter(limit=3, period=10.07, max_wait=4.043, registry=registry),
    "limiter that refuses": lambda registry: rate_limiter(limit=2, period=5.171, registry=registry),
    "stale": lambda registry: stale(0.531, 60.0, registry=registry),
    "timeout": lambda registry: timeout(3.037, registry=registry),
    "late body": lambda registry: timeout(3.037, interrupt="never", registry=registry),
}
OUTCOMES = ["good", "bad", "error", "refused", "cancelled"]
scripts = st.lists(st.tuples(st.sampled_from([0.0, 0.373, 4.111]), st.sampled_from(OUTCOMES)), min_size=1, max_size=12)
shapes = st.lists(st.sampled_from(sorted(MAKERS)), min_size=1, max_size=5, unique=True)


def happenings(kinds: list[str], script: Script, asynchronous: bool, patch: pytest.MonkeyPatch | None) -> Any:
    """All that can be seen from outside of what a pipeline makes of a script; `patch`: without the straight line."""
    if patch is not None:
        for cls in every(Policy):
            patch.setattr(cls, "straight", lambda self, operation, own, inner, asynchronous: None)
    registry, events, outcomes = Registry(), [], []
    with fake_clock() as clock:
        begun = clock.now()
        steps = iter(script)

        def work(number: int, *, word: str = "word") -> object:
            passes, outcome = next(steps, (0.0, "good"))
            clock.advance(passes)
            match outcome:
                case "error":
                    raise ValueError(number)
                case "refused":
                    raise Refused(word)
                case "cancelled":
                    raise KeyboardInterrupt
            return outcome

        async def work_async(number: int, *, word: str = "word") -> object:
            return work(number, word=word)

        guard = pipeline("line", *(MAKERS[kind](registry) for kind in kinds), registry=registry)
        call = guard(work_async if asynchronous else work)
        stop = subscribe(
            lambda event: events.append((event.kind, event.policy_kind, event.at - begun, dict(event.data)))
        )
        try:
            for number in range(len(script)):
                try:
                    result = asyncio.run(call(number)) if asynchronous else call(number, word="other")
                except BaseException as error:
                    cause = error.__cause__ or error.__context__
                    notes = getattr(error, "__notes__", [])
                    outcomes.append((type(error), str(error), type(cause), notes))
                else:
                    outcomes.append(result)
        finally:
            stop()
        return rounded([outcomes, events, clock.sleeps, clock.now() - begun, registry.snapshot()])


def rounded(value: Any) -> Any:
    """Virtual time begins at another instant each time, and differences of great numbers are not exact."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(one) for one in value]
    return round(value, 6) if isinstance(value, float) else value


def every(cls: type) -> Iterator[type]:
    yield cls
    for derived in cls.__subclasses__():
        yield from every(derived)


@settings(deadline=None, max_examples=150)
@given(kinds=shapes, script=scripts, asynchronous=st.booleans())
def test_it_does_what_the_chain_does(kinds: list[str], script: Script, asynchronous: bool) -> None:
    straight = happenings(kinds, script, asynchronous, None)
    with pytest.MonkeyPatch.context() as patch:
        chained = happenings(kinds, script, asynchronous, patch)
    assert straight == chained


@pytest.fixture
def registry() -> Registry:
    return Registry()


def both(registry: Registry, function: Any) -> Any:
    return pipeline(retry(registry=registry), timeout(9.0, registry=registry), registry=registry)(function)


class TestArguments:
    def test_come_as_they_were_given(self, registry: Registry) -> None:
        def work(first: int, /, second: object, error: object = "own", result: tuple[()] = ()) -> object:
            return first, second, error, result

        guarded = both(registry, work)
        assert guarded(1, 2) == (1, 2, "own", ())
        assert guarded(1, second=2, result=3) == (1, 2, "own", 3)
        assert guarded(1, 2, 3, 4) == (1, 2, 3, 4)
        with pytest.raises(TypeError, match="positional"):
            guarded(first=1, second=2)

    @pytest.mark.parametrize(
        "function",
        [
            lambda *args, **kwargs: (args, kwargs),
            lambda *args, key=3: (args, {"key": key}),
            lambda started, meter, function, operation, bypassed=7: (started, meter, function, operation, bypassed),
        ],
    )
    def test_may_have_any_names_and_kinds(self, function: Any, registry: Registry) -> None:
        guarded = both(registry, function)
        assert guarded(1, 2, 3, 4) == function(1, 2, 3, 4)
        assert inspect.signature(guarded) == inspect.signature(function)

    def test_that_are_wrong_are_the_callers_mistake_and_no_failure(self, registry: Registry) -> None:
        def work(number: int) -> int:
            return number

        guarded = both(registry, work)
        for mistake in (lambda: guarded(), lambda: guarded(1, 2), lambda: guarded(1, other=2)):
            with pytest.raises(TypeError, match=r"work\(\)"):
                mistake()
        assert guarded(3) == 3
        (calls,) = (meter.snapshot()["calls"] for meter in registry.call_meters().values())
        assert sum(calls.values()) == calls["success"] == 1

    def test_default_to_the_very_same_objects(self, registry: Registry) -> None:
        default: list[int] = []

        def work(gathered: list[int] = default) -> list[int]:
            return gathered

        assert both(registry, work)() is default

    def test_are_shown_to_a_handler_as_the_caller_wrote_them(self, registry: Registry) -> None:
        def work(number: int) -> object:
            raise ValueError

        guarded = fallback(lambda *args, **kwargs: (args, kwargs), registry=registry)(work)
        assert guarded(1) == ((1,), {})
        assert guarded(number=1) == ((), {"number": 1})

    def test_of_methods(self, registry: Registry) -> None:
        class Client:
            @retry(registry=registry)
            def get(self, path: str = "/") -> object:
                return self, path

            @classmethod
            @retry(registry=registry)
            def new(cls, path: str) -> object:
                return cls, path

        client = Client()
        assert client.get() == (client, "/")
        assert Client.new("/new") == (Client, "/new")


@retry(registry=Registry())
def on_a_module(number: int) -> int:
    return number


def test_what_is_fused_can_be_pickled() -> None:
    assert pickle.loads(pickle.dumps(on_a_module)) is on_a_module


def test_a_traceback_shows_the_line_that_called(registry: Registry) -> None:
    @pipeline(retry(attempts=1, registry=registry), circuit_breaker(registry=registry))
    def work(number: int) -> None:
        raise ValueError(number)

    with pytest.raises(ValueError, match="1") as caught:
        work(1)
    shown = "".join(traceback.format_exception(caught.value))
    assert '"<resilient: retry, circuit_breaker, ' in shown
    assert "result = function(argument_0)" in shown


def test_a_shape_is_compiled_once(registry: Registry) -> None:
    def guard() -> Any:
        return both(registry, lambda number: number)

    guard()
    made = len(fused._MAKERS)
    one, other = guard(), guard()
    assert len(fused._MAKERS) == made
    assert fused.is_guarded(one)
    assert one.__code__.co_filename == other.__code__.co_filename
    assert not fused.is_guarded(one.__wrapped__)


def test_threads_may_compile_at_once(registry: Registry) -> None:
    names = [f"number_{index}" for index in range(40)]
    functions = [eval(f"lambda {', '.join(names[:count])}: {count}") for count in range(len(names))]
    together = threading.Barrier(8)

    def guard(shift: int) -> list[Any]:
        together.wait()
        ordered = functions[shift:] + functions[:shift]
        return [pipeline(retry(registry=registry), timeout(7.0, registry=registry))(each) for each in ordered]

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            guarded = [each for batch in pool.map(guard, range(0, 40, 5)) for each in batch]
    finally:
        sys.setswitchinterval(interval)
    for each in guarded:
        arity = each.__wrapped__.__code__.co_argcount
        assert each(*range(arity)) == arity
        assert each.__code__.co_varnames[:arity] == tuple(names[:arity])
    by_file = {(each.__code__.co_filename, each.__wrapped__.__code__.co_argcount) for each in guarded}
    assert len(by_file) == len({file for file, _ in by_file})


def test_what_is_written_in_c_is_called_where_an_interrupt_may_hit(registry: Registry) -> None:
    guarded = timeout(5.0, registry=registry)(len)
    assert guarded([1, 2]) == 2
    assert "inner" in guarded.__code__.co_freevars
    assert "function" not in guarded.__code__.co_freevars


def test_a_plain_function_that_returns_a_coroutine_is_refused_at_the_call(registry: Registry) -> None:
    async def later() -> None: ...

    def work() -> object:
        return later()

    with pytest.raises(TypeError, match="returned a coroutine, which would run unguarded"):
        both(registry, work)()


def test_a_refused_call_is_counted_and_its_message_is_written_at_the_first_look(registry: Registry) -> None:
    breaker = circuit_breaker("payments", registry=registry)
    guarded = breaker(len)
    breaker.trip(30.0)
    with pytest.raises(CircuitOpenError) as caught:
        guarded("")
    error = caught.value
    assert "args" not in vars(error)
    assert str(error) == error.args[0] == str(pickle.loads(pickle.dumps(error)))
    assert "circuit_breaker 'payments' is open. Try again in 30 s" in repr(error)
    assert error.policy == "payments"
    calls: Any = registry.snapshot()["pipeline"]["builtins.len"]["calls"]
    assert (calls["rejected"], sum(calls.values())) == (1, 1)


def test_a_timeout_begins_when_the_limiter_around_it_has_let_the_call_in(registry: Registry) -> None:
    limiter = rate_limiter(limit=1, period=10.0, max_wait=60.0, registry=registry)

    @pipeline(limiter, timeout(3.0, registry=registry), registry=registry)
    def left() -> float:
        return deadline_at() - clock.now()

    with fake_clock() as clock:
        assert [left(), left()] == [3.0, 3.0]
        assert clock.sleeps == [10.0]


def test_a_timeout_begins_when_the_bulkhead_around_it_has_let_the_call_in(registry: Registry) -> None:
    room = bulkhead(max_concurrent=1, max_queue=1, registry=registry)

    @pipeline(room, timeout(3.0, registry=registry), registry=registry)
    async def left() -> float:
        found = deadline_at() - clock.now()
        if room.queued == 0:
            await asyncio.sleep(0)
            clock.advance(2.0)
        return found

    async def main() -> list[float]:
        return await asyncio.gather(left(), left())

    with fake_clock() as clock:
        assert asyncio.run(main()) == [3.0, 3.0]


def test_it_is_left_out_while_policies_are_disabled(registry: Registry) -> None:
    breaker, room = circuit_breaker(registry=registry), bulkhead(max_concurrent=1, registry=registry)
    guarded = pipeline(breaker, room)(lambda: room.in_flight)
    breaker.trip(30.0)
    with disabled():
        assert guarded() == 0
    with pytest.raises(CircuitOpenError):
        guarded()


def test_a_permit_comes_back_whatever_the_call_does(registry: Registry) -> None:
    room = bulkhead(max_concurrent=1, registry=registry)

    @room
    def work(depth: int) -> int:
        return work(depth - 1) if depth else room.in_flight

    assert work(0) == 1
    with pytest.raises(BulkheadFullError):
        work(1)
    assert room.in_flight == 0
