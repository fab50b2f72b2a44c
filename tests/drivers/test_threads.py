"""Waiting on threads, and the warning where a loop would stand still."""

from __future__ import annotations

import asyncio
import sys
import types
import warnings

import pytest
import trio

from resilient.drivers.threads import sleep, warn_if_loop_runs
from tests.drivers.vloop import manual_time


def test_a_sleep_is_recorded_and_moves_virtual_time() -> None:
    with manual_time() as time:
        sleep(2.5)
        sleep(0.5)
        assert time.waits == [2.5, 0.5]
        assert time.now() == 103.0


@pytest.mark.parametrize("seconds", [0.0, -0.0, -1.0])
def test_a_sleep_of_no_time_is_no_wait_at_all(seconds: float) -> None:
    with manual_time() as time:
        sleep(seconds)
        assert time.waits == []


def test_without_a_loop_nothing_is_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert warn_if_loop_runs("retry 'payments'", "call_async") is False


def test_blocking_a_thread_with_a_loop_warns_and_names_the_async_form() -> None:
    async def main() -> bool:
        return warn_if_loop_runs("retry 'payments'", "await policy.call_async(...)")

    with pytest.warns(RuntimeWarning, match=r"retry 'payments'.*\(asyncio\).*use await policy\.call_async\(\.\.\.\)"):
        assert asyncio.run(main()) is True
    with pytest.warns(RuntimeWarning, match=r"retry 'payments'.*\(trio\).*use await policy\.call_async\(\.\.\.\)"):
        assert trio.run(main) is True


def test_a_worker_thread_beside_a_loop_may_wait_without_a_warning() -> None:
    async def main() -> bool:
        return await asyncio.to_thread(warn_if_loop_runs, "retry", "call_async")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert asyncio.run(main()) is False


def frames_of_module(name: str) -> types.ModuleType:
    """A module that calls the warning through two frames of its own, as policies and pipelines do."""
    module = types.ModuleType(name)
    source = (
        "from resilient.drivers.threads import warn_if_loop_runs\n"
        "def inner():\n    return warn_if_loop_runs('retry', 'call_async')\n"
        "def call(fn):\n    return fn()\n"
    )
    exec(compile(source, f"<{name}>", "exec"), module.__dict__)
    return module


@pytest.mark.parametrize(
    "module, points_here",
    [("resilient.policies.retry", True), ("resilient", True), ("resilient_extras.client", False)],
)
def test_the_warning_points_at_the_first_line_outside_the_package(module: str, points_here: bool) -> None:
    package = frames_of_module(module)

    async def main() -> int:
        package.call(package.inner)
        return sys._getframe().f_lineno - 1

    with pytest.warns(RuntimeWarning) as caught:
        line = asyncio.run(main())
    warning = caught[0]
    assert ((warning.filename, warning.lineno) == (__file__, line)) is points_here
