"""What type checkers make of the public surface. Checked by `mypy --strict` and `pyright`, never run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Mapping
from datetime import timedelta
from typing import Any, Literal, assert_type

from resilient import (
    Attempt,
    CircuitBreaker,
    CircuitOpenError,
    CircuitState,
    ConfigurationError,
    Deadline,
    Event,
    Pipeline,
    Policy,
    Registry,
    RejectedError,
    Retry,
    RetryBudget,
    RetryExhaustedError,
    Timeout,
    TimeoutExceededError,
    circuit_breaker,
    current_deadline,
    pipeline,
    registry,
    retry,
    standard_pipeline,
    subscribe,
    timeout,
)
from resilient.backoff import Backoff, constant, exponential, linear
from resilient.deadline import from_headers, to_headers
from resilient.testing import FakeClock, RecordedEvents, cap, disabled, fake_clock, record_events, trip

# Factories

assert_type(retry(), Retry)
assert_type(retry(attempts=None, max_duration=timedelta(seconds=3), backoff=[0.1, 1, timedelta(seconds=2)]), Retry)
assert_type(retry(on=(OSError, ValueError), on_result=lambda result: result is None, on_exhausted="raise"), Retry)
assert_type(retry(on=lambda error: isinstance(error, OSError), budget=RetryBudget(0.1), registry=Registry()), Retry)
assert_type(retry(backoff=lambda attempt: attempt * 0.5, retry_after=lambda outcome: None, name="fetch"), Retry)
assert_type(circuit_breaker(), CircuitBreaker)
assert_type(circuit_breaker("payments"), CircuitBreaker)
assert_type(circuit_breaker("payments", failure_rate=0.5, window_duration=10, ignore=KeyError), CircuitBreaker)
assert_type(circuit_breaker(open_duration=lambda turn: 2.0**turn), CircuitBreaker)
assert_type(timeout(2), Timeout)
assert_type(timeout(timedelta(seconds=2), name="slow", interrupt="always"), Timeout)
assert_type(pipeline("payments", retry(), circuit_breaker(), timeout(2.0)), Pipeline)
assert_type(pipeline(retry(), pipeline(timeout(2.0))), Pipeline)
assert_type(
    standard_pipeline("payments", total_timeout=5, retry=retry(), circuit_breaker=circuit_breaker(), attempt_timeout=1),
    Pipeline,
)
assert_type(constant(0.1), Backoff)
assert_type(linear(timedelta(seconds=1), max=9), Backoff)
assert_type(exponential(0.1, factor=3, max=9, jitter=0.5), Backoff)
assert_type(exponential(jitter="decorrelated"), Backoff)

# Decorators, with and without parentheses


@retry
def bare(number: int, *, by: float = 2.0) -> str:
    return str(number * by)


@retry()
def called(number: int, *, by: float = 2.0) -> str:
    return str(number * by)


@circuit_breaker
def bare_breaker(number: int) -> str:
    return str(number)


@circuit_breaker("payments")
async def asynchronous(number: int) -> str:
    return str(number)


@retry
async def bare_asynchronous(number: int) -> str:
    return str(number)


@timeout(2.0)
def generator(number: int) -> Generator[int, str, bytes]:
    sent = yield number
    return sent.encode()


@circuit_breaker
async def async_generator(number: int) -> AsyncIterator[int]:
    yield number


@retry(attempts=5)
@circuit_breaker("payments")
@timeout(2.0)
async def stacked(number: int) -> str:
    return str(number)


payments = pipeline("payments", retry(), timeout(2.0))
inventory = standard_pipeline("inventory")


@payments
def charge(order: str) -> int:
    return len(order)


@inventory
async def reserve(order: str) -> int:
    return len(order)


async def calls() -> None:
    assert_type(bare(1, by=3), str)
    assert_type(called(1), str)
    assert_type(bare_breaker(1), str)
    assert_type(await asynchronous(1), str)
    assert_type(await bare_asynchronous(1), str)
    assert_type(generator(1), Generator[int, str, bytes])
    assert_type(async_generator(1), AsyncIterator[int])
    assert_type(await stacked(1), str)
    assert_type(charge("chair"), int)
    assert_type(await reserve("chair"), int)
    assert_type([item async for item in async_generator(1)], list[int])


class Service:
    @retry
    def method(self, number: int) -> str:
        return str(number)

    @payments
    async def async_method(self, number: int) -> str:
        return str(number)

    @circuit_breaker
    def items(self) -> Iterator[int]:
        yield 1

    @retry
    @classmethod
    def class_below(cls, number: int) -> str:
        return str(number)

    @classmethod
    @retry(attempts=2)
    def class_above(cls, number: int) -> str:
        return str(number)

    @circuit_breaker("static")
    @staticmethod
    def static_below(number: int) -> str:
        return str(number)

    @staticmethod
    @timeout(1.0)
    def static_above(number: int) -> str:
        return str(number)

    @property
    @retry
    def value(self) -> int:
        return 1

    @property
    @payments
    def other_value(self) -> int:
        return 1


async def methods(service: Service) -> None:
    assert_type(service.method(1), str)
    assert_type(Service.method(service, 1), str)
    assert_type(await service.async_method(1), str)
    assert_type(service.items(), Iterator[int])
    assert_type(service.class_below(1), str)
    assert_type(Service.class_below(1), str)
    assert_type(Service.class_above(1), str)
    assert_type(Service.static_below(1), str)
    assert_type(service.static_above(1), str)
    assert_type(service.value, int)
    assert_type(service.other_value, int)


# Call and call_async


def fetch(url: str, *, limit: int = 3) -> list[str]:
    return [url] * limit


async def fetch_async(url: str, *, limit: int = 3) -> list[str]:
    return [url] * limit


def hands_back(url: str) -> Awaitable[int]:
    raise NotImplementedError


async def called_through(policy: Policy, line: Pipeline) -> None:
    assert_type(retry().call(fetch, "url", limit=1), list[str])
    assert_type(policy.call(fetch, "url"), list[str])
    assert_type(line.call(fetch, url="url"), list[str])
    assert_type(line.call(len, "url"), int)
    assert_type(await retry().call_async(fetch_async, "url", limit=1), list[str])
    assert_type(await policy.call_async(fetch_async, url="url"), list[str])
    assert_type(await line.call_async(hands_back, "url"), int)
    assert_type(policy(fetch)("url"), list[str])


# Blocks and attempts


async def blocks() -> None:
    with timeout(2.0) as entered:
        assert_type(entered, Timeout)
    with circuit_breaker("payments") as breaker, pipeline(timeout(2.0)) as line:
        assert_type(breaker, CircuitBreaker)
        assert_type(line, Pipeline)
    async with timeout(2.0) as entered_async:
        assert_type(entered_async, Timeout)
    async with payments as line_async:
        assert_type(line_async, Pipeline)


def result_of_a_block() -> int:
    """A block never swallows, so that this function returns on every path."""
    with timeout(2.0):
        return 1


async def attempts() -> str:
    for attempt in retry(attempts=3):
        assert_type(attempt, Attempt)
        assert_type(attempt.number, int)
        assert_type(attempt.next_delay, float | None)
        with attempt as entered:
            assert_type(entered, Attempt)
            bare(1)
    async for attempt in retry(attempts=3):
        with attempt:
            return await stacked(1)
    raise AssertionError


# Policies and the registry


def policies(breaker: CircuitBreaker, line: Pipeline) -> None:
    assert_type(breaker.name, str | None)
    assert_type(breaker.kind, str)
    assert_type(breaker.state, CircuitState)
    assert_type(breaker.snapshot(), dict[str, object])
    assert_type(breaker.settings, dict[str, object])
    breaker.trip()
    breaker.trip(timedelta(seconds=3))
    breaker.force_open()
    breaker.disable()
    breaker.reset()
    assert_type(timeout(2.0).seconds, float)
    assert_type(line.name, str | None)
    assert_type(line.policies, tuple[Policy, ...])
    assert_type(registry, Registry)
    assert_type(registry.find(CircuitBreaker, "payments"), CircuitBreaker | None)
    assert_type(registry.all(Retry), list[Retry])
    assert_type(registry.remove(Timeout, "slow"), bool)
    assert_type(registry.snapshot(), dict[str, dict[str, dict[str, object]]])
    assert_type(len(registry), int)


def tell(event: Event) -> None:
    assert_type(event.kind, str)
    assert_type(event.operation, str | None)
    assert_type(event.data, Mapping[str, object])


assert_type(subscribe(tell, policy="payments", kinds=["timed_out"]), Callable[[], None])
assert_type(circuit_breaker().subscribe(tell, kinds="call_rejected"), Callable[[], None])

# Errors, deadlines, the testing kit


def errors(error: Exception) -> None:
    if isinstance(error, CircuitOpenError):
        assert_type(error.retry_after, float | None)
        assert_type(error.last_error, str | None)
    elif isinstance(error, RejectedError):
        assert_type(error.policy, str | None)
    elif isinstance(error, TimeoutExceededError):
        assert_type(error.seconds, float)
    elif isinstance(error, RetryExhaustedError):
        assert_type(error.result, object)
        assert_type(error.attempts, int)
    elif isinstance(error, ConfigurationError):
        assert_type(error.setting, str | None)


def deadlines() -> None:
    assert_type(current_deadline(), Deadline | None)
    deadline = current_deadline()
    if deadline is not None:
        assert_type(deadline.remaining(), float)
        assert_type(deadline.expired, bool)
        assert_type(to_headers(deadline), dict[str, str])
    assert_type(from_headers({}, maximum=3), float | None)


def kit() -> None:
    with fake_clock() as clock:
        assert_type(clock, FakeClock)
        assert_type(clock.sleeps, list[float])
        clock.advance(timedelta(seconds=3))
    with disabled(), cap(attempts=2):
        pass
    with trip("payments") as breaker:
        assert_type(breaker, CircuitBreaker)
    with record_events(policy="payments") as events:
        assert_type(events, RecordedEvents)
        assert_type(events.kinds(), list[str])


def generic_over_policies(policy: Policy | Pipeline, function: Callable[..., Any]) -> Callable[..., Any]:
    return policy(function)


interrupt: Literal["thread"] = "thread"
assert_type(timeout(2.0, interrupt=interrupt), Timeout)
