"""The circuit breakers of all libraries behind one face, each set to open after so many failures and to try again after
a pause.

Each lets one probe through, where that can be set; pyfailsafe has a share of the calls instead, and keeps its default
of a tenth.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

from benchmarks.peer_bugs.tables import OURS, Case, Verdict, on_a_loop

PAUSE = 0.05
"""How long a circuit stays open, where the scenario waits for its end."""
LONG = 600.0
"""How long it stays open where nothing may end it."""


@dataclass(frozen=True, slots=True)
class Breaker:
    call: Callable[[Callable[[], Any]], Any]
    """Calls a function without arguments; one for asyncio calls a coroutine function, and hands back an awaitable."""
    state: Callable[[], str]


Maker = Callable[[int, float], Breaker]


def run_it(body: Callable[[], Any]) -> Any:
    return body()


async def await_it(body: Callable[[], Awaitable[Any]]) -> Any:
    return await body()


def circuitbreaker_(threshold: int, pause: float, through: Callable[..., Any]) -> Breaker:
    from circuitbreaker import CircuitBreaker

    breaker = CircuitBreaker(failure_threshold=threshold, recovery_timeout=pause, name="peer")
    return Breaker(breaker(through), lambda: breaker.state)


def pybreaker_(threshold: int, pause: float) -> Breaker:
    from pybreaker import CircuitBreaker

    breaker = CircuitBreaker(fail_max=threshold, reset_timeout=pause)
    return Breaker(breaker(run_it), lambda: breaker.current_state.replace("-", "_"))


def aiobreaker_(threshold: int, pause: float, through: Callable[..., Any]) -> Breaker:
    from aiobreaker import CircuitBreaker

    breaker = CircuitBreaker(fail_max=threshold, timeout_duration=timedelta(seconds=pause))
    return Breaker(breaker(through), lambda: str.lower(breaker.current_state.name))


def purgatory_sync(threshold: int, pause: float) -> Breaker:
    from purgatory import SyncCircuitBreakerFactory

    factory = SyncCircuitBreakerFactory(default_threshold=threshold, default_ttl=pause)
    return Breaker(factory("peer")(run_it), lambda: one_name(factory.get_breaker("peer").context.state))


def purgatory_async(threshold: int, pause: float) -> Breaker:
    from purgatory import AsyncCircuitBreakerFactory

    factory = AsyncCircuitBreakerFactory(default_threshold=threshold, default_ttl=pause)

    def state() -> str:
        # In memory it never really waits.
        try:
            factory.get_breaker("peer").send(None)
        except StopIteration as found:
            return one_name(found.value.context.state)
        raise AssertionError("it did wait")

    return Breaker(factory("peer")(await_it), state)


def one_name(state: str) -> str:
    return {"opened": "open", "half-opened": "half_open", "working": "closed", "failing": "open"}.get(
        state, {"recovering": "half_open"}.get(state, state.replace("-", "_"))
    )


def hyx_(threshold: int, pause: float, block: bool = False) -> Breaker:
    from hyx.circuitbreaker import consecutive_breaker

    breaker = consecutive_breaker(failure_threshold=threshold, recovery_time_secs=pause, recovery_threshold=1)

    async def in_block(body: Callable[[], Awaitable[Any]]) -> Any:
        async with breaker:
            return await body()

    return Breaker(in_block if block else breaker(await_it), lambda: one_name(breaker.state.name))


def pyfailsafe_(threshold: int, pause: float) -> Breaker:
    from failsafe import CircuitBreaker, Failsafe

    breaker = CircuitBreaker(maximum_failures=threshold, reset_timeout_seconds=pause)
    return Breaker(Failsafe(circuit_breaker=breaker).run, lambda: one_name(breaker.current_state))


def interlock_(threshold: int, pause: float, through: Callable[..., Any]) -> Breaker:
    from interlock import CircuitBreaker, Config

    config = Config(
        failure_rate_threshold=1.0,
        minimum_number_of_calls=threshold,
        window_size=threshold,
        permitted_calls_in_half_open=1,
        wait_duration_in_open=pause,
    )
    breaker = CircuitBreaker(name="peer", config=config)
    return Breaker(breaker(through), lambda: str.lower(breaker.state.value))


def pyresilience_(threshold: int, pause: float, through: Callable[..., Any]) -> Breaker:
    from pyresilience import CircuitBreakerConfig, resilient

    config = CircuitBreakerConfig(failure_threshold=threshold, recovery_timeout=pause, success_threshold=1)
    call: Any = resilient(circuit_breaker=config)(through)
    return Breaker(call, lambda: call._executor._circuit_breaker.state.value)


def ours(threshold: int, pause: float, through: Callable[..., Any]) -> Breaker:
    from resilient import Registry, circuit_breaker

    breaker = circuit_breaker(consecutive_failures=threshold, open_duration=pause, registry=Registry())
    return Breaker(breaker(through), lambda: breaker.state.value)


def ours_in_block(threshold: int, pause: float) -> Breaker:
    from resilient import Registry, circuit_breaker

    breaker = circuit_breaker(consecutive_failures=threshold, open_duration=pause, registry=Registry())

    async def in_block(body: Callable[[], Awaitable[Any]]) -> Any:
        async with breaker:
            return await body()

    return Breaker(in_block, lambda: breaker.state.value)


def over(through: Callable[..., Any], make: Callable[..., Breaker]) -> Maker:
    return lambda threshold, pause: make(threshold, pause, through)


SYNC: dict[str, Maker] = {
    OURS: over(run_it, ours),
    "pybreaker": pybreaker_,
    "circuitbreaker": over(run_it, circuitbreaker_),
    "aiobreaker": over(run_it, aiobreaker_),
    "purgatory": purgatory_sync,
    "interlock-cb": over(run_it, interlock_),
    "pyresilience": over(run_it, pyresilience_),
}
ASYNC: dict[tuple[str, str], Maker] = {
    (OURS, "decorator"): over(await_it, ours),
    (OURS, "async with"): ours_in_block,
    ("circuitbreaker", "decorator"): over(await_it, circuitbreaker_),
    ("aiobreaker", "decorator"): over(await_it, aiobreaker_),
    ("purgatory", "decorator"): purgatory_async,
    ("hyx", "decorator"): hyx_,
    ("hyx", "async with"): lambda threshold, pause: hyx_(threshold, pause, block=True),
    ("pyfailsafe", "run"): pyfailsafe_,
    ("interlock-cb", "decorator"): over(await_it, interlock_),
    ("pyresilience", "decorator"): over(await_it, pyresilience_),
}

Seen = tuple[str, Verdict]


def sync_cases(scenario: Callable[[Maker], Seen], form: str = "threads") -> list[Case]:
    return [(library, form, partial(scenario, make)) for library, make in SYNC.items()]


def async_cases(scenario: Callable[[Maker], Awaitable[Seen]]) -> list[Case]:
    async def run(make: Maker) -> Seen:
        return await scenario(make)

    return [(library, form, partial(on_a_loop, run, make)) for (library, form), make in ASYNC.items()]


async def broken() -> None:
    raise ConnectionError


async def fine() -> str:
    return "fine"


async def let_others_run() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def trip(breaker: Breaker, failures: int = 1) -> None:
    for _ in range(failures):
        # What is raised is for another scenario.
        with suppress(Exception):
            await breaker.call(broken)


def trip_sync(breaker: Breaker, failures: int = 1) -> None:
    def broken() -> None:
        raise ConnectionError

    for _ in range(failures):
        with suppress(Exception):
            breaker.call(broken)


async def admits(breaker: Breaker, body: Callable[[], Awaitable[Any]] = fine) -> bool:
    """Whether a call gets to its body."""
    entered = []

    async def told() -> Any:
        entered.append(True)
        return await body()

    with suppress(Exception):
        await breaker.call(told)
    return bool(entered)


def wait_out_the_pause(pause: float = PAUSE) -> None:
    time.sleep(pause + 0.15)
