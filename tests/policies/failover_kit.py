"""Providers to fail over, and what the registry tells of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from resilient import Failover, Registry, failover
from tests.policies.fallback_kit import as_async, run


class Provider:
    """Answers with its name and the arguments, or fails."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.error: BaseException | None = None
        self.calls = 0

    def __call__(self, *args: object) -> object:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return (self.name, *args)


def build(backend: str, *providers: tuple[str, Callable[..., Any]], **settings: Any) -> Callable[..., Any]:
    """A plain function that calls a failover over these providers on the back end."""
    if backend == "thread":
        return failover(*providers, **settings)
    made = failover(*[(name, as_async(provider)) for name, provider in providers], **settings)
    return lambda *args: run(backend, partial(made, *args))


def policy_in(registry: Registry) -> Failover:
    (policy,) = registry.all(Failover)
    return policy


def counts(registry: Registry) -> dict[str, int]:
    calls: Any = policy_in(registry).snapshot()["calls"]
    return {result: count for result, count in calls.items() if count}


def outcomes(registry: Registry, name: str) -> dict[str, int]:
    calls: Any = registry.snapshot()["pipeline"][name]["calls"]
    return {outcome: count for outcome, count in calls.items() if count}
