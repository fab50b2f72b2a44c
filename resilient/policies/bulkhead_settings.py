"""The settings of a bulkhead, checked alone and against each other."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from resilient.core.adaptive import AdaptiveLimit
from resilient.core.checks import Checker, contradiction, refuse
from resilient.core.permits import LimitChange, Permits


@dataclass(frozen=True, slots=True)
class BulkheadSettings:
    """What the factory was given, checked and in seconds."""

    max_concurrent: int | AdaptiveLimit
    max_queue: int
    queue_timeout: float | None
    key: Callable[..., Hashable] | None
    max_keys: int

    @property
    def initial(self) -> int:
        limit = self.max_concurrent
        return limit.initial if isinstance(limit, AdaptiveLimit) else limit

    def permits(self, limit: int, changes: list[LimitChange]) -> Permits:
        """Permits of their own, whose changes are told with the others'."""
        rule = self.max_concurrent.rule() if isinstance(self.max_concurrent, AdaptiveLimit) else None
        if rule is not None:
            rule.limit = limit
        return Permits(limit, self.max_queue, rule, changes)


def check_settings(
    check: Checker, *, max_concurrent: Any, max_queue: Any, queue_timeout: Any, key: Any, max_keys: Any
) -> BulkheadSettings:
    """Settings in seconds, or a ConfigurationError that says which is wrong."""
    if not isinstance(max_concurrent, AdaptiveLimit):
        if not isinstance(max_concurrent, int):
            refuse(check.policy, "max_concurrent", max_concurrent, "a whole number of at least 1, or adaptive(...)")
        check.whole("max_concurrent", max_concurrent)
    check.whole("max_queue", max_queue, minimum=0)
    if queue_timeout is not None and max_queue == 0:
        contradiction(
            check.policy,
            "queue_timeout and max_queue",
            (queue_timeout, 0),
            "queue_timeout needs max_queue of at least 1",
        )
    return BulkheadSettings(
        max_concurrent=max_concurrent,
        max_queue=max_queue,
        queue_timeout=check.optional_seconds("queue_timeout", queue_timeout),
        key=check.optional_function("key", key, "a function of the call's arguments"),
        max_keys=check.whole("max_keys", max_keys),
    )
