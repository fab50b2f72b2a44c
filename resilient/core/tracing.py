"""Where a traced call is found by the policies that have more to tell of it than their counts.

Nothing here knows of OpenTelemetry: `resilient.telemetry.spans` puts itself into `TRACING`. Policies ask where they are
out of line already, for another attempt, a wait or a fallback; a call that goes well asks nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

if TYPE_CHECKING:
    from resilient.core.meters import Histogram

# What may be written on the span of a call.
CIRCUIT_STATE: Final = "resilience.circuit_breaker.state"
RETRY_RESULT: Final = "resilience.retry.result"
FALLBACK_RESULT: Final = "resilience.fallback.result"
HEDGE_WINNER: Final = "resilience.hedge.winner"
BULKHEAD_QUEUE: Final = "resilience.bulkhead.queue.duration"
RATE_LIMITER_QUEUE: Final = "resilience.rate_limiter.queue.duration"


class Part:
    """An attempt or a fallback of a traced call, current in its block. This one is not traced.

    A retry is ended with its result, which is not known before the policy has looked at it; a fallback ends by itself.
    A hedge is settled: ended with its result, if its work has ended, and left to end by itself if not.
    """

    __slots__ = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...

    def end(self, result: str) -> None:
        """Nothing happens the second time."""

    def settle(self, result: str) -> None: ...


class CallTrace(Protocol):
    """One traced call. `attach` and `detach` bracket each stretch in which its code runs."""

    def attach(self) -> None: ...
    def detach(self) -> None: ...
    def end(self, outcome: str, error: BaseException | None, histogram: Histogram, elapsed: float) -> None: ...
    def note(self, attribute: str, value: str | float) -> None: ...
    def retry(self, number: int, backoff: float) -> Part: ...
    def hedge(self, number: int, over_as: Callable[[], str | None]) -> Part: ...
    def fallback(self) -> Part: ...


UNTRACED: Final = Part()


class NotSeen:
    """Stands for the module `opentelemetry.trace` until it has been seen."""

    _TRACER_PROVIDER: Final = object()


class _Tracing:
    """How a call is traced; by nobody, as long as nobody has put himself here."""

    __slots__ = ("api", "current", "open")

    def __init__(self) -> None:
        # The module `opentelemetry.trace`, once it has been seen: without a provider there `open` need not be asked.
        self.api: Any = NotSeen
        self.open: Callable[[object], CallTrace | None] = lambda operation: None
        self.current: Callable[[], CallTrace | None] = lambda: None


TRACING: Final = _Tracing()


def note(attribute: str, value: str | float) -> None:
    """Write something on the span of the call under way, where it has one."""
    trace = TRACING.current()
    if trace is not None:
        trace.note(attribute, value)


def trace_retry(number: int, backoff: float) -> Part:
    """For the block of an attempt that is not the first, after a wait of so many seconds."""
    trace = TRACING.current()
    return UNTRACED if trace is None else trace.retry(number, backoff)


def trace_hedge(number: int, over_as: Callable[[], str | None]) -> Part:
    """For the block of an attempt beside others; `over_as` gives the result of those that end too late, once it is."""
    trace = TRACING.current()
    return UNTRACED if trace is None else trace.hedge(number, over_as)


def trace_fallback() -> Part:
    """For the block in which something stands in for a failed call."""
    trace = TRACING.current()
    return UNTRACED if trace is None else trace.fallback()
