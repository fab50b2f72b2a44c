"""The settings of a hedge policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from resilient.core.budget import RetryBudget
from resilient.core.checks import Checker, Matcher, Seconds

NO_BLOCK: Final = (
    "hedge can't be used as a `with` block, because a block can't be run twice at once: decorate a function, or use "
    ".call(function, ...) or .call_async(function, ...)"
)


@dataclass(frozen=True, slots=True)
class Percentile:
    """A delay that follows the latency of past successes; made by `percentile(...)`."""

    share: float
    minimum: float
    warmup: int


def percentile(share: float, *, minimum: Seconds = 0.01, warmup: int = 20) -> Percentile:
    """For `hedge(delay=...)`: hedge calls that take longer than this share of the last 500 that succeeded.

    Args:
        share: above 0 and at most 1; 0.95 hedges about one call in twenty.
        minimum: never hedge earlier than this; seconds or a timedelta, at least 0.
        warmup: no hedges before so many calls have succeeded, at least 1.

    Raises:
        ConfigurationError: a setting is not as described.

    Example:
        >>> from resilient import hedge, percentile
        >>> search = hedge(delay=percentile(0.95))
    """
    check = Checker("percentile")
    return Percentile(
        check.rate("share", share), check.seconds("minimum", minimum, zero=True), check.whole("warmup", warmup)
    )


@dataclass(frozen=True, slots=True)
class HedgeSettings:
    """What the factory was given, checked and in seconds."""

    delay: float | Percentile
    max_hedges: int
    on: Matcher
    budget: RetryBudget | None
