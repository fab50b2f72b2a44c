"""`observed`: what a guarded call shows, without a policy."""

from __future__ import annotations

import asyncio
import inspect
import json
import pickle
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any, assert_type, cast

import pytest
import trio

import resilient
from resilient import ConfigurationError, Registry, pipeline, retry
from resilient.backoff import constant
from resilient.telemetry.observed import Observed, observed
from resilient.testing import fake_clock
from tests.telemetry.exporting import run


def calls(registry: Registry, name: str) -> dict[str, int]:
    """Calls by outcome, without those that are none."""
    told = registry.snapshot()["pipeline"][name]["calls"]
    return {outcome: count for outcome, count in cast("dict[str, int]", told).items() if count}


def double(number: int) -> int:
    """Twice the number."""
    return 2 * number


@observed
def module_level(number: int) -> int:
    return number


class TestFunctions:
    def test_calls_are_counted_with_their_duration_and_pass_as_they_are(self) -> None:
        private = Registry()
        error = ValueError("as it was")

        with fake_clock() as clock:

            @observed("checkout", registry=private)
            def check_out(seconds: float) -> float:
                clock.advance(seconds)
                if seconds > 1:
                    raise error
                return seconds

            assert [check_out(0.25), check_out(0.5)] == [0.25, 0.5]
            with pytest.raises(ValueError, match="as it was") as raised:
                check_out(2)
        assert raised.value is error
        assert calls(private, "checkout") == {"success": 2, "failure": 1}
        meter = private.call_meter("checkout")
        assert (float(meter.success.sum), meter.snapshot()["errors"]) == (0.75, {"ValueError": 1})
        assert meter.snapshot()["active"] == 0

    def test_a_call_under_way_is_active(self) -> None:
        private = Registry()

        @observed("checkout", registry=private)
        def look() -> object:
            return private.snapshot()["pipeline"]["checkout"]["active"]

        assert look() == 1

    def test_without_a_name_it_is_the_qualified_name_of_the_function(self) -> None:
        private = Registry()
        observed(registry=private)(double)(1)
        assert list(private.snapshot()["pipeline"]) == [f"{__name__}.double"]

    def test_without_parentheses_it_counts_in_the_default_registry(self) -> None:
        # Guarded here: others may have cleared the registry since this module was imported.
        name = f"{__name__}.double"
        before = resilient.registry.call_meter(name).success.count
        assert observed(double)(3) == 6
        assert resilient.registry.call_meter(name).success.count == before + 1

    def test_the_function_stays_what_it_was(self) -> None:
        guarded = observed("double")(double)
        assert (guarded.__name__, guarded.__doc__) == ("double", "Twice the number.")
        assert inspect.signature(guarded) == inspect.signature(double)
        assert cast("Any", guarded).__wrapped__ is double
        assert isinstance(cast("Any", guarded).__resilient__, Observed)
        assert pickle.loads(pickle.dumps(module_level)) is module_level

    def test_async_functions_on_asyncio_and_trio(self) -> None:
        private = Registry()

        @observed("fetch", registry=private)
        async def fetch(number: int) -> int:
            return number

        assert inspect.iscoroutinefunction(fetch)
        assert (asyncio.run(fetch(1)), trio.run(fetch, 2)) == (1, 2)
        assert calls(private, "fetch") == {"success": 2}

    def test_a_generator_is_observed_from_its_first_step_to_its_end(self) -> None:
        private = Registry()
        with fake_clock() as clock:

            @observed("rows", registry=private)
            def rows() -> Iterator[int]:
                yield 1
                clock.advance(0.5)
                yield 2

            assert inspect.isgeneratorfunction(rows)
            steps = rows()
            assert private.snapshot()["pipeline"]["rows"]["active"] == 0
            assert next(steps) == 1
            assert private.snapshot()["pipeline"]["rows"]["active"] == 1
            clock.advance(0.25)
            assert list(steps) == [2]
        assert calls(private, "rows") == {"success": 1}
        assert float(private.call_meter("rows").success.sum) == 0.75

    def test_an_async_generator_closed_early_is_cancelled(self) -> None:
        private = Registry()

        @observed("rows", registry=private)
        async def rows() -> AsyncIterator[int]:
            yield 1
            yield 2

        async def main() -> list[int]:
            steps = rows()
            first = await anext(steps)
            await steps.aclose()  # type: ignore[attr-defined]
            return [first, *[number async for number in rows()]]

        assert inspect.isasyncgenfunction(rows)
        assert asyncio.run(main()) == [1, 1, 2]
        assert calls(private, "rows") == {"success": 1, "cancelled": 1}

    def test_methods_of_all_kinds(self) -> None:
        private = Registry()
        watch = observed("methods", registry=private)

        class Shop:
            @watch
            def plain(self) -> str:
                return type(self).__name__

            @watch
            @classmethod
            def of_class(cls) -> str:
                return cls.__name__

            @staticmethod
            @watch
            def static() -> str:
                return "static"

        assert (Shop().plain(), Shop.of_class(), Shop().static()) == ("Shop", "Shop", "static")
        assert calls(private, "methods") == {"success": 3}

    def test_partials_and_callables_by_their_own_names(self) -> None:
        private = Registry()
        assert observed(registry=private)(partial(double, 4))() == 8
        assert calls(private, f"{__name__}.double") == {"success": 1}

    def test_call_call_async_and_proxy(self) -> None:
        private = Registry()
        watch = observed("all", registry=private)

        async def fetch() -> str:
            return "fetched"

        assert watch.call(double, 2) == 4
        assert asyncio.run(watch.call_async(fetch)) == "fetched"
        assert watch.proxy([3, 1], methods={"index"}).index(1) == 1
        assert calls(private, "all") == {"success": 3}


