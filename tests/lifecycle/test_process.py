"""The end of a process, step by step."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest
import trio

from resilient import ConfigurationError, Exporter, Registry, circuit_breaker, register_exporter
from resilient.lifecycle import Lifecycle
from resilient.testing import FakeClock
from tests.forking import unmeasured

Stop = Callable[[Lifecycle], None]


def stop_in_asyncio(lifecycle: Lifecycle) -> None:
    asyncio.run(lifecycle.stop_async())


def stop_in_trio(lifecycle: Lifecycle) -> None:
    trio.run(lifecycle.stop_async)


every_stop = pytest.mark.parametrize("stop", [Lifecycle.stop, stop_in_asyncio, stop_in_trio])


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture(autouse=True)
def _signals_as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@every_stop
def test_hooks_run_by_priority_and_of_one_priority_the_newest_first(stop: Stop, registry: Registry) -> None:
    lifecycle, ran = Lifecycle(registry=registry), []
    for name, priority in (("b1", 2), ("a", 1), ("c", 3), ("b2", 2)):
        lifecycle.on_shutdown(priority=priority, name=name)(lambda name=name: ran.append(name))
    stop(lifecycle)
    assert ran == ["a", "b2", "b1", "c"]
    assert lifecycle.state == "stopped"


@every_stop
def test_hooks_may_be_async(stop: Stop, registry: Registry) -> None:
    lifecycle, ran = Lifecycle(registry=registry), []

    @lifecycle.on_shutdown
    async def close() -> None:
        ran.append("closed")

    stop(lifecycle)
    assert ran == ["closed"]


@every_stop
@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_a_hook_that_fails_is_told_of_and_the_next_one_runs(
    stop: Stop, error: type[BaseException], registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    lifecycle, ran = Lifecycle(registry=registry), []

    @lifecycle.on_shutdown(priority=1)
    def fail() -> None:
        raise error("no pool")

    lifecycle.on_shutdown(priority=2)(lambda: ran.append("next"))
    stop(lifecycle)
    assert ran == ["next"]
    assert "fail failed" in caplog.text
    assert "no pool" in caplog.text


@pytest.mark.realtime
@every_stop
def test_a_hook_that_hangs_is_left_behind_after_its_timeout(
    stop: Stop, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    lifecycle, ran, go_on = Lifecycle(registry=registry), [], threading.Event()

    @lifecycle.on_shutdown(priority=1, timeout=0.2)
    def hang() -> None:
        go_on.wait(20)

    lifecycle.on_shutdown(priority=2)(lambda: ran.append("next"))
    beginning = time.monotonic()
    stop(lifecycle)
    assert time.monotonic() - beginning < 5.0
    assert ran == ["next"]
    assert "took longer than its 0.2 s" in caplog.text
    go_on.set()


@pytest.mark.realtime
def test_an_async_hook_that_refuses_to_end_is_left_behind(registry: Registry) -> None:
    lifecycle, ran = Lifecycle(registry=registry), []

    @lifecycle.on_shutdown(priority=1, timeout=0.2)
    async def hang() -> None:
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            try:
                await asyncio.sleep(1.0)
            except asyncio.CancelledError:
                continue

    async def main() -> float:
        beginning = time.monotonic()
        await lifecycle.stop_async()
        return time.monotonic() - beginning

    lifecycle.on_shutdown(priority=2)(lambda: ran.append("next"))
    assert asyncio.run(main()) < 0.9
    assert ran == ["next"]


@every_stop
def test_it_stops_once(stop: Stop, registry: Registry) -> None:
    lifecycle, ran = Lifecycle(registry=registry), []
    lifecycle.on_shutdown(lambda: ran.append("closed"))
    stop(lifecycle)
    stop(lifecycle)
    assert ran == ["closed"]


@pytest.mark.realtime
@every_stop
def test_calls_under_way_are_waited_for(stop: Stop, registry: Registry) -> None:
    lifecycle, ended, inside = Lifecycle(registry=registry), [], threading.Event()

    @circuit_breaker(registry=registry)
    def ask() -> None:
        inside.set()
        time.sleep(0.3)
        ended.append("answered")

    lifecycle.on_shutdown(lambda: ended.append("closed"))
    thread = threading.Thread(target=ask)
    thread.start()
    inside.wait()
    assert lifecycle.in_flight == 1
    stop(lifecycle)
    assert ended == ["answered", "closed"]
    thread.join()


@every_stop
def test_they_are_waited_for_no_longer_than_the_timeout(
    stop: Stop, registry: Registry, fake_clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    lifecycle, ran = Lifecycle(timeout=3.0, registry=registry), []
    registry.call_meter("stuck").started += 1
    lifecycle.on_shutdown(lambda: ran.append("closed"))
    beginning = fake_clock.now()
    stop(lifecycle)
    assert fake_clock.now() - beginning == pytest.approx(3.0)
    assert ran == ["closed"], "it gets a moment all the same"
    assert "stopping with 1 calls still under way" in caplog.text


@every_stop
def test_telemetry_goes_last(stop: Stop, registry: Registry) -> None:
    lifecycle, ran = Lifecycle(registry=registry), []

    class Told:
        name = "told"

        def start(self, collector: object) -> None: ...

        def flush(self, timeout: float) -> bool:
            return True

        def shutdown(self, timeout: float) -> None:
            ran.append("exported")

    exporter: Exporter = Told()
    register_exporter(exporter, registry=registry)
    lifecycle.on_shutdown(lambda: ran.append("closed"))
    stop(lifecycle)
    assert ran == ["closed", "exported"]


@pytest.mark.realtime
class TestSignals:
    def test_readiness_goes_first_and_the_handler_of_before_is_called_after_the_lame_duck_time(
        self, registry: Registry
    ) -> None:
        lifecycle, told = Lifecycle(lame_duck=0.2, registry=registry), threading.Event()
        seen: list[tuple[int, str, float]] = []
        beginning = time.monotonic()

        def before(number: int, frame: Any) -> None:
            seen.append((number, lifecycle.state, time.monotonic() - beginning))
            told.set()

        signal.signal(signal.SIGTERM, before)
        lifecycle.install()
        os.kill(os.getpid(), signal.SIGTERM)
        assert lifecycle.state == "draining"
        assert not seen
        assert told.wait(10)
        ((number, state, after),) = seen
        assert (number, state) == (signal.SIGTERM, "draining")
        assert after >= 0.2

    def test_a_second_signal_skips_the_rest_of_the_time(self, registry: Registry) -> None:
        lifecycle, seen = Lifecycle(lame_duck=30.0, registry=registry), []
        signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
        lifecycle.install()
        os.kill(os.getpid(), signal.SIGTERM)
        assert seen == []
        os.kill(os.getpid(), signal.SIGTERM)
        assert seen == [signal.SIGTERM]
        os.kill(os.getpid(), signal.SIGTERM)
        assert seen == [signal.SIGTERM] * 2, "and the next ones go straight on"

    def test_without_a_handler_of_before_the_program_exits_by_an_exception(self, registry: Registry) -> None:
        lifecycle = Lifecycle(lame_duck=0, registry=registry)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        lifecycle.install()
        with pytest.raises(SystemExit) as caught:
            os.kill(os.getpid(), signal.SIGTERM)
        assert caught.value.code == 128 + signal.SIGTERM

    def test_ctrl_c_stays_one(self, registry: Registry) -> None:
        lifecycle = Lifecycle(lame_duck=0, registry=registry)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        lifecycle.install()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)

    def test_what_is_ignored_stays_ignored(self, registry: Registry) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        Lifecycle(registry=registry).install()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN

    def test_installing_twice_chains_nobody_to_himself(self, registry: Registry) -> None:
        lifecycle, seen = Lifecycle(lame_duck=0, registry=registry), []
        signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
        lifecycle.install()
        lifecycle.install()
        os.kill(os.getpid(), signal.SIGTERM)
        assert seen == [signal.SIGTERM]

    def test_uninstalling_puts_back_what_was_there(self, registry: Registry) -> None:
        def before(number: int, frame: Any) -> None: ...

        lifecycle = Lifecycle(registry=registry)
        signal.signal(signal.SIGTERM, before)
        lifecycle.install()
        lifecycle.uninstall()
        assert signal.getsignal(signal.SIGTERM) is before

    def test_a_handler_of_an_asyncio_loop_waits_like_any_other(self, registry: Registry) -> None:
        lifecycle, seen = Lifecycle(lame_duck=0.3, registry=registry), []

        async def main() -> None:
            told = asyncio.Event()
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
            lifecycle.install()
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(0.1)
            seen.append((lifecycle.state, told.is_set()))
            await asyncio.wait_for(told.wait(), 10)

        asyncio.run(main())
        assert seen == [("draining", False)]

    def test_it_is_refused_on_other_threads(self, registry: Registry) -> None:
        errors: list[BaseException] = []

        def install() -> None:
            try:
                Lifecycle(registry=registry).install()
            except RuntimeError as error:
                errors.append(error)

        thread = threading.Thread(target=install)
        thread.start()
        thread.join()
        assert "on the main thread" in str(errors[0])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Lifecycle(lame_duck=-1),
        lambda: Lifecycle(timeout=0),
        lambda: Lifecycle(registry=None),  # type: ignore[arg-type]
        lambda: Lifecycle().on_shutdown(timeout=0),
        lambda: Lifecycle().on_shutdown(priority=1.5),  # type: ignore[call-overload]
        lambda: Lifecycle().on_shutdown("close"),  # type: ignore[call-overload]
        lambda: Lifecycle().install(lame_duck=-1),
    ],
)
def test_wrong_settings_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigurationError):
        make()


@pytest.mark.realtime
def test_hooks_run_at_the_exit_of_a_program_that_never_stops_it_itself() -> None:
    program = """
