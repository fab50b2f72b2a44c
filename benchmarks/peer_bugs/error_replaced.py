"""Error replaced: the caller asks what went wrong, and learns what the library made of it.

The last call before the circuit opens, and the last attempt of three, fail with a `ConnectionError`. That very
exception should reach the caller: `except ConnectionError` around the call must go on to work once a policy is put on
it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from benchmarks.peer_bugs.breakers import ASYNC, LONG, SYNC, Maker, Seen
from benchmarks.peer_bugs.shared_retry import (
    backoff_decorator,
    hyx_decorator,
    interlock_pipeline,
    ours_decorator,
    pyfailsafe_run,
    pyresilience_decorator,
    stamina_decorator,
)
from benchmarks.peer_bugs.tables import OURS, Case, documented, judge, main, on_a_loop


def told(raised: Exception | None, own: Exception) -> Seen:
    if raised is own:
        return "as it is", judge(True)
    kept = "as cause" if raised is not None and raised.__cause__ is own else "in the context only"
    return f"as {type(raised).__name__}, the error {kept}", judge(False)


async def raised_by(call: Callable[[], Awaitable[Any]]) -> Exception | None:
    try:
        await call()
    except Exception as error:  # noqa: BLE001 - what arrives is the question
        return error
    return None


async def of_breaker(make: Maker) -> Seen:
    own = ConnectionError()

    async def fail() -> None:
        raise own

    breaker = make(1, LONG)
    return told(await raised_by(lambda: breaker.call(fail)), own)


def of_sync_breaker(make: Maker) -> Seen:
    own = ConnectionError()

    def fail() -> None:
        raise own

    try:
        make(1, LONG).call(fail)
    except Exception as error:  # noqa: BLE001 - what arrives is the question
        return told(error, own)
    raise AssertionError("no error")


async def of_retry(make: Callable[[], Callable[..., Any]]) -> Seen:
    own = ConnectionError()

    async def fail() -> None:
        raise own

    run = make()
    return told(await raised_by(lambda: run(fail)), own)


def tenacity_() -> Callable[..., Any]:
    from tenacity import retry, stop_after_attempt

    @retry(stop=stop_after_attempt(3))
    async def run(body: Callable[[], Awaitable[None]]) -> None:
        await body()

    return run


RETRIES: dict[str, Callable[[], Callable[..., Any]]] = {
    OURS: ours_decorator,
    "tenacity": tenacity_,
    "stamina": stamina_decorator,
    "backoff": backoff_decorator,
    "hyx": hyx_decorator,
    "pyfailsafe": pyfailsafe_run,
    "interlock-cb": interlock_pipeline,
    "pyresilience": pyresilience_decorator,
}
CASES: list[Case] = [
    *(
        (library, "breaker", partial(on_a_loop, of_breaker, make))
        for (library, form), make in ASYNC.items()
        if form != "async with"
    ),
    ("pybreaker", "breaker", lambda: of_sync_breaker(SYNC["pybreaker"])),
    *((library, "retry", partial(on_a_loop, of_retry, make)) for library, make in RETRIES.items()),
]

if __name__ == "__main__":
    # Of pybreaker and tenacity it is the default, and can be turned off; the others name the error they raise.
    main(__doc__, documented(CASES, "pybreaker", "tenacity", "pyfailsafe", "hyx"))
