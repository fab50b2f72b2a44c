"""The settings of a retry policy, checked alone and against each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, cast

from resilient.core.backoff import as_backoff, exponential
from resilient.core.budget import RetryBudget
from resilient.core.checks import Checker, contradiction, refuse
from resilient.core.retry_plan import RetryPlan

DEFAULT_BACKOFF: Final = exponential()

NO_BLOCK: Final = (
    "retry can't be used as `with retry(...):`, because a block can't be run again. Write\n"
    "    for attempt in retry(...):\n"
    "        with attempt:\n"
    "            ...\n"
    "(`async for` in async code), or decorate a function with it"
)


@dataclass(frozen=True, slots=True)
class RetrySettings(RetryPlan):
    """What the factory was given, in seconds."""

    attempt_timeout: float | None


def check_function(function: object) -> None:
    """Is what stands where the function belongs one? Errors and settings are written there by mistake."""
    if isinstance(function, type) and issubclass(function, BaseException):
        hint = f"a function. To choose exceptions write retry(on={function.__name__})"
        refuse("retry", "first argument", function, hint)
    if isinstance(function, str) or not (callable(function) or isinstance(function, (staticmethod, classmethod))):
        refuse("retry", "first argument", function, "a function; settings have names, as in retry(attempts=5)")


def check_settings(
    check: Checker,
    *,
    on: Any,
    on_result: Any,
    attempts: Any,
    backoff: Any,
    max_duration: Any,
    attempt_timeout: Any,
    retry_after: Any,
    retry_after_max: Any,
    budget: Any,
    on_exhausted: Any,
) -> RetrySettings:
    """Settings in seconds, or a ConfigurationError that says which is wrong."""
    check.optional_whole("attempts", attempts)
    if attempts is None and max_duration is None:
        contradiction(check.policy, "attempts and max_duration", (None, None), "unlimited attempts need max_duration")
    if budget is not None and not isinstance(budget, RetryBudget):
        refuse(check.policy, "budget", budget, "a RetryBudget, or None")
    return RetrySettings(
        on=check.matcher("on", on),
        on_result=check.optional_function("on_result", on_result, "a function (result) -> bool"),
        attempts=attempts,
        backoff=as_backoff(backoff, policy=check.policy),
        max_duration=check.optional_seconds("max_duration", max_duration),
        attempt_timeout=check.optional_seconds("attempt_timeout", attempt_timeout),
        retry_after=check.optional_function("retry_after", retry_after, "a function (outcome) -> seconds or None"),
        retry_after_max=check.seconds("retry_after_max", retry_after_max, zero=True),
        budget=budget,
        on_exhausted=cast(
            'Literal["return", "raise"]', check.choice("on_exhausted", on_exhausted, ("return", "raise"))
        ),
    )