import time
from resilient import lifecycle

@lifecycle.on_shutdown(priority=1, timeout=0.2)
def hang():
    time.sleep(3)

@lifecycle.on_shutdown(priority=2)
async def close():
    print("closed")

lifecycle.install()
"""
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "closed\n"), done.stderr
    assert time.monotonic() - begun < 15


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_stop_that_is_cancelled_half_way_is_finished_by_the_next_one(backend: str, registry: Registry) -> None:
    lifecycle, ran, reached = Lifecycle(registry=registry), [], threading.Event()

    @lifecycle.on_shutdown(priority=1)
    def first() -> None:
        ran.append("first")

    @lifecycle.on_shutdown(priority=2, timeout=60)
    async def cancelled() -> None:
        ran.append("cancelled")
        reached.set()
        await anyio.sleep_forever()

    lifecycle.on_shutdown(priority=3)(lambda: ran.append("last"))

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(lifecycle.stop_async)
            while not reached.is_set():
                await anyio.sleep(0)
            group.cancel_scope.cancel()

    anyio.run(main, backend=backend)
    assert (lifecycle.state, ran) == ("draining", ["first", "cancelled"])
    lifecycle.stop()
    assert (lifecycle.state, ran) == ("stopped", ["first", "cancelled", "last"])


def test_telemetry_that_hangs_at_the_end_blocks_no_event_loop(registry: Registry) -> None:
    lifecycle, goes_on = Lifecycle(registry=registry), threading.Event()

    class Hanging:
        name = "hanging"

        def start(self, collector: object) -> None: ...

        def flush(self, timeout: float) -> bool:
            return True

        def shutdown(self, timeout: float) -> None:
            assert goes_on.wait(10), "the loop stood still"

    exporter: Exporter = Hanging()
    register_exporter(exporter, registry=registry)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(lifecycle.stop_async)
            while lifecycle.state != "stopping":
                await anyio.sleep(0)
            goes_on.set()

    asyncio.run(main())
    assert lifecycle.state == "stopped"


CHILD = """
import os, signal, sys, time
from resilient import lifecycle

lifecycle.on_shutdown(lambda: print("hook of", "child" if os.getpid() != parent else "parent", flush=True))
parent = os.getpid()
signal.signal(signal.SIGTERM, lambda number, frame: (print("handler of before", flush=True), sys.exit(0)))
lifecycle.install(lame_duck=30)
child = os.fork()
if child == 0:
    if "install" in sys.argv:
        lifecycle.install(lame_duck=0)
    print("ready", flush=True)
    time.sleep(60)
    os._exit(1)
while True:
    time.sleep(0.3)
    os.kill(child, signal.SIGTERM)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.realtime
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
@pytest.mark.parametrize(
    "argument, hooks", [("", ["hook of parent"]), ("install", ["hook of child", "hook of parent"])]
)
def test_a_forked_child_has_the_handler_of_before_at_once_and_no_hooks_unless_it_installs_them(
    argument: str, hooks: list[str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", CHILD, argument],
        env=unmeasured(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["ready", "handler of before", *hooks]
