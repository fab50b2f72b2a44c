"""What policies do around a first attempt that succeeds, as source: see `resilient.fused`.

Each text does what the shells of its policy do, in the same order, up to where something is out of the ordinary: there
it calls them.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from resilient.blocks import current_owner
from resilient.core.deadline import DEADLINE
from resilient.core.gil import GIL
from resilient.drivers.helper_threads import ORPHANS
from resilient.drivers.interrupts import open_block
from resilient.fused import Fragment
from resilient.policies.bulkhead_use import release_after

if TYPE_CHECKING:
    from resilient.operation import Call, Operation
    from resilient.policies.bulkhead import Bulkhead
    from resilient.policies.circuit_breaker import CircuitBreaker
    from resilient.policies.fallback import Fallback
    from resilient.policies.rate_limiter import RateLimiter
    from resilient.policies.retry import Retry
    from resilient.policies.timeout import Timeout

_RETRY: Final = """
$failure = None
try:
    $call
except Exception as error:
    $failure = error
if $failure is None:
    $meter.first_try += 1
else:
    try:
        result = $await $again($inner, $args, $kwargs, operation, $new_run($started), $failure, None)
    finally:
        $failure = None
"""
_RETRY_RESULTS: Final = _RETRY.replace(
    "if $failure is None:", "if $failure is None and not $unwanted(result):"
).replace("$failure, None)", "$failure, result if $failure is None else None)")

_BREAKER: Final = """
$period = $circuit.period
if $period.open_to_all is False:
    if $period.until > $started:
        raise $rejection($circuit, operation, $started)
    result = $await $own($args, $kwargs)
else:
    try:
        $call
    except BaseException as error:
        $failed($period, error, None)
        raise
    $period.success(0.0)
    $meter.success += 1
"""

_BREAKER_DOOR: Final = """
$period = $circuit.period
if $period.open_to_all is False and $period.until > $started and not bypassed:
    raise $refusal($circuit, operation, $started)
"""

# The permit is taken and given back as `Permits.try_acquire` and `release` do it.
_BULKHEAD: Final = """
if not $permits.contended and $permits.free > 0:
    $permits.free -= 1
    $meter.accepted += 1
    $begun = $started
elif $permits.try_acquire():
    $meter.accepted += 1
    $begun = $started
else:
    $await $wait($permits, operation)
    $begun = CLOCK.now()
$left = ORPHANS.left
try:
    $call
finally:
    if ORPHANS.left != $left:
        release_after($permits, ORPHANS.since($left, current_owner()))
    else:
        $permits.free += 1
        if $permits.contended:
            $permits.settle(0)
"""

_RATE_LIMITER: Final = """
if $gcra.take($started):
    $meter.allowed += 1
    $begun = $started
else:
    $slot = $reserve($gcra, operation)
    if $slot is not None:
        $await $wait($gcra, $slot)
    $begun = CLOCK.now()
$call
"""

_FALLBACK: Final = """
try:
    $call
except Exception as error:
    if not $selects(error):
        raise
    result = $await $serve(error, $args, $kwargs, operation)
else:
    $meter.not_needed += 1
"""

_TIMEOUT: Final = """
$at = $started + $seconds
$token = DEADLINE.set($at) if DEADLINE.get() > $at else None
try:
    $block = open_block($at_edge, $always, $at, own_frame())
    try:
        $call
    except BaseException as error:
        if $block is not None and $is_over($block, error):
            raise $expired(operation) from error
        $meter.completed += 1
        raise
    if $block is None:
        $late = CLOCK.now() >= $at
    else:
        $late = $is_over($block, None)
    if $late:
        raise $expired(operation)
    $meter.completed += 1
finally:
    if $token is not None:
        DEADLINE.reset($token)
"""
# What `_is_over` does with a body that has returned on the main thread, where nothing has to be asked of the clock.
_TIMEOUT_BY_SIGNAL: Final = _TIMEOUT.replace(
    """
        $late = $is_over($block, None)