class TestBlocks:
    def test_a_block_counts_with_its_outcome(self) -> None:
        private = Registry()
        with fake_clock() as clock:
            with observed("block", registry=private):
                clock.advance(0.125)
            with pytest.raises(KeyError):
                with observed("block", registry=private):
                    raise KeyError
        assert calls(private, "block") == {"success": 1, "failure": 1}
        assert float(private.call_meter("block").success.sum) == 0.125

    def test_one_object_may_be_in_many_blocks_at_once(self) -> None:
        private = Registry()
        watch = observed("block", registry=private)

        async def one() -> None:
            async with watch:
                with watch:
                    await asyncio.sleep(0)

        async def main() -> None:
            await asyncio.gather(*[one() for _ in range(5)])

        asyncio.run(main())
        assert calls(private, "block") == {"success": 10}
        assert len(watch._open) == 0

    def test_a_cancelled_block_is_cancelled(self) -> None:
        private = Registry()

        async def wait() -> None:
            async with observed("block", registry=private):
                await trio.sleep_forever()

        async def main() -> None:
            with trio.move_on_after(0):
                await wait()

        trio.run(main)
        assert calls(private, "block") == {"cancelled": 1}


class TestStacks:
    def test_around_a_policy_it_is_one_pipeline_under_its_own_name(self) -> None:
        private = Registry()
        answers = iter([ConnectionError(), None])

        @observed("checkout", registry=private)
        @retry(on=ConnectionError, backoff=constant(0), registry=private)
        def check_out() -> str:
            error = next(answers)
            if error is not None:
                raise error
            return "done"

        assert check_out() == "done"
        assert calls(private, "checkout") == {"success": 1}
        assert [policy.kind for policy in cast("Any", check_out).__resilient__.policies] == ["retry"]

    def test_under_a_policy_it_gives_the_pipeline_its_name(self) -> None:
        private = Registry()

        @retry(attempts=2, backoff=constant(0), registry=private)
        @observed("query", registry=private)
        def query() -> None:
            raise LookupError

        with pytest.raises(LookupError):
            query()
        assert calls(private, "query") == {"failure": 1}

    def test_twice_on_one_function_counts_once(self) -> None:
        private = Registry()
        observed("outer", registry=private)(observed("inner", registry=private)(double))(1)
        assert calls(private, "outer") == {"success": 1}
        assert calls(private, "inner") == {}


