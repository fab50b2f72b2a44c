"""Sleep past the deadline: a wait that can't end in time is begun all the same.

One second is allowed in all, the first attempt fails at once, and the next wait would be 10 s. It must give up at
once, with the error that there was. (Sleeping is recorded, not done.)
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import datetime, timedelta, tzinfo
from types import SimpleNamespace
from typing import Any
from unittest import mock

from benchmarks.peer_bugs.breakers import Seen
from benchmarks.peer_bugs.tables import OURS, Case, documented, judge, main

Guard = Callable[[Callable[[], None]], Any]


def ours() -> Guard:
    from resilient import Registry, retry

    return retry(attempts=5, backoff=10, max_duration=1, registry=Registry())


def tenacity_(stop: str) -> Guard:
    import tenacity

    return tenacity.retry(stop=getattr(tenacity, stop)(1), wait=tenacity.wait_fixed(10), reraise=True)


def stamina_() -> Guard:
    import stamina

    stamina.instrumentation.set_on_retry_hooks([])
    return stamina.retry(on=ConnectionError, timeout=1, attempts=5, wait_initial=10, wait_max=10, wait_jitter=0)


def backoff_() -> Guard:
    import backoff

    return backoff.on_exception(backoff.constant, ConnectionError, interval=10, max_time=1, max_tries=5, jitter=None)


def pyresilience_() -> Guard:
    from pyresilience import RetryConfig, TimeoutConfig, resilient

    return resilient(
        timeout=TimeoutConfig(seconds=1, per_attempt=False), retry=RetryConfig(max_attempts=5, delay=10, jitter=False)
    )


def scenario(make: Callable[[], Guard]) -> Seen:
    from resilient.testing import fake_clock

    slept: list[float] = []
    late = 0.0
    # Whoever looks at the time after a sleep must see that it has passed.
    monotonic = time.monotonic

    def sleep(seconds: float) -> None:
        nonlocal late
        slept.append(seconds)
        late += seconds

    def later() -> float:
        return monotonic() + late

    def broken() -> None:
        raise ConnectionError

    class Later(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(seconds=late)

    guarded = make()(broken)
    raised = ""
    with (
        fake_clock() as clock,
        mock.patch.dict(vars(sys.modules["backoff._sync"]), datetime=SimpleNamespace(datetime=Later))
        if "backoff._sync" in sys.modules
        else nullcontext(),
        mock.patch("time.sleep", sleep),
        mock.patch("time.monotonic", later),
    ):
        try:
            guarded()
        except Exception as error:  # noqa: BLE001 - what arrives is part of the answer
            raised = type(error).__name__
    slept += clock.sleeps
    happened = f"sleeps {sum(slept):.0f} s, then {raised}" if slept else f"gives up at once with {raised}"
    return happened, judge(not slept or max(slept) <= 1)


CASES: list[Case] = [
    (OURS, "max_duration", lambda: scenario(ours)),
    ("tenacity", "stop_after_delay", lambda: scenario(lambda: tenacity_("stop_after_delay"))),
    ("tenacity", "stop_before_delay", lambda: scenario(lambda: tenacity_("stop_before_delay"))),
    ("stamina", "timeout", lambda: scenario(stamina_)),
    ("backoff", "max_time", lambda: scenario(backoff_)),
    ("pyresilience", "timeout of all attempts", lambda: scenario(pyresilience_)),
]

if __name__ == "__main__":
    # "max_delay will be exceeded ... use stop_before_delay instead".
    main(__doc__, documented(CASES, "tenacity"))
