"""Blocks in generators of the user's own, which are left in the middle of the block."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress

import pytest
from opentelemetry import trace

from resilient import Registry, circuit_breaker
from tests.telemetry.spans_kit import Seen, recording


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    with recording(monkeypatch) as seen:
        yield seen


@pytest.fixture
def registry() -> Registry:
    return Registry()


def nothing_is_current() -> bool:
    return not trace.get_current_span().get_span_context().is_valid


def test_who_consumes_a_generator_is_not_in_its_block(seen: Seen, registry: Registry) -> None:
    breaker = circuit_breaker("orders", registry=registry)

    def items() -> Iterator[int]:
        with breaker:
            yield 1
            yield 2

    assert [nothing_is_current() for _ in items()] == [True, True]
    assert [span.name for span in seen.ended] == ["execute orders"]


def test_nor_who_consumes_an_async_one(seen: Seen, registry: Registry) -> None:
    breaker = circuit_breaker("orders", registry=registry)

    async def items() -> AsyncIterator[int]:
        async with breaker:
            yield 1
            yield 2

    async def main() -> list[bool]:
        return [nothing_is_current() async for _ in items()]

    assert asyncio.run(main()) == [True, True]
    assert [span.name for span in seen.ended] == ["execute orders"]


def test_a_generator_that_another_thread_ends_leaves_nothing_current(seen: Seen, registry: Registry) -> None:
    breaker = circuit_breaker("orders", registry=registry)

    def items() -> Iterator[int]:
        with breaker:
            yield 1

    generator = items()
    next(generator)

    def end() -> None:
        with suppress(StopIteration):
            next(generator)

    thread = threading.Thread(target=end)
    thread.start()
    thread.join()
    assert nothing_is_current()
    assert [span.name for span in seen.ended] == ["execute orders"]
