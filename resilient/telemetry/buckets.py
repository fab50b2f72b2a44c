"""The buckets of all durations."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from resilient.core.checks import refuse
from resilient.core.meters import DURATIONS

_ALLOWED = "numbers of seconds above 0, each above the one before"


def duration_buckets(bounds: Sequence[float]) -> None:
    """Count all durations in these buckets, in the place of 0.001 to 10 s; once, before the first policy is made.

    Args:
        bounds: inclusive upper bounds in seconds, above 0 and rising; a last bucket without a bound is added.

    Raises:
        ConfigurationError: they do not rise, or policies count in other buckets already.

    Example, at the beginning of a program::

        from resilient import duration_buckets

        duration_buckets([0.01, 0.1, 1.0, 10.0, 60.0])
    """
    if isinstance(bounds, str) or not isinstance(bounds, Sequence) or not bounds:
        refuse("duration_buckets", "bounds", bounds, _ALLOWED)
    before = 0.0
    for bound in bounds:
        if isinstance(bound, bool) or not isinstance(bound, (int, float)) or not before < bound or not isfinite(bound):
            refuse("duration_buckets", "bounds", bounds, _ALLOWED)
        before = float(bound)
    wanted = tuple(float(bound) for bound in bounds)
    if wanted == DURATIONS.bounds:
        return
    if DURATIONS.in_use:
        refuse("duration_buckets", "bounds", bounds, "the same as before, once there are policies: call it before them")
    DURATIONS.bounds = wanted
