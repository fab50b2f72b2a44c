"""A guarded function is the function that it was: of its kind, by its name, in its place."""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import operator
import pickle
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest

from resilient import ConfigurationError, Pipeline, Registry, circuit_breaker, pipeline, retry, timeout
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.testing import FakeClock

REGISTRY = Registry()
breaker = circuit_breaker(registry=REGISTRY)


def guard(function: Any) -> Any:
    return circuit_breaker(registry=Registry())(function)


def plain(number: int, /, *, by: float = 2.0) -> float:
    """Multiply."""
    return number * by


async def asynchronous(number: int, /, *, by: float = 2.0) -> float:
    """Multiply, later."""
    return number * by


def generator(count: int = 3) -> Iterator[int]:
    """Count."""
    yield from range(count)


async def async_generator(count: int = 3) -> AsyncIterator[int]:
    """Count, later."""
    for number in range(count):
        yield number


KINDS = (plain, asynchronous, generator, async_generator)
QUESTIONS = (
    inspect.isfunction,
    inspect.iscoroutinefunction,
    inspect.isgeneratorfunction,
    inspect.isasyncgenfunction,
    asyncio.iscoroutinefunction,
    callable,
)


@breaker
def by_reference(number: int) -> int:
    return number + 1


@retry(registry=REGISTRY)
@circuit_breaker(registry=REGISTRY)
@timeout(5.0, registry=REGISTRY)
def stacked_by_reference() -> str:
    return "stacked"


class Service:
    """All the ways to stand in a class."""

    factor = 10

    @breaker
    def method(self, number: int) -> int:
        return self.factor * number

    @breaker
    async def async_method(self, number: int) -> int:
        return self.factor * number

    @breaker
    def items(self) -> Iterator[int]:
        yield self.factor

    @breaker
    @staticmethod
    def static_below(number: int) -> int:
        return number

    @staticmethod
    @breaker
    def static_above(number: int) -> int:
        return number

    @breaker
    @classmethod
    def class_below(cls) -> type:
        return cls

    @classmethod
    @breaker
    def class_above(cls) -> type:
        return cls

    @retry(registry=REGISTRY)
    @staticmethod
    @timeout(1.0, registry=REGISTRY)
    def static_between(number: int) -> int:
        return number

    @property
    @breaker
    def guarded_property(self) -> int:
        return self.factor


class Derived(Service):
    factor = 100


