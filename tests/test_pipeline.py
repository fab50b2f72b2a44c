"""Order, stacking and naming; `.call` and `.call_async`, also where they are mixed up."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from resilient import (
    ConfigurationError,
    Pipeline,
    Policy,
    Registry,
    RetryBudget,
    TimeoutExceededError,
    circuit_breaker,
    pipeline,
    retry,
    standard_pipeline,
    timeout,
)
from resilient.core.clock import CLOCK
from resilient.operation import AsyncCall, Operation, SyncCall
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.policies.retry import Retry
from resilient.policies.timeout import Timeout
from resilient.testing import FakeClock

TRACE: list[str] = []


@dataclass(frozen=True)
class NoSettings:
    """Nothing to compare."""


class Tracer(Policy):
    """A policy that writes down when it is passed."""

    __slots__ = ("mark",)

    kind = "tracer"

    def __init__(self, mark: str, name: str | None, registry: Registry) -> None:
        super().__init__(name, NoSettings(), registry)
        self.mark = mark

    def snapshot(self) -> dict[str, object]:
        return {}

    def count_on(self, older: Tracer, /) -> None: ...

    def wrap_sync(self, call: SyncCall, operation: Operation) -> SyncCall:
        def traced(args: Any, kwargs: Any) -> Any:
            TRACE.append(f"{self.mark}>")
            try:
                return call(args, kwargs)
            finally:
                TRACE.append(f"<{self.mark}")

        return traced

    def wrap_async(self, call: AsyncCall, operation: Operation) -> AsyncCall:
        async def traced(args: Any, kwargs: Any) -> Any:
            TRACE.append(f"{self.mark}>")
            try:
                return await call(args, kwargs)
            finally:
                TRACE.append(f"<{self.mark}")

        return traced


@pytest.fixture
def private() -> Registry:
    return Registry()


@pytest.fixture
def tracer(private: Registry) -> Callable[..., Tracer]:
    TRACE.clear()
    return lambda mark, name=None: Tracer(mark, name, private)


def kinds(guarded: Any) -> list[str]:
    return [policy.kind for policy in guarded.__resilient__.policies]


def named(guarded: Any) -> list[tuple[str, str | None]]:
    return [(policy.kind, policy.name) for policy in guarded.__resilient__.policies]


def fetch(number: int = 0) -> int:
    TRACE.append("body")
    return number


async def fetch_async(number: int = 0) -> int:
    TRACE.append("body")
    return number


ORDER = ["a>", "b>", "c>", "body", "<c", "<b", "<a"]


# Order and stacking


def test_the_first_policy_is_the_outermost(tracer: Callable[..., Tracer], private: Registry) -> None:
    line = pipeline(tracer("a"), tracer("b"), tracer("c"), registry=private)
    line(fetch)()
    assert TRACE == ORDER
    TRACE.clear()
    line.call(fetch)
    assert TRACE == ORDER
    TRACE.clear()
    asyncio.run(line.call_async(fetch_async))
    assert TRACE == ORDER


def test_stacked_decorators_run_from_the_top_down(tracer: Callable[..., Tracer]) -> None:
    a, b, c = tracer("a"), tracer("b"), tracer("c")
    a(b(c(fetch)))()
    assert TRACE == ORDER
    TRACE.clear()
    asyncio.run(a(b(c(fetch_async)))())
    assert TRACE == ORDER


def test_a_stack_is_one_pipeline_with_one_name_and_one_meter(private: Registry) -> None:
    def stacked() -> None: ...

    guarded = retry(registry=private)(circuit_breaker(registry=private)(timeout(1.0, registry=private)(stacked)))
    guarded()
    assert kinds(guarded) == ["retry", "circuit_breaker", "timeout"]
    assert guarded.__wrapped__ is stacked  # type: ignore[attr-defined]
    calls = private.snapshot()["pipeline"]
    (name,) = [name for name, meter in calls.items() if meter["calls"]["success"]]  # type: ignore[index]
    assert name == f"{__name__}.{stacked.__qualname__}"
    assert calls[name]["calls"]["success"] == 1  # type: ignore[index]


def test_a_stack_names_its_policies_as_the_pipeline_does(private: Registry) -> None:
    def stacked() -> None: ...

    def piped() -> None: ...

    as_stack = retry(registry=private)(circuit_breaker(registry=private)(timeout(1.0, registry=private)(stacked)))
    as_line = pipeline(
        retry(registry=private), circuit_breaker(registry=private), timeout(1.0, registry=private), registry=private
    )(piped)
    assert [(kind, str(name).replace("stacked", "piped")) for kind, name in named(as_stack)] == named(as_line)


def test_two_policies_of_a_kind_in_one_stack_count_apart(private: Registry) -> None:
    def stacked() -> None: ...

    guarded = timeout(9.0, registry=private)(retry(registry=private)(timeout(1.0, registry=private)(stacked)))
    outer, _, inner = guarded.__resilient__.policies  # type: ignore[attr-defined]
    assert outer.name != inner.name
    guarded()
    assert outer.snapshot()["calls"] == inner.snapshot()["calls"] == {"completed": 1, "timed_out": 0}
    assert {policy.name for policy in private.all(Timeout)} == {outer.name, inner.name}


def test_a_named_pipeline_above_other_decorators_gives_the_stack_its_name(private: Registry) -> None:
    line = pipeline("payments", retry(registry=private), registry=private)
    guarded = line(circuit_breaker("orders", registry=private)(fetch))
    assert guarded.__resilient__.name == "payments"  # type: ignore[attr-defined]
    assert named(guarded) == [("retry", "payments"), ("circuit_breaker", "orders")]


def test_a_policy_above_a_named_pipeline_joins_it(private: Registry) -> None:
    line = pipeline("payments", timeout(1.0, registry=private), registry=private)
    guarded = timeout(5.0, registry=private)(line(fetch))
    assert guarded.__resilient__.name == "payments"  # type: ignore[attr-defined]
    assert named(guarded) == [("timeout", "payments#2"), ("timeout", "payments")]
    assert [policy.kind for policy in line.policies] == ["timeout"], "the pipeline itself is as before"


def test_the_same_policy_twice_in_a_pipeline_is_refused(private: Registry) -> None:
    shared = circuit_breaker("shared", registry=private)
    with pytest.raises(ConfigurationError, match="each policy object once"):
        pipeline(shared, retry(), shared)
    with pytest.raises(ConfigurationError, match="each policy object once"):
        pipeline("named", shared, pipeline(retry(), shared), registry=private)
    with pytest.raises(ConfigurationError, match="each policy object once"):
        shared(shared(fetch))


def test_two_unnamed_policies_of_equal_settings_are_two_policies(private: Registry) -> None:
    line = pipeline("twice", retry(registry=private), retry(registry=private), registry=private)
    assert [policy.name for policy in line.policies] == ["twice", "twice#2"]


def test_nested_pipelines_are_taken_apart(tracer: Callable[..., Tracer], private: Registry) -> None:
    inner = pipeline("inner", tracer("b"), tracer("c"), registry=private)
    outer = pipeline("outer", tracer("a"), inner, registry=private)
    assert [policy.name for policy in outer.policies] == ["outer", "inner", "inner#2"]
    outer(fetch)()
    assert TRACE == ORDER
    assert "outer" in private.snapshot()["pipeline"]


@pytest.mark.parametrize("factory", [retry, circuit_breaker, timeout, pipeline, standard_pipeline])
def test_a_factory_passed_uncalled_is_told_to_be_called(factory: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"call it: {factory.__name__}\(\.\.\.\)"):
        pipeline("payments", factory)


@pytest.mark.parametrize("parts", [(), ("payments",), ("",), ("a", "b"), (None,), (3,), (retry(), "late name"), ([],)])
def test_what_is_no_policy_is_refused(parts: Any) -> None:
    with pytest.raises(ConfigurationError):
        pipeline(*parts)


def test_iterating_over_a_pipeline_says_what_to_iterate_over() -> None:
    with pytest.raises(TypeError, match="iterate over its retry policy"):
        iter(pipeline(retry()))


# Names


def test_an_unnamed_policy_takes_the_name_of_the_first_function_it_guards(private: Registry) -> None:
    shared = retry(registry=private)
    assert shared.name is None
    shared(fetch)
    shared(fetch_async)
    assert shared.name == f"{__name__}.fetch"
    assert private.find(Retry, f"{__name__}.fetch") is shared
    assert len(private) == 1


@pytest.mark.parametrize("face", ["call", "call_async", "block", "async block", "attempts"])
def test_without_a_function_an_unnamed_policy_is_named_after_its_kind(private: Registry, face: str) -> None:
    policy: Any = retry(registry=private) if face == "attempts" else circuit_breaker(registry=private)

    async def in_block() -> None:
        async with policy:
            pass

    if face == "call":
        policy.call(fetch)
    elif face == "call_async":
        asyncio.run(policy.call_async(fetch_async))
    elif face == "block":
        with policy:
            pass
    elif face == "async block":
        asyncio.run(in_block())
    else:
        for attempt in policy:
            with attempt:
                break
    assert policy.name == policy.kind
    assert list(private.snapshot()["pipeline"]) == [policy.kind]


def test_a_name_gives_the_registered_policy_again(private: Registry) -> None:
    first = circuit_breaker("payments", failure_rate=0.5, registry=private)
    assert circuit_breaker("payments", failure_rate=0.5, registry=private) is first
    assert circuit_breaker("payments", failure_rate=1 / 2, window_calls=None, registry=private) is first


def test_other_settings_under_a_registered_name_are_refused_showing_both(private: Registry) -> None:
    first = circuit_breaker("payments", failure_rate=0.5, registry=private)
    with pytest.raises(ConfigurationError) as caught:
        circuit_breaker("payments", failure_rate=0.25, registry=private)
    message = str(caught.value)
    assert "circuit_breaker 'payments'" in message
    assert "failure_rate=0.25" in message
    assert "failure_rate=0.5" in message
    assert (caught.value.policy, caught.value.setting, caught.value.value) == ("payments", "failure_rate", 0.25)
    assert first.settings["failure_rate"] == 0.5


def test_kinds_have_name_spaces_of_their_own(private: Registry) -> None:
    policies = [
        circuit_breaker("payments", registry=private),
        retry(name="payments", registry=private),
        timeout(1.0, name="payments", registry=private),
    ]
    assert list(private) == policies
    assert len(private) == 3


def test_unnamed_policies_in_a_named_pipeline_take_its_name_at_once(private: Registry) -> None:
    line = pipeline("payments", retry(registry=private), circuit_breaker("orders", registry=private), registry=private)
    assert [policy.name for policy in line.policies] == ["payments", "orders"]
    assert private.find(Retry, "payments") is line.policies[0]


def make_payments(private: Registry, **settings: Any) -> Pipeline:
    return pipeline(
        "payments", retry(registry=private, attempts=2), circuit_breaker(registry=private, **settings), registry=private
    )


def test_a_notebook_cell_run_twice_gives_the_same_policies(private: Registry) -> None:
    first, second = make_payments(private), make_payments(private)
    assert first.policies == second.policies
    assert len(private) == 2


def test_a_notebook_cell_run_again_with_other_settings_is_refused(private: Registry) -> None:
    make_payments(private)
    with pytest.raises(ConfigurationError, match=r"open_duration=5\.0, registered with open_duration=30\.0"):
        make_payments(private, open_duration=5.0)
    private.remove(CircuitBreaker, "payments")
    assert make_payments(private, open_duration=5.0).policies[1].settings["open_duration"] == 5.0


def transient(verdict: bool) -> Callable[[BaseException], bool]:
    """A predicate as a notebook makes it anew in each run of its cell: another object of the same name."""

    def is_transient(error: BaseException) -> bool:
        return verdict

    return is_transient


def test_callables_are_equal_by_name_and_the_newer_is_used(private: Registry, fake_clock: FakeClock) -> None:
    calls: list[int] = []

    def failing() -> None:
        calls.append(1)
        raise LookupError

    first = retry(name="cell", on=transient(True), attempts=3, registry=private)
    guarded = first(failing)
    second = retry(name="cell", on=transient(False), attempts=3, registry=private)
    assert second is first
    with pytest.raises(LookupError):
        guarded()
    assert len(calls) == 1, "the newer predicate retries nothing"


def wait_of(seconds: float) -> Callable[[int], float]:
    def open_for(turn: int) -> float:
        return seconds

    return open_for


def test_a_breaker_uses_the_newer_callable_of_the_same_name(private: Registry, fake_clock: FakeClock) -> None:
    first = circuit_breaker("cell", open_duration=wait_of(10.0), registry=private)
    assert circuit_breaker("cell", open_duration=wait_of(20.0), registry=private) is first
    first.trip()
    assert first.snapshot()["retry_after"] == 20.0


def test_a_budget_made_again_in_a_notebook_leaves_the_policy_the_one_it_pays_into(
    private: Registry, fake_clock: FakeClock
) -> None:
    def policy() -> Retry:
        return retry(name="cell", budget=RetryBudget(1.0, min_per_second=0.0), attempts=2, registry=private)

    calls: list[int] = []

    def failing() -> None:
        calls.append(1)
        raise LookupError

    guarded = policy()(failing)
    policy()
    with pytest.raises(LookupError):
        guarded()
    assert len(calls) == 2, "the call has paid for one retry"


def test_a_function_defined_again_goes_on_counting_with_the_newer_policy(private: Registry) -> None:
    def cell() -> tuple[CircuitBreaker, Callable[[], int]]:
        breaker = circuit_breaker(registry=private)
        return breaker, breaker(fetch)

    _, first = cell()
    first()
    newer, second = cell()
    second()
    assert private.all(CircuitBreaker) == [newer]
    assert newer.snapshot()["totals"]["success"] == 2  # type: ignore[index]


def test_a_name_given_by_hand_is_not_taken_over_by_a_function_of_that_name(private: Registry) -> None:
    mine = circuit_breaker(f"{__name__}.fetch", registry=private)
    circuit_breaker(open_duration=5.0, registry=private)(fetch)
    assert private.find(CircuitBreaker, f"{__name__}.fetch") is mine


# Call and call_async


def plain(number: int) -> int:
    return number


async def asynchronous(number: int) -> int:
    return number


def hands_back(number: int) -> Awaitable[int]:
    return asynchronous(number)


class AsyncCallable:
    async def __call__(self, number: int) -> int:
        return number


@pytest.mark.parametrize("function", [asynchronous, hands_back, AsyncCallable(), lambda number: asynchronous(number)])
def test_call_with_an_async_function_points_to_call_async(
    private: Registry, function: Any, fake_clock: FakeClock
) -> None:
    breaker = circuit_breaker("b", consecutive_failures=1, registry=private)
    line = pipeline(retry(registry=private), breaker, registry=private)
    with pytest.raises(TypeError, match=r"is async: write `await policy.call_async\(...\)`"):
        line.call(function, 3)
    assert breaker.state == "closed"
    assert fake_clock.sleeps == []


def test_call_with_a_future_points_to_call_async(private: Registry) -> None:
    async def main() -> None:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        with pytest.raises(TypeError, match="call_async"):
            circuit_breaker(registry=private).call(lambda: future)

    asyncio.run(main())


def test_call_async_with_a_plain_function_points_to_call(private: Registry, fake_clock: FakeClock) -> None:
    breaker = circuit_breaker("b", consecutive_failures=1, registry=private)
    line = pipeline(retry(registry=private), breaker, registry=private)
    with pytest.raises(TypeError, match=r"is not async: write `policy.call\(...\)`"):
        asyncio.run(line.call_async(plain, 3))  # type: ignore[arg-type]
    assert breaker.state == "closed"
    assert fake_clock.sleeps == []


@pytest.mark.parametrize("function", [hands_back, AsyncCallable(), asynchronous])
def test_call_async_takes_whatever_hands_back_an_awaitable(private: Registry, function: Any) -> None:
    assert asyncio.run(circuit_breaker(registry=private).call_async(function, 3)) == 3


def test_a_generator_function_is_refused_by_call_because_its_body_would_run_unguarded(private: Registry) -> None:
    started: list[int] = []

    def generator() -> Iterator[int]:
        started.append(1)
        yield 1

    async def async_generator() -> Any:
        started.append(1)
        yield 1

    breaker = circuit_breaker(registry=private)
    with pytest.raises(TypeError, match="is a generator function, whose body runs after the call: decorate it"):
        breaker.call(generator)
    for refused in (breaker.call, lambda function: asyncio.run(breaker.call_async(function))):
        with pytest.raises(TypeError, match=r"is an async generator function, .* decorate it"):
            refused(async_generator)
    assert started == []


def test_call_of_an_already_guarded_function_passes_both(private: Registry) -> None:
    inner, outer = circuit_breaker("inner", registry=private), circuit_breaker("outer", registry=private)
    assert outer.call(inner(plain), 3) == 3
    assert inner.snapshot()["totals"]["success"] == outer.snapshot()["totals"]["success"] == 1  # type: ignore[index]


def test_what_a_policy_cannot_do_is_refused_by_every_face(private: Registry) -> None:
    helper = timeout(1.0, interrupt="thread", registry=private)
    with pytest.raises(TypeError, match='interrupt="thread"'):
        helper.call_async(asynchronous, 3)
    with pytest.raises(TypeError, match='interrupt="thread"'):
        helper(asynchronous)
    with pytest.raises(TypeError, match='interrupt="thread"'):
        with helper:
            raise AssertionError("not reached")
    for refused in (retry(), pipeline(circuit_breaker(registry=private), retry())):
        with pytest.raises(TypeError, match="for attempt in"):
            with refused:
                raise AssertionError("not reached")


def test_the_exception_of_the_body_arrives_as_the_same_object(private: Registry, fake_clock: FakeClock) -> None:
    error = LookupError("mine")
    error.__cause__ = KeyError("cause")
    context = error.__context__

    def failing() -> None:
        raise error

    async def failing_async() -> None:
        raise error

    line = pipeline(
        circuit_breaker(registry=private, consecutive_failures=100),
        retry(attempts=3, registry=private),
        timeout(9.0, registry=private),
        registry=private,
    )
    for attempt in (
        line(failing),
        lambda: line.call(failing),
        lambda: asyncio.run(line(failing_async)()),
        lambda: asyncio.run(line.call_async(failing_async)),
    ):
        with pytest.raises(LookupError) as caught:
            attempt()
        assert caught.value is error
    assert isinstance(error.__cause__, KeyError)
    assert error.__context__ is context


def test_an_exception_raised_ten_thousand_times_keeps_no_frames(private: Registry) -> None:
    error = LookupError("one object for ever")

    def failing() -> None:
        raise error

    guarded = circuit_breaker(registry=private, consecutive_failures=10**6)(failing)
    depths: list[int] = []
    for _ in range(50):
        error.__traceback__ = None
        with pytest.raises(LookupError):
            guarded()
        depth, traceback = 0, error.__traceback__
        while traceback is not None:
            depth, traceback = depth + 1, traceback.tb_next
        depths.append(depth)
    assert len(set(depths)) == 1


@pytest.mark.realtime
def test_threads_that_use_a_new_policy_first_at_the_same_time_share_its_blocks(
    private: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    from resilient.policies import base

    class Slow(Pipeline):
        __slots__ = ()

        def __init__(self, *args: Any) -> None:
            time.sleep(0.005)
            super().__init__(*args)

    monkeypatch.setattr(base, "Pipeline", Slow)
    breaker = circuit_breaker(registry=private)
    inside = threading.Barrier(4, timeout=10.0)
    errors: list[BaseException] = []

    def enter() -> None:
        try:
            with breaker:
                inside.wait()
            inside.wait()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10.0)
    assert errors == []
    assert breaker.snapshot()["totals"]["success"] == 4  # type: ignore[index]


def test_a_call_counts_once_under_the_name_of_its_pipeline(private: Registry, fake_clock: FakeClock) -> None:
    line = pipeline("payments", timeout(1.0, registry=private), registry=private)
    line.call(plain, 3)
    with pytest.raises(ZeroDivisionError):
        line.call(lambda: 1 / 0)
    with pytest.raises(TimeoutExceededError):
        line.call(fake_clock.advance, 2.0)
    with line:
        pass
    meter = private.snapshot()["pipeline"]["payments"]
    assert meter["calls"] == {
        "success": 2,
        "failure": 1,
        "timeout": 1,
        "rejected": 0,
        "fallback": 0,
        "cancelled": 0,
    }
    assert meter["active"] == 0
    assert meter["errors"] == {"ZeroDivisionError": 1, "resilient.errors.TimeoutExceededError": 1}


def test_durations_are_measured_by_the_clock_of_the_policies(private: Registry, fake_clock: FakeClock) -> None:
    line = pipeline("payments", circuit_breaker(registry=private), registry=private)

    @line
    def items() -> Iterator[int]:
        fake_clock.advance(1.0)
        yield 1

    async def later() -> None:
        fake_clock.advance(1.0)

    async def in_block() -> None:
        async with line:
            fake_clock.advance(1.0)

    line.call(fake_clock.advance, 1.0)
    line(fake_clock.advance)(1.0)
    asyncio.run(line.call_async(later))
    with line:
        fake_clock.advance(1.0)
    asyncio.run(in_block())
    list(items())
    assert private.snapshot()["pipeline"]["payments"]["seconds"] == 6.0


def test_the_clock_of_the_policies_is_the_monotonic_one() -> None:
    assert CLOCK.virtual is None
    assert time.monotonic() - 1.0 < CLOCK.now() <= time.monotonic()
