"""The throttle in all its faces."""

from __future__ import annotations

import asyncio
import math
import pickle
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import trio

from resilient import (
    CircuitOpenError,
    ConfigurationError,
    RateLimitedError,
    Registry,
    RejectedError,
    Throttle,
    ThrottledError,
    circuit_breaker,
    fallback,
    pipeline,
    retry,
    throttle,
)
from resilient.testing import FakeClock, fake_clock, record_events


@pytest.fixture
def clock() -> Iterator[FakeClock]:
    with fake_clock() as clock:
        yield clock


@pytest.fixture
def registry() -> Registry:
    return Registry()


def drawing(policy: Throttle, draw: float) -> Throttle:
    """The policy with its dice replaced."""
    policy._draw = lambda: draw
    return policy


def fail() -> None:
    raise ConnectionError


def failing(policy: Throttle, calls: int) -> None:
    """So many calls that the other side refuses."""
    draw, policy._draw = policy._draw, lambda: 1.0
    for _ in range(calls):
        with pytest.raises(ConnectionError):
            policy.call(fail)
    policy._draw = draw


def window(policy: Throttle) -> tuple[object, object]:
    snapshot = policy.snapshot()
    return snapshot["requests"], snapshot["accepts"]


async def async_fail() -> None:
    raise ConnectionError


def decorated(policy: Throttle) -> Callable[[bool], object]:
    @policy
    def work(ok: bool) -> None:
        if not ok:
            raise ConnectionError

    return work


def called(policy: Throttle) -> Callable[[bool], object]:
    return lambda ok: policy.call(int if ok else fail)


def block(policy: Throttle) -> Callable[[bool], object]:
    def work(ok: bool) -> None:
        with policy:
            if not ok:
                raise ConnectionError

    return work


def generator(policy: Throttle) -> Callable[[bool], object]:
    @policy
    def items(ok: bool) -> Iterator[int]:
        yield 1
        if not ok:
            raise ConnectionError

    return lambda ok: list(items(ok))


def on_loop(run: Callable[[Any], object], face: str) -> Callable[[Throttle], Callable[[bool], object]]:
    def of(policy: Throttle) -> Callable[[bool], object]:
        @policy
        async def work(ok: bool) -> None:
            if not ok:
                raise ConnectionError

        @policy
        async def items(ok: bool) -> AsyncIterator[int]:
            yield 1
            if not ok:
                raise ConnectionError

        async def use(ok: bool) -> None:
            if face == "decorated":
                await work(ok)
            elif face == "called":
                await policy.call_async(work.__wrapped__, ok)  # type: ignore[attr-defined]
            elif face == "block":
                async with policy:
                    if not ok:
                        raise ConnectionError
            else:
                async for _ in items(ok):
                    pass

        return lambda ok: run(lambda: use(ok))

    return of


FACES = {
    "decorated": decorated,
    "called": called,
    "block": block,
    "generator": generator,
    **{
        f"{name}-{face}": on_loop(run, face)
        for name, run in (("asyncio", lambda main: asyncio.run(main())), ("trio", trio.run))
        for face in ("decorated", "called", "block", "generator")
    },
}


@pytest.mark.parametrize("face", FACES)
def test_it_refuses_in_step_with_what_the_other_side_refuses(face: str, clock: FakeClock, registry: Registry) -> None:
    policy = drawing(throttle("search", registry=registry), 1.0)
    use = FACES[face](policy)
    for ok in [True] * 4 + [False] * 6:
        try:
            use(ok)
        except ConnectionError:
            pass
    assert policy.snapshot() == {
        "rejection_probability": pytest.approx(2 / 11),
        "requests": 10,
        "accepts": 4,
        "rejected": 0,
        "totals": {"passed": 10, "rejected": 0},
    }
    drawing(policy, 0.18)
    with record_events(policy=policy) as events, pytest.raises(ThrottledError) as caught:
        use(True)
    assert isinstance(caught.value, RejectedError)
    assert caught.value.policy == "search"
    assert caught.value.retry_after is None
    assert "throttle 'search' refused the call" in str(caught.value)
    assert "18% are refused here" in str(caught.value)
    assert [(event.kind, event.data) for event in events] == [
        ("call_rejected", {"rejection_probability": pytest.approx(2 / 11)})
    ]
    assert window(policy) == (11, 4)
    drawing(policy, 0.3)
    use(True)
    assert window(policy) == (12, 5)
    assert policy.snapshot()["totals"] == {"passed": 11, "rejected": 1}


