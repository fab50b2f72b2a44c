"""A request id and other fields, bound to the current context."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextvars import copy_context

import pytest
import structlog
import trio

from resilient import ConfigurationError, context

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


@pytest.fixture(autouse=True)
def _nothing_bound() -> Iterator[None]:
    before = dict(context.bound())
    yield
    assert dict(context.bound()) == before
    structlog.contextvars.clear_contextvars()


def test_nothing_is_bound_at_first() -> None:
    assert context.request_id() is None
    assert context.bound() == {}
    assert context.headers() == {}


def test_a_block_binds_and_puts_back() -> None:
    with context.bind(request_id="r-1", tenant="acme"):
        with context.bind(request_id="r-2", order=7):
            assert context.bound() == {"request_id": "r-2", "tenant": "acme", "order": 7}
        assert context.bound() == {"request_id": "r-1", "tenant": "acme"}
    assert context.request_id() is None


def test_a_block_that_fails_puts_back_too() -> None:
    with pytest.raises(KeyError), context.bind(request_id="r-1"):
        raise KeyError
    assert context.request_id() is None


def test_called_plainly_it_holds_until_the_context_ends() -> None:
    def handle() -> str | None:
        context.bind(request_id="r-1")
        return context.request_id()

    assert copy_context().run(handle) == "r-1"
    assert context.request_id() is None


def test_fields_alone_leave_the_id_as_it_is() -> None:
    with context.bind(request_id="r-1"), context.bind(tenant="acme"):
        assert context.request_id() == "r-1"


def test_what_is_bound_can_not_be_changed() -> None:
    with context.bind(request_id="r-1"):
        with pytest.raises(TypeError):
            context.bound()["request_id"] = "r-2"  # type: ignore[index]


def test_unbinding_twice_or_elsewhere_does_nothing() -> None:
    def handle() -> None:
        elsewhere = context.bind(request_id="r-1")
        copy_context().run(elsewhere.unbind)
        assert context.request_id() == "r-1"
        twice = context.bind(request_id="r-2")
        twice.unbind()
        twice.unbind()
        assert context.request_id() == "r-1"

    copy_context().run(handle)


def test_tasks_and_threads_have_ids_of_their_own() -> None:
    async def handle(number: int) -> str | None:
        with context.bind(request_id=f"r-{number}"):
            await asyncio.sleep(0)
            return context.request_id()

    async def main() -> list[str | None]:
        return await asyncio.gather(*(handle(number) for number in range(20)))

    assert asyncio.run(main()) == [f"r-{number}" for number in range(20)]
    seen: list[str | None] = []
    with context.bind(request_id="r-1"):
        thread = threading.Thread(target=lambda: seen.append(context.request_id()))
        thread.start()
        thread.join()
    assert seen == [None]


def test_tasks_of_trio_inherit_it() -> None:
    async def main() -> None:
        async def child() -> None:
            assert context.request_id() == "r-1"
            context.bind(request_id="r-2")

        with context.bind(request_id="r-1"):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(child)
            assert context.request_id() == "r-1"

    trio.run(main)


@pytest.mark.parametrize("wrong", ["", "a b", "a\nb", "ü", "x" * 129, 17, b"r-1", "a,b", 'a"b'])
def test_ids_of_another_form_are_refused(wrong: object) -> None:
    with pytest.raises(ConfigurationError, match=r"bind: request_id=.* is not allowed: 1 to 128 letters"):
        context.bind(request_id=wrong)  # type: ignore[arg-type]
    assert context.request_id() is None


def test_new_ids_differ_and_are_fit_to_be_bound() -> None:
    ids = {context.new_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in ids)


@pytest.mark.parametrize("name", ["X-Request-ID", "x-request-id", "X-REQUEST-ID"])
@pytest.mark.parametrize("wanted", ["r-1", "x" * 128, "A1b2._:+/=@-", TRACE])
def test_the_id_that_comes_in_is_taken(name: str, wanted: str) -> None:
    assert context.from_headers({name: f" {wanted} "}) == wanted


@pytest.mark.parametrize("wanted", ["", "x" * 129, "a b", "a\r\nSet-Cookie: x=1", "<script>", "a,b", "\u0660", "\x00"])
def test_an_id_that_is_not_fit_gives_a_fresh_one(wanted: str) -> None:
    header = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-ID": wanted}
    given = context.from_headers(header)
    assert re.fullmatch("[0-9a-f]{32}", given)
    assert given != TRACE
    assert context.from_headers(header) != given


@pytest.mark.parametrize("traceparent", [f"00-{TRACE}-{PARENT}-01", f"cc-{TRACE}-{PARENT}-00-later"])
def test_without_an_id_the_trace_id_is_taken(traceparent: str) -> None:
    assert context.from_headers({"Traceparent": traceparent}) == TRACE


def test_the_id_goes_before_the_trace_in_any_order() -> None:
    traceparent = f"00-{TRACE}-{PARENT}-01"
    assert context.from_headers({"traceparent": traceparent, "x-request-id": "r-1"}) == "r-1"
    assert context.from_headers({"x-request-id": "r-1", "traceparent": traceparent}) == "r-1"


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        TRACE,
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}",
    ],
)
def test_a_malformed_traceparent_gives_a_fresh_id(traceparent: str) -> None:
    given = context.from_headers({"traceparent": traceparent})
    assert re.fullmatch("[0-9a-f]{32}", given)
    assert given != TRACE


def test_the_next_service_is_told() -> None:
    with context.bind(request_id="r-1"):
        assert context.from_headers(context.headers()) == "r-1"


def test_it_is_bound_in_structlog_and_put_back_there() -> None:
    variables = structlog.contextvars
    variables.bind_contextvars(tenant="before")
    with context.bind(request_id="r-1", tenant="acme"):
        assert variables.get_contextvars() == {"request_id": "r-1", "tenant": "acme"}
    assert variables.get_contextvars() == {"tenant": "before"}


def test_it_imports_neither_structlog_nor_logging_and_takes_up_structlog_when_that_is_there() -> None:
    program = """
import sys
from resilient import context
outer = context.bind(request_id="r-1")
print([name for name in ("structlog", "logging") if name in sys.modules])
import structlog
with context.bind(tenant="acme"):
    print(structlog.contextvars.get_contextvars())
outer.unbind()
print(structlog.contextvars.get_contextvars(), dict(context.bound()))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True, env=environment
    )
    assert done.stdout.splitlines() == ["[]", "{'tenant': 'acme'}", "{} {}"]


def test_what_is_bound_plainly_inside_of_a_block_ends_with_it_for_structlog_too() -> None:
    structlog.contextvars.clear_contextvars()
    with context.bind(request_id="r-17", tenant="acme"):
        with context.bind(step=1):
            context.bind(user="anna", tenant="other")
            assert structlog.contextvars.get_contextvars() == {
                "request_id": "r-17",
                "tenant": "other",
                "step": 1,
                "user": "anna",
            }
        assert structlog.contextvars.get_contextvars() == {"request_id": "r-17", "tenant": "acme"}
    assert structlog.contextvars.get_contextvars() == {}
