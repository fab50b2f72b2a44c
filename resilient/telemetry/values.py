"""Which values the attributes of the catalogue take: as the meters have them, so that no list is kept twice."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, cast

from resilient.core.circuit_plan import CircuitState
from resilient.core.meters import BulkheadMeter, CallMeter, CircuitBreakerMeter, RetryMeter, TimeoutMeter
from resilient.core.meters_fallback import FallbackMeter
from resilient.core.meters_hedge import HedgeMeter
from resilient.core.meters_load import RateLimiterMeter, ThrottleMeter
from resilient.telemetry import catalogue as m

_STATES: Final = tuple(state.value for state in CircuitState)
_OUTCOMES: Final = tuple(cast("dict[str, int]", CallMeter().snapshot()["calls"]))

# Of each metric, the values of what it has beside the name of its pipeline or policy; None where users make them.
_OWN: Final[dict[str, tuple[Iterable[str] | None, ...]]] = {
    m.CALL_DURATION.name: (_OUTCOMES, None),
    m.RETRY_ATTEMPTS.name: (RetryMeter().attempts(),),
    m.RETRY_CALLS.name: (RetryMeter().calls(),),
    m.CIRCUIT_STATE.name: (_STATES,),
    m.CIRCUIT_CALLS.name: (CircuitBreakerMeter().calls(),),
    m.CIRCUIT_TRANSITIONS.name: (_STATES, _STATES),
    m.CIRCUIT_TIME.name: (_STATES,),
    m.TIMEOUT_CALLS.name: (TimeoutMeter().calls(),),
    m.BULKHEAD_CALLS.name: (BulkheadMeter().calls(),),
    m.RATE_LIMITER_CALLS.name: (RateLimiterMeter().calls(),),
    m.FALLBACK_CALLS.name: (FallbackMeter().calls(),),
    m.HEDGE_CALLS.name: (HedgeMeter().calls(),),
    m.HEDGE_ATTEMPTS.name: (HedgeMeter().attempts(),),
    m.THROTTLE_CALLS.name: (ThrottleMeter().calls(),),
}


def own_attributes(metric: m.Metric) -> tuple[str, ...]:
    """The attributes of a metric without the one that says whose it is."""
    return tuple(attribute for attribute in metric.attributes if attribute not in {m.PIPELINE, m.POLICY})


def values_of(metric: m.Metric, attribute: str) -> tuple[str, ...] | None:
    """All values that the attribute can have on this metric; None where they are not known beforehand."""
    values = dict(zip(own_attributes(metric), _OWN.get(metric.name, ()), strict=False)).get(attribute)
    return None if values is None else tuple(values)
