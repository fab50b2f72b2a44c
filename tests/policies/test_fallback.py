"""Fallback: a default or a handler in the place of what failed."""

from __future__ import annotations

import sys
import traceback
from functools import partial
from typing import Any

import pytest

from resilient import Registry, fallback
from resilient.policies.fallback import Fallback
from tests.policies.fallback_kit import FACES, Face, cancel_at_every_step, run


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


class TestWhatIsServed:
    def test_a_default_where_the_call_fails(self, face: Face, registry: Registry) -> None:
        policy = fallback(default="nothing", registry=registry)
        assert face.guard(policy, failing)(1) == "nothing"
        assert counts(policy) == {"applied": 1}

    def test_the_result_where_it_succeeds(self, face: Face, registry: Registry) -> None:
        policy = fallback(default="nothing", registry=registry)
        assert face.guard(policy, lambda x: x + 1)(1) == 2
        assert counts(policy) == {"not_needed": 1}

    @pytest.mark.parametrize("default", [None, False, 0, (), NotImplemented, ...], ids=repr)
    def test_any_default_is_a_default(self, default: object, registry: Registry) -> None:
        assert fallback(default=default, registry=registry).call(failing) is default

    def test_the_handler_is_called_with_the_same_arguments(self, face: Face, registry: Registry) -> None:
        policy = fallback(lambda *args, **kwargs: (args, kwargs), registry=registry)
        assert face.guard(policy, failing)(1, 2, key=3) == ((1, 2), {"key": 3})

    def test_with_pass_error_the_error_comes_first(self, face: Face, registry: Registry) -> None:
        error = ConnectionError("down")

        def body(x: int) -> object:
            raise error

        policy = fallback(lambda *args: args, pass_error=True, registry=registry)
        served = face.guard(policy, body)(1)
        assert served == (error, 1)
        assert served[0] is error

    def test_a_result_that_is_not_wanted_is_replaced(self, face: Face, registry: Registry) -> None:
        policy = fallback(lambda *args: args, on_result=lambda x: x == 2, pass_error=True, registry=registry)
        guarded = face.guard(policy, lambda x: x)
        assert guarded(1) == 1
        assert guarded(2) == (None, 2)
        assert counts(policy) == {"not_needed": 1, "applied": 1}

    def test_methods_hand_self_to_the_handler(self, registry: Registry) -> None:
        class Client:
            backup = "backup"

            def instead(self, x: int) -> str:
                return f"{self.backup} {x}"

            @fallback(instead, registry=registry)
            def fetch(self, x: int) -> str:
                raise ConnectionError

        assert Client().fetch(1) == "backup 1"

    @pytest.mark.parametrize("backend", ["asyncio", "trio"])
    def test_the_handler_of_an_async_function_may_be_async(self, backend: str, registry: Registry) -> None:
        async def handler(x: int) -> int:
            return -x

        async def body(x: int) -> int:
            raise ConnectionError

        assert run(backend, partial(fallback(handler, registry=registry)(body), 3)) == -3
        assert run(backend, partial(fallback(handler, registry=registry).call_async, body, 3)) == -3

    def test_inside_the_handler_the_error_is_being_handled(self, face: Face, registry: Registry) -> None:
        policy = fallback(lambda: sys.exc_info()[1], registry=registry)
        assert isinstance(face.guard(policy, failing)(), ConnectionError)


class TestWhatIsNot:
    def test_other_errors_pass_as_they_are(self, face: Face, registry: Registry) -> None:
        error = KeyError("other")

        def body() -> None:
            raise error

        policy = fallback(default=1, on=(ConnectionError, TimeoutError), registry=registry)
        with pytest.raises(KeyError) as raised:
            face.guard(policy, body)()
        assert raised.value is error
        assert (error.__cause__, error.__context__) == (None, None)
        assert counts(policy) == {"not_needed": 1}

    def test_on_may_be_a_predicate_whose_errors_propagate(self, face: Face, registry: Registry) -> None:
        def on(error: BaseException) -> bool:
            raise LookupError("in the predicate")

        policy = fallback(default=1, on=on, registry=registry)
        with pytest.raises(LookupError):
            face.guard(policy, failing)()
        assert counts(policy) == {"failed": 1}

    @pytest.mark.parametrize("neutral", [KeyboardInterrupt, SystemExit, GeneratorExit, BaseException])
    def test_neutral_exceptions_pass_uncounted(self, neutral: type[BaseException], registry: Registry) -> None:
        error = neutral()

        def body() -> None:
            raise error

        policy = fallback(default=1, on=BaseException, registry=registry)
        with pytest.raises(neutral) as raised:
            policy.call(body)
        assert raised.value is error
        assert counts(policy) == {}

    @pytest.mark.parametrize("neutral", [KeyboardInterrupt, SystemExit, GeneratorExit])
    def test_a_neutral_exception_of_the_handler_passes_uncounted(
        self, neutral: type[BaseException], registry: Registry
    ) -> None:
        def handler() -> None:
            raise neutral

        policy = fallback(handler, registry=registry)
        with pytest.raises(neutral):
            policy.call(failing)
        assert counts(policy) == {}

    @pytest.mark.parametrize("backend", ["asyncio", "trio"])
    def test_a_cancellation_at_any_step_is_neither_replaced_nor_counted(self, backend: str, registry: Registry) -> None:
        from resilient.drivers import tasks

        async def body() -> None:
            await tasks.sleep(0)
            await tasks.sleep(0)
            raise ConnectionError

        async def handler() -> str:
            await tasks.sleep(0)
            await tasks.sleep(0)
            return "instead"

        policy = fallback(handler, registry=registry)
        guarded = policy(body)
        cancelled = cancel_at_every_step(backend, guarded, lambda: None)
        assert cancelled >= 4
        assert counts(policy) == {"applied": 1}


class TestAFallbackThatFails:
    def test_it_raises_its_own_error_with_the_original_as_the_cause(self, face: Face, registry: Registry) -> None:
        original, own = ConnectionError("down"), LookupError("no backup")

        def body() -> None:
            raise original

        def handler() -> None:
            raise own

        policy = fallback(handler, registry=registry)
        with pytest.raises(LookupError) as raised:
            face.guard(policy, body)()
        assert raised.value is own
        assert own.__cause__ is original
        shown = "".join(traceback.format_exception(raised.value))
        assert "down" in shown
        assert "no backup" in shown
        assert counts(policy) == {"failed": 1}

    def test_a_handler_that_raises_the_original_again_makes_no_circle(self, face: Face, registry: Registry) -> None:
        original = ConnectionError("down")
        original.__cause__ = OSError("unplugged")

        def body() -> None:
            raise original

        def again(error: Exception) -> None:
            raise error

        def its_cause(error: Exception) -> None:
            assert error.__cause__ is not None
            raise error.__cause__

        for handler in (again, its_cause):
            policy: Fallback[None] = fallback(handler, pass_error=True, registry=registry)
            with pytest.raises((ConnectionError, OSError), match=r"down|unplugged"):
                face.guard(policy, body)()
            seen: list[BaseException] = []
            link: BaseException | None = original
            while link is not None:
                assert link not in seen
                seen.append(link)
                link = link.__cause__

    def test_after_an_unwanted_result_there_is_no_cause(self, registry: Registry) -> None:
        own = LookupError("no backup")

        def handler() -> None:
            raise own

        with pytest.raises(LookupError):
            fallback(handler, on_result=lambda _: True, registry=registry).call(lambda: 1)
        assert own.__cause__ is None
