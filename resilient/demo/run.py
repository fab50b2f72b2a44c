"""The run: upstream, replica, users and both clients in one event loop, shown by a view, ended by time or by hand."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from types import FrameType

from resilient.demo.clients import bring_users, crew
from resilient.demo.observer import Observer
from resilient.demo.report import Report
from resilient.demo.script import REPLICA, Pace, Script
from resilient.demo.upstream import Upstream
from resilient.demo.view import View
from resilient.registry import Registry
from resilient.telemetry.exporters import Exporter, register_exporter, unregister_exporter


def run(view: View, *, seconds: float, seed: int, exporters: Sequence[Exporter] = ()) -> Report:
    """Run the demo to its end, or until somebody presses Ctrl-C; what the guarded client counts is exported."""
    # The upstream watches its socket itself, which the default loop of Windows can't.
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        return runner.run(play(view, Script(seconds, seed), exporters))


async def play(view: View, script: Script, exporters: Sequence[Exporter] = ()) -> Report:
    stop = asyncio.Event()
    with _stopped_by_hand(stop):
        try:
            healthy = Script(script.seconds, script.seed, REPLICA)
            async with Upstream(script) as upstream, Upstream(healthy) as replica:
                observer = Observer(upstream, replica, Pace.of(script.seconds))
                both = observer.guarded, observer.unguarded
                view.open(script)
                with _exported(exporters, observer.registry):
                    async with _at_work(upstream.follow_script(), bring_users(upstream, *both), *crew(*both)):
                        await _show(view, observer, stop)
                report = observer.report(interrupted=stop.is_set())
        finally:
            view.leave()
        view.close(report)
    return report


@contextmanager
def _exported(exporters: Sequence[Exporter], registry: Registry) -> Generator[None, None, None]:
    try:
        for exporter in exporters:
            register_exporter(exporter, registry=registry)
        yield
    finally:
        for exporter in exporters:
            unregister_exporter(exporter, timeout=2.0)


async def _show(view: View, observer: Observer, stop: asyncio.Event) -> None:
    """A frame at every interval, until the time is over or somebody stops it."""
    seconds = observer.pace.seconds
    turn = 1
    while not stop.is_set():
        due = min(turn * view.interval, seconds)
        try:
            async with asyncio.timeout(due - observer.upstream.elapsed()):
                await stop.wait()
        except TimeoutError:
            view.show(observer.frame())
        if due >= seconds:
            return
        # On a machine so busy that frames are late, those that were missed are left out.
        turn = max(turn + 1, int(observer.upstream.elapsed() / view.interval))


@asynccontextmanager
async def _at_work(*works: Coroutine[object, object, None]) -> AsyncGenerator[None, None]:
    """Run these beside the block, and end them with it; what goes wrong in them is raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    for end in ends:
        if isinstance(end, Exception):
            raise end


@contextmanager
def _stopped_by_hand(stop: asyncio.Event) -> Generator[None, None, None]:
    """Ctrl-C sets `stop`; once more, it interrupts as it always does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()

    def first_time(signum: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        loop.call_soon_threadsafe(stop.set)

    before: dict[signal.Signals, Callable[[int, FrameType | None], object] | int | None] = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, first_time)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
