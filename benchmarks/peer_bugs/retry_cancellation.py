"""Cancellation retried: the task that was told to stop begins anew.

"Retry whatever is not a ValueError", as each library has it said. First an attempt is cancelled, which must end the
call. Then one ends with `KeyboardInterrupt`, which must end the program.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

from benchmarks.peer_bugs.breakers import Seen, let_others_run
from benchmarks.peer_bugs.tables import OURS, Case, judge, main

Guard = Callable[[Callable[[], Awaitable[Any]]], Callable[[], Awaitable[Any]]]


def no_value_error(error: BaseException) -> bool:
    return not isinstance(error, ValueError)


def ours() -> Guard:
    from resilient import Registry, retry

    return retry(on=no_value_error, backoff=0, registry=Registry())


def tenacity_() -> Guard:
    from tenacity import retry, retry_if_not_exception_type, stop_after_attempt

    return retry(retry=retry_if_not_exception_type(ValueError), stop=stop_after_attempt(3))


def stamina_() -> Guard:
    import stamina

    stamina.instrumentation.set_on_retry_hooks([])
    return stamina.retry(on=no_value_error, attempts=3, wait_initial=0, wait_max=0, wait_jitter=0)


def backoff_() -> Guard:
    import backoff

    return backoff.on_exception(
        backoff.constant,
        Exception,
        interval=0,
        max_tries=3,
        jitter=None,
        giveup=lambda error: not no_value_error(error),
    )


def hyx_() -> Guard:
    from hyx.retry import retry

    return retry(on=Exception, attempts=3, backoff=0.0)


def pyfailsafe_() -> Guard:
    from failsafe import Failsafe, RetryPolicy

    failsafe = Failsafe(retry_policy=RetryPolicy(allowed_retries=2, abortable_exceptions=[ValueError]))
    return lambda function: lambda: failsafe.run(function)


def interlock_() -> Guard:
    from interlock import Pipeline
    from tenacity import retry_if_not_exception_type, wait_none

    retries = retry_if_not_exception_type(ValueError)
    return Pipeline.builder().retry(attempts=3, retry=retries, wait=wait_none()).build()


def pyresilience_() -> Guard:
    from pyresilience import RetryConfig, resilient

    return resilient(retry=RetryConfig(max_attempts=3, delay=0, ignore_on=(ValueError,)))


def cancelled(make: Callable[[], Guard]) -> Seen:
    attempts = 0

    async def body() -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            await asyncio.Event().wait()

    async def cancel() -> bool:
        call = asyncio.ensure_future(make()(body)())
        await let_others_run()
        call.cancel()
        await asyncio.wait([call])
        return call.cancelled()

    if asyncio.run(cancel()):
        return "cancellation ends the call", judge(True)
    return f"cancellation: {attempts} attempts, and the task is not cancelled", judge(False)


def interrupted(make: Callable[[], Any]) -> Seen:
    attempts = 0

    def body() -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        make()(body)()
    if attempts == 1:
        return "KeyboardInterrupt ends the call", judge(True)
    return f"KeyboardInterrupt: {attempts} attempts, and the program goes on", judge(False)


MAKERS = {
    OURS: ours,
    "tenacity": tenacity_,
    "stamina": stamina_,
    "backoff": backoff_,
    "hyx": hyx_,
    "pyfailsafe": pyfailsafe_,
    "interlock-cb": interlock_,
    "pyresilience": pyresilience_,
}
ASYNC_ONLY = ("hyx", "pyfailsafe")
CASES: list[Case] = [
    *((name, "async", partial(cancelled, make)) for name, make in MAKERS.items()),
    *((name, "sync", partial(interrupted, make)) for name, make in MAKERS.items() if name not in ASYNC_ONLY),
]

if __name__ == "__main__":
    main(__doc__, CASES)
