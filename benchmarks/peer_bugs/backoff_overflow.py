"""Backoff overflows: 2.0 to the power of 1,024 is no float, and a long outage has more attempts than that.

2,000 attempts that fail, with exponential waits of at most 30 s. All must be made, and the last error must arrive.
(Sleeping is skipped.)
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from unittest import mock

from benchmarks.peer_bugs.breakers import Seen
from benchmarks.peer_bugs.tables import OURS, Case, judge, main

ATTEMPTS = 2_000
Guard = Callable[[Callable[[], Any]], Any]


def ours() -> Guard:
    from resilient import Registry, retry
    from resilient.backoff import exponential

    return retry(attempts=ATTEMPTS, backoff=exponential(0.1, max=30), registry=Registry())


def tenacity_(wait: str) -> Guard:
    import tenacity

    stop = tenacity.stop_after_attempt(ATTEMPTS)
    return tenacity.retry(stop=stop, wait=getattr(tenacity, wait)(max=30), reraise=True)


def stamina_() -> Guard:
    import stamina

    stamina.instrumentation.set_on_retry_hooks([])
    return stamina.retry(on=ConnectionError, attempts=ATTEMPTS, timeout=None, wait_max=30)


def backoff_() -> Guard:
    import backoff

    return backoff.on_exception(backoff.expo, ConnectionError, max_tries=ATTEMPTS, max_value=30)


def hyx_(name: str) -> Guard:
    from hyx.retry import backoffs, retry

    waits = {
        "expo": lambda: backoffs.expo(min_delay_secs=0.1, max_delay_secs=30),
        "softexp": lambda: backoffs.softexp(median_delay_secs=0.1, max_delay_secs=30),
    }
    return retry(on=ConnectionError, attempts=ATTEMPTS - 1, backoff=waits[name]())


def pyfailsafe_() -> Guard:
    from failsafe import Backoff, Failsafe, RetryPolicy

    waits = Backoff(timedelta(seconds=0.1), timedelta(seconds=30))
    policy = RetryPolicy(allowed_retries=ATTEMPTS - 1, backoff=waits)
    return lambda function: lambda: Failsafe(retry_policy=policy).run(function)


def interlock_() -> Guard:
    from interlock import Pipeline

    return Pipeline.builder().retry(attempts=ATTEMPTS).build()


def pyresilience_() -> Guard:
    from pyresilience import RetryConfig, resilient

    return resilient(retry=RetryConfig(max_attempts=ATTEMPTS, delay=0.1, max_delay=30))


def scenario(make: Callable[[], Guard], kind: str) -> Seen:
    from resilient.testing import fake_clock

    made = 0

    def fail() -> None:
        nonlocal made
        made += 1
        raise ConnectionError

    async def fail_async() -> None:
        fail()

    async def no_sleep(*_: object) -> None:
        pass

    async def call() -> None:
        result = make()(fail_async if kind == "async" else fail)()
        if inspect.isawaitable(result):
            await result

    raised = ""
    with (
        fake_clock(),
        mock.patch("time.sleep", return_value=None),
        mock.patch("asyncio.sleep", no_sleep),
    ):
        try:
            asyncio.run(call()) if kind == "async" else make()(fail)()
        except Exception as error:  # noqa: BLE001 - what arrives is the question
            raised = type(error).__name__
    if made == ATTEMPTS:
        return f"all attempts, then {raised}", judge(True)
    return f"{raised} after {made} attempts", judge(False)


CASES: list[Case] = [
    (OURS, "exponential", lambda: scenario(ours, "sync")),
    ("tenacity", "wait_exponential", lambda: scenario(lambda: tenacity_("wait_exponential"), "sync")),
    ("tenacity", "wait_exponential_jitter", lambda: scenario(lambda: tenacity_("wait_exponential_jitter"), "sync")),
    ("tenacity", "wait_random_exponential", lambda: scenario(lambda: tenacity_("wait_random_exponential"), "sync")),
    ("stamina", "decorator", lambda: scenario(stamina_, "sync")),
    ("backoff", "expo", lambda: scenario(backoff_, "sync")),
    ("hyx", "expo", lambda: scenario(lambda: hyx_("expo"), "async")),
    ("hyx", "softexp", lambda: scenario(lambda: hyx_("softexp"), "async")),
    ("pyfailsafe", "Backoff", lambda: scenario(pyfailsafe_, "async")),
    ("interlock-cb", "pipeline", lambda: scenario(interlock_, "sync")),
    ("pyresilience", "decorator", lambda: scenario(pyresilience_, "sync")),
]

if __name__ == "__main__":
    main(__doc__, CASES)