class AsyncCallable:
    """Called and awaited."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    async def __call__(self, number: int) -> int:
        self.seen.append(number)
        return number + 1


class Callable_:
    __slots__ = ()

    def __call__(self, number: int) -> int:
        return number + 1


@pytest.mark.parametrize("function", KINDS, ids=lambda function: function.__name__)
@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: f"{question.__module__}.{question.__name__}")
def test_the_kind_is_answered_as_for_the_original(
    function: Callable[..., Any], question: Callable[[object], bool]
) -> None:
    guarded = guard(function)
    assert question(guarded) == question(function)
    assert question(pipeline(timeout(1.0))(guarded)) == question(function)


@pytest.mark.parametrize("function", KINDS, ids=lambda function: function.__name__)
def test_name_doc_signature_and_annotations_are_kept(function: Any) -> None:
    guarded = guard(function)
    for attribute in ("__name__", "__qualname__", "__module__", "__doc__", "__annotations__"):
        assert getattr(guarded, attribute) == getattr(function, attribute)
    assert inspect.signature(guarded) == inspect.signature(function)
    assert guarded.__wrapped__ is function
    assert isinstance(guarded.__resilient__, Pipeline)


def test_each_kind_gives_what_the_original_gives() -> None:
    async def collect() -> list[int]:
        return [item async for item in guard(async_generator)(2)]

    assert guard(plain)(4, by=0.5) == 2.0
    assert asyncio.run(guard(asynchronous)(4, by=0.5)) == 2.0
    assert list(guard(generator)(2)) == [0, 1]
    assert asyncio.run(collect()) == [0, 1]


def test_methods_are_bound_by_python_itself() -> None:
    service, derived = Service(), Derived()
    assert service.method(2) == 20
    assert Service.method(derived, 2) == 200
    assert asyncio.run(derived.async_method(2)) == 200
    assert list(derived.items()) == [100]
    assert service.guarded_property == 10
    assert service.method.__self__ is service  # type: ignore[attr-defined]


def test_staticmethod_and_classmethod_work_on_either_side_of_the_decorator() -> None:
    for owner in (Service, Service(), Derived, Derived()):
        assert owner.static_below(3) == owner.static_above(3) == owner.static_between(3) == 3
        wanted = Derived if owner is Derived or isinstance(owner, Derived) else Service
        assert owner.class_below() is owner.class_above() is wanted
    assert isinstance(Service.__dict__["static_below"], staticmethod)
    assert isinstance(Service.__dict__["class_below"], classmethod)


def test_a_decorator_above_staticmethod_joins_the_stack_below_it() -> None:
    kinds = [policy.kind for policy in Service.static_between.__resilient__.policies]  # type: ignore[attr-defined]
    assert kinds == ["retry", "timeout"]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_guarded_function_pickles_by_reference(protocol: int) -> None:
    for function in (by_reference, stacked_by_reference):
        assert pickle.loads(pickle.dumps(function, protocol)) is function


def test_a_guarded_function_is_its_own_copy() -> None:
    assert copy.copy(by_reference) is by_reference
    assert copy.deepcopy(by_reference) is by_reference


def test_a_guarded_bound_method_pickles_with_its_object() -> None:
    assert pickle.loads(pickle.dumps(Service().method))(2) == 20


def test_partials_are_guarded_as_what_they_stand_for() -> None:
    guarded = guard(functools.partial(plain, 4))
    assert guarded(by=3.0) == 12.0
    assert guarded.__name__ == "plain"
    assert guarded.__module__ == __name__
    assert str(inspect.signature(guarded)).startswith("(*, by")
    assert inspect.iscoroutinefunction(guard(functools.partial(functools.partial(asynchronous, 4), by=3.0)))
    assert inspect.isgeneratorfunction(guard(functools.partial(generator, 4)))
    assert inspect.isasyncgenfunction(guard(functools.partial(async_generator, 4)))


def test_a_partial_of_an_async_callable_object_is_async() -> None:
    guarded = guard(functools.partial(AsyncCallable(), 4))
    assert inspect.iscoroutinefunction(guarded)
    assert asyncio.run(guarded()) == 5


def test_callable_objects_are_guarded_by_the_kind_of_their_call() -> None:
    target = AsyncCallable()
    guarded = guard(target)
    assert inspect.iscoroutinefunction(guarded)
    assert guarded.__name__ == "AsyncCallable"
    assert guarded.__doc__ == "Called and awaited."
    assert guarded.__wrapped__ is target
    assert asyncio.run(guarded(1)) == 2
    assert target.seen == [1]
    assert guard(Callable_())(1) == 2


@pytest.mark.parametrize(
    "function, arguments, result",
    [
        (len, ("four",), 4),
        (str.upper, ("a",), "A"),
        ([].append, (1,), None),
        (dict.fromkeys, ("a",), {"a": None}),
        (operator.itemgetter(1), ("ab",), "b"),
        (functools.lru_cache(plain), (2,), 4.0),
        (functools.partial(str.upper), ("a",), "A"),
        (functools.partial(int, base=2), ("101",), 5),
    ],
)
def test_builtins_are_guarded(function: Any, arguments: tuple[Any, ...], result: object) -> None:
    guarded = guard(function)
    assert guarded(*arguments) == result
    assert guarded.__name__
    (policy,) = guarded.__resilient__.policies
    assert "None" not in policy.name


def test_bound_methods_are_guarded_where_they_are() -> None:
    service = Service()
    assert guard(service.method)(3) == 30
    assert asyncio.run(guard(service.async_method)(3)) == 30


def test_mocks_of_unittest_can_be_guarded() -> None:
    assert guard(Mock(return_value=3))() == 3
    guarded = guard(AsyncMock(return_value=3))
    assert inspect.iscoroutinefunction(guarded)
    assert asyncio.run(guarded()) == 3


@pytest.mark.parametrize(
    "thing",
    [property(lambda self: 1), Service, 3, "name", None, functools.partialmethod(plain), functools.cached_property],
)
def test_what_is_no_function_is_refused(thing: Any) -> None:
    with pytest.raises(TypeError, match=r"can't guard .* decorate functions or methods"):
        guard(thing)


def test_a_property_is_refused_with_the_right_order() -> None:
    with pytest.raises(TypeError, match="below @property"):
        guard(property(lambda self: 1))


def test_a_refused_function_leaves_no_name_behind() -> None:
    private = Registry()
    with pytest.raises(TypeError):
        circuit_breaker(registry=private)(3)  # type: ignore[type-var]
    with pytest.raises(TypeError, match="generator"):
        retry(registry=private)(generator)
    assert len(private) == 0


class Recorder:
    """A plain function that hands back a coroutine which must never run."""

    def __init__(self) -> None:
        self.calls = 0
        self.handed_out: list[Any] = []

    def hand_back(self) -> Any:
        self.calls += 1
        coroutine = asynchronous(1)
        self.handed_out.append(coroutine)
        return coroutine


def test_a_def_that_returns_a_coroutine_is_refused_at_the_call(fake_clock: FakeClock) -> None:
    private = Registry()
    recorder = Recorder()
    failing = circuit_breaker("b", consecutive_failures=1, registry=private)
    guarded = pipeline(retry(attempts=5, registry=private), failing, timeout(1.0, registry=private))(recorder.hand_back)
    with pytest.raises(TypeError, match="returned a coroutine, which would run unguarded") as caught:
        guarded()
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert recorder.calls == 1, "it must not be retried"
    assert inspect.getcoroutinestate(recorder.handed_out[0]) == inspect.CORO_CLOSED
    assert failing.state == "closed"
    assert failing.snapshot()["failures"] == 0
    assert fake_clock.sleeps == []


def test_a_coroutine_from_a_helper_thread_is_refused_alike() -> None:
    private = Registry()
    recorder = Recorder()
    guarded = timeout(5.0, interrupt="thread", registry=private)(recorder.hand_back)
    with pytest.raises(TypeError, match="would run unguarded"):
        guarded()
    assert inspect.getcoroutinestate(recorder.handed_out[0]) == inspect.CORO_CLOSED


def foreign(function: Callable[..., Any]) -> Callable[..., Any]:
    """Somebody else's decorator, that does as everybody does."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        CALLS_OF_FOREIGN.append(function.__name__)
        return function(*args, **kwargs)

    return wrapper