def test_the_error_pickles_and_is_made_anew_each_time(registry: Registry) -> None:
    policy = drawing(throttle(registry=registry), 0.0)
    failing(policy, 10)
    errors = []
    for _ in range(2):
        with pytest.raises(ThrottledError) as caught:
            policy.call(int)
        errors.append(caught.value)
    assert errors[0] is not errors[1]
    assert str(pickle.loads(pickle.dumps(errors[0]))) == str(errors[0])


def test_no_more_than_max_rejection_is_refused(clock: FakeClock, registry: Registry) -> None:
    policy = drawing(throttle(max_rejection=0.5, registry=registry), 0.5)
    failing(policy, 100)
    assert policy.snapshot()["rejection_probability"] == 0.5
    policy.call(int)
    with pytest.raises(ThrottledError):
        drawing(policy, 0.49).call(int)


def test_it_recovers_as_the_window_passes(clock: FakeClock, registry: Registry) -> None:
    policy = drawing(throttle(window=120, registry=registry), 0.1)
    failing(policy, 100)
    with pytest.raises(ThrottledError):
        policy.call(int)
    clock.advance(120)
    assert policy.snapshot()["rejection_probability"] == 0.0
    policy.call(int)


def test_a_first_burst_to_a_healthy_service_is_not_refused(registry: Registry) -> None:
    policy = drawing(throttle(registry=registry), 0.0)

    async def work() -> None:
        await asyncio.sleep(0)

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(50):
                group.create_task(policy.call_async(work))

    asyncio.run(main())
    assert window(policy) == (50, 50)


def test_errors_that_are_not_refusals_count_as_accepted(clock: FakeClock, registry: Registry) -> None:
    policy = throttle(on=ConnectionError, registry=registry)
    with pytest.raises(ValueError, match="mine"):
        policy.call(_raise, ValueError("mine"))
    assert window(policy) == (1, 1)


def _raise(error: BaseException) -> None:
    raise error


def test_rejections_by_policies_inside_count_only_where_on_names_them(clock: FakeClock, registry: Registry) -> None:
    breaker = circuit_breaker(registry=registry)
    breaker.force_open()
    blind, seeing = throttle(registry=registry), throttle(on=(OSError, RejectedError), registry=registry)
    for policy, expected in ((blind, (0, 0)), (seeing, (1, 0))):
        with pytest.raises(CircuitOpenError):
            pipeline(policy, breaker, registry=registry).call(int)
        assert window(policy) == expected


def test_the_error_of_a_predicate_reaches_the_caller_and_the_call_does_not_count(registry: Registry) -> None:
    def broken(error: BaseException) -> bool:
        raise LookupError("in the predicate")

    policy = throttle(on=broken, registry=registry)
    with pytest.raises(LookupError, match="in the predicate"):
        policy.call(fail)
    with pytest.raises(LookupError, match="in the predicate"), policy:
        fail()
    assert window(policy) == (0, 0)


def test_a_generator_that_is_closed_early_does_not_count(registry: Registry) -> None:
    policy = throttle(registry=registry)

    @policy
    def items() -> Iterator[int]:
        yield from (1, 2)

    begun = items()
    next(begun)
    begun.close()
    assert window(policy) == (0, 0)


def test_a_retry_outside_gives_up_on_a_refusal_and_a_fallback_serves(clock: FakeClock, registry: Registry) -> None:
    policy = drawing(throttle(registry=registry), 0.0)
    failing(policy, 5)
    both = pipeline(
        fallback(default="spare", registry=registry),
        retry(attempts=5, registry=registry),
        policy,
        registry=registry,
    )
    assert both.call(str) == "spare"
    assert clock.sleeps == []
    assert policy.snapshot()["rejected"] == 1


@pytest.mark.parametrize(
    "settings, setting",
    [
        ({"k": 0.5}, "k"),
        ({"k": math.inf}, "k"),
        ({"k": True}, "k"),
        ({"k": "2"}, "k"),
        ({"window": 0}, "window"),
        ({"max_rejection": 0}, "max_rejection"),
        ({"max_rejection": 1.5}, "max_rejection"),
        ({"on": None}, "on"),
        ({"name": " "}, "name"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], setting: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        throttle(**settings)
    assert caught.value.setting == setting


def test_it_is_also_a_bare_decorator() -> None:
    @throttle
    def work() -> str:
        return "done"

    assert work() == "done"
    assert type(work.__resilient__.policies[0]) is Throttle  # type: ignore[attr-defined]


def test_a_name_belongs_to_one_policy(registry: Registry) -> None:
    policy = throttle("search", k=1.5, registry=registry)
    assert throttle("search", k=1.5, registry=registry) is policy
    with pytest.raises(ConfigurationError, match="already registered"):
        throttle("search", registry=registry)
    assert registry.find(Throttle, "search") is policy


def test_other_rejections_are_not_ours() -> None:
    assert not issubclass(ThrottledError, RateLimitedError)
