"""The garbage collector may run anywhere, and with it the finalizers of users, who call through policies.

So whoever holds a lock of a policy may find himself in a call through the same policy: it must not wait for itself.
"""

from __future__ import annotations

from typing import Any

import pytest

from resilient import Registry, RetryBudget
from resilient.core import events
from resilient.core.cache import Cache
from resilient.core.circuit import Circuit
from resilient.core.gcra import Gcra
from resilient.core.keyed import Keyed
from resilient.core.meters import CallMeter
from resilient.core.permits import Permits
from resilient.core.quantile import RecentQuantile
from resilient.core.throttle import Throttle
from tests.core.circuit_kit import plan


@pytest.mark.parametrize(
    "lock",
    [
        Cache(ttl=1.0, max_stale=1.0, max_size=1)._lock,
        CallMeter()._lock,
        Circuit(plan(), 0.0).lock,
        Gcra(limit=1, period=1.0, burst=1)._lock,
        Keyed(object, 1)._lock,
        Permits(1, 0)._lock,
        RecentQuantile(0.5, warmup=10)._lock,
        Registry()._lock,
        RetryBudget()._lock,
        Throttle(k=2.0, window=60.0, max_rejection=0.9)._lock,
        events._CHANGING,
    ],
)
def test_its_thread_may_take_it_again(lock: Any) -> None:
    with lock:
        assert lock.acquire(blocking=False)
        lock.release()
