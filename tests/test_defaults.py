"""The defaults that the documentation names: to change one is to change what every program does that relies on it."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest

import resilient
from resilient import backoff

DEFAULTS: list[tuple[Callable[..., object], dict[str, object]]] = [
    (resilient.retry, {"attempts": 3, "retry_after_max": 60.0, "on_exhausted": "return"}),
    (resilient.circuit_breaker, {"open_duration": 30.0, "half_open_calls": 1, "max_keys": 1000}),
    (resilient.timeout, {"interrupt": "auto"}),
    (resilient.bulkhead, {"max_concurrent": 10, "max_queue": 0, "max_keys": 1000}),
    (resilient.rate_limiter, {"period": 1.0, "max_wait": 0.0, "max_keys": 1000}),
    (resilient.fallback, {"pass_error": False}),
    (resilient.stale, {"max_size": 1024}),
    (resilient.hedge, {"max_hedges": 1}),
    (resilient.throttle, {"k": 2.0, "window": 120.0, "max_rejection": 0.9}),
    (resilient.percentile, {"minimum": 0.01, "warmup": 20}),
    (resilient.adaptive, {"initial": 20, "minimum": 1, "maximum": 200, "algorithm": "gradient2"}),
    (resilient.RetryBudget, {"ratio": 0.2, "min_per_second": 3.0, "window": 10.0}),
    (backoff.linear, {"max": 30.0}),
    (backoff.exponential, {"initial": 0.1, "factor": 2.0, "max": 30.0, "jitter": "full"}),
]


@pytest.mark.parametrize("factory, expected", DEFAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_numbers_and_words_are_as_documented(factory: Callable[..., object], expected: dict[str, object]) -> None:
    parameters = inspect.signature(factory).parameters
    found = {name: one.default for name, one in parameters.items() if isinstance(one.default, (int, float, str))}
    assert {name: value for name, value in found.items() if value is not inspect.Parameter.empty} == expected
