"""Breakers for tests, each in a registry of its own, and what is called through them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from resilient import CircuitBreaker, CircuitOpenError, Registry, circuit_breaker

TEN_KEYS = [
    "state",
    "since_seconds",
    "retry_after",
    "failure_rate",
    "slow_call_rate",
    "calls",
    "failures",
    "slow_calls",
    "rejected",
    "last_error",
]


def breaker(name: str | None = "payments", **settings: Any) -> CircuitBreaker:
    return circuit_breaker(name, registry=Registry(), **settings)


def succeed(value: object = "fine") -> object:
    return value


def fail(error: BaseException | None = None) -> None:
    raise ConnectionError("refused") if error is None else error


def call_and_fail(policy: CircuitBreaker, times: int = 1, error: BaseException | None = None) -> None:
    raised = ConnectionError("refused") if error is None else error
    for _ in range(times):
        with pytest.raises(type(raised)) as caught:
            policy.call(fail, raised)
        assert caught.value is raised


def totals(policy: CircuitBreaker) -> dict[str, int]:
    """Calls by result, those that there were none of left out."""
    found = policy.snapshot()["totals"]
    assert isinstance(found, dict)
    return {result: count for result, count in found.items() if count}


def shown(policy: CircuitBreaker, *keys: str) -> tuple[object, ...]:
    snapshot = policy.snapshot()
    return tuple(snapshot[key] for key in keys)


def finishes(work: Callable[[], object]) -> None:
    """Run on a thread that is given up, and not waited for, where it is deadlocked."""
    errors: list[BaseException] = []

    def watched() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=watched, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "deadlock"
    if errors:
        raise errors[0]


def rejection(policy: CircuitBreaker) -> CircuitOpenError:
    """The error of the next call, which must be rejected."""
    try:
        policy.call(succeed)
    except CircuitOpenError as error:
        return error
    raise AssertionError("the call was let through")
