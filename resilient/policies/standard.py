"""The recommended pipeline, its parts checked against each other."""

from __future__ import annotations

from resilient.core.checks import Checker, Seconds, contradiction, refuse
from resilient.pipeline import Pipeline, pipeline
from resilient.policies.base import Policy
from resilient.policies.circuit_breaker import CircuitBreaker, circuit_breaker
from resilient.policies.rate_limiter import RateLimiter
from resilient.policies.retry import Retry, retry
from resilient.policies.timeout import timeout
from resilient.registry import Registry
from resilient.registry import registry as default_registry


def standard_pipeline(
    name: str,
    *,
    rate_limiter: RateLimiter | None = None,
    total_timeout: Seconds = 30.0,
    retry: Retry | None = None,
    circuit_breaker: CircuitBreaker | None = None,
    attempt_timeout: Seconds | None = None,
    registry: Registry = default_registry,
) -> Pipeline:
    """Rate limiter, total timeout, retry, circuit breaker, attempt timeout, in the order that works for most calls.

    Args:
        name: the pipeline's, and that of the policies in it; the attempt timeout is called `<name>.attempt`.
        rate_limiter: counts calls, not attempts. Its `max_wait` is spent before the total timeout begins, so that a
            call may take both. Default: none.
        total_timeout: seconds for the call with all its attempts and waits.
        retry: its `max_duration` is at most `total_timeout`, and it has no `attempt_timeout` of its own. Default: three
            attempts, exponential backoff with full jitter.
        circuit_breaker: default: opens when half of at least 10 calls in 30 s failed (or twice the attempt timeout,
            where that is longer), for 30 s.
        attempt_timeout: seconds for one attempt, at most `total_timeout`. Default: 10, or `total_timeout` if shorter.
        registry: where the names are registered.

    Raises:
        ConfigurationError: a setting is wrong; an attempt, or the retry's `max_duration`, is longer than the whole; the
            retry has an `attempt_timeout`, which would end attempts without the breaker's counting them; the breaker's
            window is shorter than twice the attempt timeout, so that it would forget slow failures before they add up.

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
    _check_kind(check, "rate_limiter", rate_limiter, RateLimiter)
    _check_kind(check, "retry", retry, Retry)
    _check_kind(check, "circuit_breaker", circuit_breaker, CircuitBreaker)
    if retry is not None:
        _check_retry(check, retry, total, attempt)
    breaker = _breaker(max(30.0, 2 * attempt), registry) if circuit_breaker is None else circuit_breaker
    window = breaker.settings["window_duration"]
    if isinstance(window, float) and window < 2 * attempt:
        contradiction(
            check.policy,
            "circuit_breaker's window_duration and attempt_timeout",
            (window, attempt),
            "the window must be at least twice the attempt timeout",
        )
    limiter = () if rate_limiter is None else (rate_limiter,)
    return pipeline(
        name,
        *limiter,
        timeout(total, registry=registry),
        _retry(registry) if retry is None else retry,
        breaker,
        timeout(attempt, name=f"{name}.attempt", registry=registry),
        registry=registry,
    )


def _check_kind(check: Checker, setting: str, policy: object, kind: type[Policy]) -> None:
    if policy is not None and not isinstance(policy, kind):
        refuse(check.policy, setting, policy, f"what {setting}(...) makes, or None")


def _check_retry(check: Checker, retry: Retry, total: float, attempt: float) -> None:
    """Neither a limit that is never reached, nor one that hides failures from the circuit breaker."""
    own = retry.settings["attempt_timeout"]
    if own is not None:
        # It stands outside the breaker, to which its end is a cancellation; where it is longer it never comes to it.
        contradiction(
            check.policy,
            "retry's attempt_timeout and attempt_timeout",
            (own, attempt),
            "give the time of an attempt to standard_pipeline alone",
        )
    longest = retry.settings["max_duration"]
    if isinstance(longest, float) and longest > total:
        contradiction(
            check.policy,
            "retry's max_duration and total_timeout",
            (longest, total),
            "max_duration must be at most the total timeout, which ends the call before",
        )


def _breaker(window: float, registry: Registry) -> CircuitBreaker:
    return circuit_breaker(failure_rate=0.5, window_duration=window, minimum_calls=10, registry=registry)


def _retry(registry: Registry) -> Retry:
    return retry(registry=registry)