class TestRefusals:
    def test_a_block_without_a_name(self) -> None:
        with pytest.raises(TypeError, match=r'as in `with observed\("checkout"\):`'):
            with observed():
                pass

    def test_an_async_block_and_a_call_without_a_name(self) -> None:
        async def block() -> None:
            async with observed():
                pass

        with pytest.raises(TypeError, match="without a name is a decorator"):
            asyncio.run(block())
        with pytest.raises(TypeError, match="without a name is a decorator"):
            observed().call(double, 1)

    @pytest.mark.parametrize("name", ["", "  "])
    def test_an_empty_name(self, name: str) -> None:
        with pytest.raises(ConfigurationError, match="not empty"):
            observed(name)

    @pytest.mark.parametrize("thing", [3, int, property(double), b"name"])
    def test_what_is_no_function(self, thing: Any) -> None:
        with pytest.raises(TypeError, match="decorate functions or methods"):
            observed(thing)

    def test_a_registry_that_is_none(self) -> None:
        with pytest.raises(ConfigurationError, match="a Registry"):
            observed("name", registry=cast("Any", {}))

    def test_a_loop_over_it(self) -> None:
        with pytest.raises(TypeError, match="no attempts"):
            iter(observed("name"))

    def test_a_pipeline_of_nothing_but_it(self) -> None:
        with pytest.raises(ConfigurationError, match="at least one policy"):
            pipeline("empty", observed("name"))

    def test_the_wrong_way_to_call(self) -> None:
        async def fetch() -> None: ...

        with pytest.raises(TypeError, match="call_async"):
            observed("name").call(fetch)  # type: ignore[unused-coroutine]


def test_its_repr_says_its_name() -> None:
    assert (repr(observed("checkout")), repr(observed())) == ("<Observed checkout>", "<Observed unnamed>")


SPANS = """
import asyncio, json
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from resilient.telemetry.observed import observed

seen = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(seen))
trace.set_tracer_provider(provider)

@observed("function")
def function():
    with observed("block"):
        pass

@observed("coroutine")
async def coroutine():
    async with observed("async block"):
        function()

@observed("generator")
def generator():
    yield function()

asyncio.run(coroutine())
list(generator())
try:
    with observed("broken"):
        raise OSError
except OSError:
    pass
spans = seen.get_finished_spans()
names = {span.context.span_id: span.name for span in spans}
print(json.dumps([
    [span.name, names.get(span.parent.span_id) if span.parent else None, span.attributes["resilience.outcome"],
     span.status.status_code.name, list(span.attributes["resilience.policy.types"])]
    for span in spans
]))
"""


def test_each_use_is_a_span_under_the_one_around_it() -> None:
    told: list[list[Any]] = json.loads(run(SPANS))
    assert {name: parent for name, parent, *_ in told[:4]} == {
        "execute block": "execute function",
        "execute function": "execute async block",
        "execute async block": "execute coroutine",
        "execute coroutine": None,
    }
    assert [(name, parent) for name, parent, *_ in told[4:7]] == [
        ("execute block", "execute function"),
        ("execute function", "execute generator"),
        ("execute generator", None),
    ]
    assert told[7] == ["execute broken", None, "failure", "ERROR", []]
    assert all(outcome == "success" and status == "UNSET" for _, _, outcome, status, _ in told[:7])


def test_types_are_kept() -> None:
    assert_type(observed("typed")(double)(2), int)
    assert_type(observed(double)(2), int)
    with observed("typed") as watch:
        assert_type(watch, Observed)
