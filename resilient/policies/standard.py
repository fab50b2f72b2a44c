"""The recommended pipeline, its parts checked against each other."""

from __future__ import annotations

from resilient.core.checks import Checker, Seconds, contradiction, refuse
from resilient.pipeline import Pipeline, pipeline
from resilient.policies.circuit_breaker import CircuitBreaker, circuit_breaker
from resilient.policies.retry import Retry, retry
from resilient.policies.timeout import timeout
from resilient.registry import Registry
from resilient.registry import registry as default_registry


def standard_pipeline(
    name: str,
    *,
    total_timeout: Seconds = 30.0,
    retry: Retry | None = None,
    circuit_breaker: CircuitBreaker | None = None,
    attempt_timeout: Seconds | None = None,
    registry: Registry = default_registry,
) -> Pipeline:
    """Total timeout, retry, circuit breaker and attempt timeout, in the order that works for most remote calls.

    Args:
        name: the pipeline's, and that of the policies in it; the attempt timeout is called `<name>.attempt`.
        total_timeout: seconds for the call with all its attempts and waits.
        retry: default: three attempts, exponential backoff with full jitter.
        circuit_breaker: default: opens when half of at least 10 calls in 30 s failed (or twice the attempt timeout,
            where that is longer), for 30 s.
        attempt_timeout: seconds for one attempt, at most `total_timeout`. Default: 10, or `total_timeout` if shorter.
        registry: where the names are registered.

    Raises:
        ConfigurationError: a setting is wrong; an attempt may take longer than the whole; the breaker's window is
            shorter than twice the attempt timeout, so that it would forget slow failures before they add up.

    Example:
        >>> from resilient import standard_pipeline
        >>> inventory = standard_pipeline("inventory", total_timeout=5.0, attempt_timeout=1.0)
        >>> inventory.call(len, "four")
        4
    """
    if name is None:
        refuse("standard_pipeline", "name", name, "a string that is not empty")
    check = Checker("standard_pipeline", name)
    check.instance("registry", registry, Registry)
    total = check.seconds("total_timeout", total_timeout)
    attempt = min(10.0, total) if attempt_timeout is None else check.seconds("attempt_timeout", attempt_timeout)
    if attempt > total:
        refuse(check.policy, "attempt_timeout", attempt_timeout, f"at most total_timeout, {total:g} s")
    if retry is not None and not isinstance(retry, Retry):
        refuse(check.policy, "retry", retry, "what retry(...) makes, or None")
    if circuit_breaker is not None and not isinstance(circuit_breaker, CircuitBreaker):
        refuse(check.policy, "circuit_breaker", circuit_breaker, "what circuit_breaker(...) makes, or None")
    breaker = _breaker(max(30.0, 2 * attempt), registry) if circuit_breaker is None else circuit_breaker
    window = breaker.settings["window_duration"]
    if isinstance(window, float) and window < 2 * attempt:
        contradiction(
            check.policy,
            "circuit_breaker's window_duration and attempt_timeout",
            (window, attempt),
            "the window must be at least twice the attempt timeout",
        )
    return pipeline(
        name,
        timeout(total, registry=registry),
        _retry(registry) if retry is None else retry,
        breaker,
        timeout(attempt, name=f"{name}.attempt", registry=registry),
        registry=registry,
    )


def _breaker(window: float, registry: Registry) -> CircuitBreaker:
    return circuit_breaker(failure_rate=0.5, window_duration=window, minimum_calls=10, registry=registry)


def _retry(registry: Registry) -> Retry:
    return retry(registry=registry)