""",
    """
        try:
            $late = $block.exit(None)
        except BaseException:
            $meter.completed += 1
            raise
""",
)

_TASK_TIMEOUT: Final = """
$block = $timeouts.open()
$at = $started + $seconds
$token = DEADLINE.set($at) if DEADLINE.get() > $at else None
try:
    $call
except BaseException as error:
    if $block.exit(error):
        raise $expired(operation) from error
    $meter.completed += 1
    raise
else:
    $block.exit(None)
    $meter.completed += 1
finally:
    if $token is not None:
        DEADLINE.reset($token)
"""


def of_retry(policy: Retry, inner: Call, asynchronous: bool) -> Fragment | None:
    plan = policy._plan
    if policy.attempt_timeout is not None:
        return None
    names: dict[str, object] = {
        "meter": policy._meter,
        "inner": inner,
        "again": policy._again_async if asynchronous else policy._again,
        "new_run": policy.new_run,
    }
    source = _RETRY
    if plan.on_result is not None:
        source = _RETRY_RESULTS
        names["unwanted"] = policy._unwanted
    if plan.budget is not None:
        source = f"$deposit($started){source}"
        names["deposit"] = plan.budget.deposit
    return Fragment(source, names)


def of_circuit_breaker(policy: CircuitBreaker, own: Call) -> Fragment | None:
    if policy._keys is not None or policy._settings.examines_success:
        return None
    names = {"circuit": policy._circuit, "meter": policy._meter, "failed": policy._failed}
    names |= {"own": own, "rejection": policy.rejection, "refusal": policy.refusal_counted}
    return Fragment(_BREAKER, names, door=_BREAKER_DOOR)


def of_bulkhead(policy: Bulkhead, asynchronous: bool) -> Fragment | None:
    if policy._keyed is not None or policy._adaptive is not None or not GIL:
        return None
    names = {
        "permits": policy._permits,
        "meter": policy._meter,
        "wait": policy._wait_async if asynchronous else policy._wait,
    }
    constants = {"ORPHANS": ORPHANS, "release_after": release_after, "current_owner": current_owner}
    return Fragment(_BULKHEAD, names, constants, waits=True)


def of_rate_limiter(policy: RateLimiter, asynchronous: bool) -> Fragment | None:
    if policy._keyed is not None:
        return None
    names = {
        "gcra": policy._gcra,
        "meter": policy._meter,
        "reserve": policy._reserve,
        "wait": policy._wait_async if asynchronous else policy._wait,
    }
    return Fragment(_RATE_LIMITER, names, waits=True)


def of_fallback(policy: Fallback[Any], asynchronous: bool) -> Fragment | None:
    if policy._settings.on_result is not None:
        return None
    names = {
        "meter": policy._meter,
        "selects": policy._selects,
        "serve": policy._serve_async if asynchronous else policy._serve,
    }
    return Fragment(_FALLBACK, names, shows_arguments=policy._settings.handler is not None)


def of_timeout(policy: Timeout, operation: Operation, asynchronous: bool) -> Fragment | None:
    if not policy._arms or policy._settings.interrupt == "thread":
        return None
    names: dict[str, object] = {
        "seconds": policy._seconds,
        "meter": policy._meter,
        "expired": policy._expired,
    }
    constants: dict[str, object] = {"DEADLINE": DEADLINE}
    if asynchronous:
        return Fragment(_TASK_TIMEOUT, names | {"timeouts": policy._task_timeouts()}, constants)
    names |= {
        "at_edge": partial(policy._expired, operation),
        "always": policy._always,
        "is_over": policy._is_over,
    }
    constants |= {"open_block": open_block, "own_frame": sys._getframe}
    return Fragment(_TIMEOUT if policy._always else _TIMEOUT_BY_SIGNAL, names, constants)