CALLS_OF_FOREIGN: list[str] = []


def test_a_foreign_decorator_between_ours_is_called_and_never_fused_away() -> None:
    private = Registry()
    CALLS_OF_FOREIGN.clear()

    @retry(registry=private)
    @foreign
    @circuit_breaker(registry=private)
    def guarded() -> str:
        return "done"

    assert guarded() == "done"
    assert CALLS_OF_FOREIGN == ["guarded"]
    assert [policy.kind for policy in guarded.__resilient__.policies] == ["retry"]  # type: ignore[attr-defined]
    inner = guarded.__wrapped__  # type: ignore[attr-defined]
    assert inner.__resilient__.policies[0].kind == "circuit_breaker", "wraps has copied it"


def test_a_foreign_decorator_above_ours_is_not_taken_for_a_guarded_function() -> None:
    private = Registry()
    inner = circuit_breaker(registry=private)(plain)
    outer = timeout(1.0, registry=private)(foreign(inner))
    CALLS_OF_FOREIGN.clear()
    assert outer(2) == 4.0
    assert CALLS_OF_FOREIGN == ["plain"]
    breakers = private.all(CircuitBreaker)
    assert len(breakers) == 1
    assert breakers[0].snapshot()["totals"] == {"success": 1, "failure": 0, "slow": 0, "ignored": 0, "rejected": 0}


def test_attributes_set_between_two_decorators_are_kept() -> None:
    private = Registry()

    def tagged(function: Any) -> Any:
        function.tags = ["slow"]
        function.__doc__ = "Documented later."
        return function

    @retry(registry=private)
    @tagged
    @circuit_breaker(registry=private)
    def guarded() -> str:
        return "done"

    assert guarded.tags == ["slow"]  # type: ignore[attr-defined]
    assert guarded.__doc__ == "Documented later."
    assert [policy.kind for policy in guarded.__resilient__.policies] == ["retry", "circuit_breaker"]  # type: ignore[attr-defined]
    assert not hasattr(guarded.__wrapped__, "__wrapped__")  # type: ignore[attr-defined]


def test_attributes_of_the_original_are_carried_and_not_shared() -> None:
    def original() -> None: ...

    original.tags = ["slow"]  # type: ignore[attr-defined]
    guarded = guard(original)
    guarded.more = True
    assert guarded.tags == ["slow"]
    assert not hasattr(original, "more")
    assert not hasattr(original, "__resilient__")


def test_guarding_again_leaves_the_first_guarded_function_as_it_was() -> None:
    private = Registry()
    first = circuit_breaker(registry=private)(plain)
    second = retry(registry=private)(first)
    assert [policy.kind for policy in first.__resilient__.policies] == ["circuit_breaker"]  # type: ignore[attr-defined]
    assert [policy.kind for policy in second.__resilient__.policies] == ["retry", "circuit_breaker"]  # type: ignore[attr-defined]
    assert first.__wrapped__ is second.__wrapped__ is plain  # type: ignore[attr-defined]


def test_arguments_of_any_name_reach_the_function() -> None:
    def takes(**given: int) -> dict[str, int]:
        return given

    names = dict.fromkeys(("function", "self", "args", "kwargs", "operation", "policy", "name"), 1)
    assert guard(takes)(**names) == names
    assert pipeline(retry(registry=Registry())).call(takes, **names) == names


def test_settings_given_together_with_the_function_are_not_ignored() -> None:
    private = Registry()
    retried: Any = retry(plain, attempts=7, registry=private)  # type: ignore[call-overload]
    (policy,) = retried.__resilient__.policies
    assert policy.settings["attempts"] == 7
    broken: Any = circuit_breaker(plain, failure_rate=0.7, registry=private)  # type: ignore[call-overload]
    (policy,) = broken.__resilient__.policies
    assert policy.settings["failure_rate"] == 0.7
    with pytest.raises(ConfigurationError):
        retry(plain, attempts=0)  # type: ignore[call-overload]
