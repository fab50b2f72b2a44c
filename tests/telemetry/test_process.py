"""What the process takes, and how late its event loop is."""

from __future__ import annotations

import asyncio
import gc
import json
import mmap
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
import trio
from prometheus_client import PROCESS_COLLECTOR, CollectorRegistry, GCCollector, PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from resilient import ConfigurationError, Registry
from resilient.telemetry import process
from resilient.telemetry.catalogue import CATALOGUE
from resilient.telemetry.collecting import Distribution
from resilient.telemetry.loop_lag import LoopWatch, loop_of
from resilient.telemetry.process import PROCESS_METRICS, ProcessMetrics, observe_process
from resilient.testing import fake_clock
from tests.telemetry.own_kit import families, run, series
from tests.telemetry.prometheus_kit import exported

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="told by Linux only")
NAME = "python.event_loop.name"


@pytest.fixture(autouse=True)
def _nobody_else() -> Iterator[None]:
    assert process._ACTIVE == []
    yield
    for numbers in process._ACTIVE[:]:
        numbers.stop()


class Loop:
    """An event loop that answers when a test says so."""

    name = "asyncio"

    def __init__(self) -> None:
        self.posted: list[Callable[[], object]] = []
        self.closed = False
        self.running = True

    def is_over(self) -> bool:
        return self.closed

    def runs(self) -> bool:
        return self.running and not self.closed

    def post(self, callback: Callable[[], object]) -> None:
        self.posted.append(callback)

    def answer(self) -> None:
        self.posted.pop(0)()


def delays(name: str = "asyncio") -> Distribution:
    value = series("python.event_loop.delay")[((NAME, name),)]
    assert isinstance(value, Distribution)
    return value


class TestNumbers:
    def test_nothing_is_shown_unless_asked_for(self) -> None:
        assert not {metric.name for metric in PROCESS_METRICS} & set(families())

    def test_one_line_shows_them_until_it_is_stopped(self) -> None:
        numbers = observe_process()
        found = families()
        assert {"process.cpu.time", "process.thread.count", "cpython.gc.collections"} <= set(found)
        numbers.stop()
        numbers.stop()
        assert not {metric.name for metric in PROCESS_METRICS} & set(families())

    def test_as_a_block(self) -> None:
        with observe_process() as numbers:
            assert isinstance(numbers, ProcessMetrics)
            assert "process.cpu.time" in families()
        assert "process.cpu.time" not in families()

    def test_asked_for_twice_they_are_not_added_up(self) -> None:
        with observe_process(), observe_process():
            assert list(series("cpython.gc.collections")) == [(("cpython.gc.generation", str(n)),) for n in range(3)]
            told = cast("int", series("cpython.gc.collections")[(("cpython.gc.generation", "2"),)])
            assert told == gc.get_stats()[2]["collections"] - process._COLLECTIONS._inherited[2]

    def test_processor_time_grows_with_work(self) -> None:
        with observe_process():
            before = cast("float", series("process.cpu.time")[(("cpu.mode", "user"),)])
            assert set(series("process.cpu.time")) == {(("cpu.mode", "user"),), (("cpu.mode", "system"),)}
            end = time.process_time() + 0.02
            while time.process_time() < end:
                sum(range(1_000))
            assert cast("float", series("process.cpu.time")[(("cpu.mode", "user"),)]) > before

    @LINUX
    def test_memory_is_what_is_resident_now(self) -> None:
        with observe_process():
            before = cast("int", series("process.memory.usage")[()])
            with mmap.mmap(-1, 200_000_000):
                reserved = cast("int", series("process.memory.usage")[()])
            block = bytearray(os.urandom(1)) * 50_000_000
            grown = cast("int", series("process.memory.usage")[()])
            del block
        assert 1_000_000 < before < grown - 40_000_000
        assert reserved < before + 100_000_000

    @LINUX
    def test_threads_and_open_files_are_counted(self) -> None:
        over = threading.Event()
        thread = threading.Thread(target=over.wait)
        with observe_process():
            before = cast("int", series("process.thread.count")[()])
            files = cast("int", series("process.unix.file_descriptor.count")[()])
            thread.start()
            read, write = os.pipe()
            try:
                assert series("process.thread.count") == {(): before + 1}
                assert series("process.unix.file_descriptor.count") == {(): files + 2}
                # Without the folder that is being listed. Those of earlier tests may be closed in between.
                assert abs(files - (len(os.listdir("/proc/self/fd")) - 1 - 2)) <= 2
            finally:
                os.close(read)
                os.close(write)
                over.set()
                thread.join()

    def test_collections_by_generation(self) -> None:
        key = (("cpython.gc.generation", "2"),)
        with observe_process():
            before = cast("int", series("cpython.gc.collections")[key])
            gc.collect()
            assert cast("int", series("cpython.gc.collections")[key]) >= before + 1

    def test_what_the_platform_does_not_tell_has_no_series(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def missing(*args: object, **kwargs: object) -> Any:
            raise FileNotFoundError

        monkeypatch.setattr(process, "open", missing, raising=False)
        monkeypatch.setattr(os, "stat", missing)
        monkeypatch.setitem(sys.modules, "resource", None)
        with observe_process():
            found = families()
        assert not {"process.memory.usage", "process.unix.file_descriptor.count"} & set(found)
        assert found["process.thread.count"].series == {(): threading.active_count()}
        assert sum(cast("float", value) for value in found["process.cpu.time"].series.values()) > 0

    def test_files_are_listed_where_their_number_is_not_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Told:
            st_size = 0

        monkeypatch.setattr(os, "stat", lambda path: Told)
        monkeypatch.setattr(os, "listdir", lambda path: ["0", "1", "2", "3"])
        assert process.descriptor_count() == 3


class TestNames:
    def test_they_are_those_of_the_conventions(self) -> None:
        from opentelemetry.semconv._incubating.attributes import cpu_attributes, cpython_attributes
        from opentelemetry.semconv._incubating.metrics import cpython_metrics, process_metrics

        assert process.CPU_TIME.name == process_metrics.PROCESS_CPU_TIME
        assert process.CPU_TIME.attributes == (cpu_attributes.CPU_MODE,)
        assert process.MEMORY_USAGE.name == process_metrics.PROCESS_MEMORY_USAGE
        assert process.THREAD_COUNT.name == process_metrics.PROCESS_THREAD_COUNT
        assert process.DESCRIPTOR_COUNT.name == process_metrics.PROCESS_UNIX_FILE_DESCRIPTOR_COUNT
        assert process.GC_COLLECTIONS.name == cpython_metrics.CPYTHON_GC_COLLECTIONS
        assert process.GC_COLLECTIONS.attributes == (cpython_attributes.CPYTHON_GC_GENERATION,)

    def test_none_is_one_of_prometheus_clients_own_or_of_the_catalogue(self) -> None:
        theirs = CollectorRegistry()
        collectors: list[Any] = [ProcessCollector(registry=theirs), PlatformCollector(registry=theirs)]
        GCCollector(registry=theirs)
        names = {sample.name for family in theirs.collect() for sample in family.samples}
        names |= {family.name for family in theirs.collect()}
        names |= {name for metric in CATALOGUE for name in metric.prometheus_samples}
        assert "process_cpu_seconds_total" in names
        assert len(collectors) == 2
        ours = {name for metric in PROCESS_METRICS for name in (metric.prometheus_name, *metric.prometheus_samples)}
        assert not ours & names

    def test_both_are_scraped_side_by_side(self) -> None:
        scraped = CollectorRegistry()
        scraped.register(PROCESS_COLLECTOR)
        with observe_process(), exported(Registry(), registry=scraped):
            seen = [family.name for family in scraped.collect()]
        assert {"process_cpu_time_seconds", "cpython_gc_collections", "process_thread_count"} <= set(seen)
        assert len(seen) == len(set(seen))


class TestLag:
    def test_the_delay_is_how_long_the_answer_takes(self) -> None:
        loop = Loop()
        with fake_clock() as clock:
            watch = LoopWatch("asyncio", loop, 1)
            assert watch.lag() is None
            assert watch.ask()
            clock.advance(0.25)
            loop.answer()
            assert watch.lag() == 0.25
            assert watch.ask()
            loop.answer()
            assert watch.lag() == 0
        assert (watch.delays.count, float(watch.delays.sum)) == (2, 0.25)

    def test_a_blocked_loop_is_seen_while_it_is_blocked_and_asked_only_once(self) -> None:
        loop = Loop()
        with fake_clock() as clock:
            watch = LoopWatch("asyncio", loop, 1)
            for _ in range(100):
                assert watch.ask()
                clock.advance(1)
            assert watch.lag() == 100
            assert (len(loop.posted), watch.delays.count) == (1, 0)
            loop.answer()
            assert (watch.lag(), watch.delays.count, float(watch.delays.sum)) == (100, 1, 100)

    def test_a_question_just_asked_does_not_hide_the_newest_delay(self) -> None:
        loop = Loop()
        with fake_clock() as clock:
            watch = LoopWatch("asyncio", loop, 1)
            watch.ask()
            clock.advance(5)
            loop.answer()
            watch.ask()
            assert watch.lag() == 5

    def test_a_loop_between_two_runs_is_not_late(self) -> None:
        loop = Loop()
        with fake_clock() as clock:
            watch = LoopWatch("asyncio", loop, 1)
            assert watch.ask()
            loop.running = False
            assert watch.lag() is None
            assert watch.ask()
            clock.advance(60)
            loop.running = True
            loop.answer()
            assert (watch.lag(), watch.delays.count) == (None, 0)
            assert watch.ask()
            clock.advance(1)
            loop.answer()
            assert (watch.lag(), watch.delays.count) == (1, 1)

    def test_it_ends_with_the_loop(self) -> None:
        loop = Loop()
        watch = LoopWatch("asyncio", loop, 1)
        assert watch.ask()
        loop.closed = True
        assert not watch.ask()
        assert (watch.over, watch.lag()) == (True, None)

    def test_a_loop_that_closes_just_now_ends_it_too(self) -> None:
        class Closing(Loop):
            def post(self, callback: Callable[[], object]) -> None:
                raise RuntimeError("Event loop is closed")

        watch = LoopWatch("asyncio", Closing(), 1)
        assert not watch.ask()
        assert watch.over

    def test_what_is_no_loop_is_refused(self) -> None:
        with pytest.raises(ConfigurationError, match="an event loop of asyncio, a token of trio"):
            observe_process(cast("Any", "asyncio"))
        with pytest.raises(ConfigurationError, match="interval"):
            observe_process(interval=0)
        assert process._ACTIVE == []

    def test_where_no_loop_runs_there_is_none(self) -> None:
        assert loop_of(None) is None
        with observe_process() as numbers:
            assert numbers.loop is None
            assert repr(numbers) == "<ProcessMetrics with no event loop>"
            assert "python.event_loop.delay" not in families()


def wait_for(fact: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not fact():
        assert time.monotonic() < end
        time.sleep(0.002)


def watchers() -> int:
    return sum(thread.name == "resilient-loop-lag" for thread in threading.enumerate())


@pytest.mark.realtime
class TestRealLoops:
    def test_asyncio_is_found_where_it_runs_and_its_blocking_is_seen_from_outside(self) -> None:
        seen: list[float] = []

        def look() -> None:
            wait_for(lambda: cast("float", series("python.event_loop.lag").get(((NAME, "asyncio"),), 0)) > 0.05)
            seen.append(cast("float", series("python.event_loop.lag")[((NAME, "asyncio"),)]))

        async def main() -> None:
            numbers = observe_process(interval=0.01)
            assert numbers.loop == "asyncio"
            while delays().count < 2:
                await asyncio.sleep(0.005)
            blocked = threading.Thread(target=look)
            blocked.start()
            blocked.join()  # blocks the loop until the other thread has seen that it does
            before = delays().count
            while delays().count <= before:
                await asyncio.sleep(0.005)

        asyncio.run(main())
        assert seen[0] > 0.05
        wait_for(lambda: not watchers())
        assert not {"python.event_loop.delay", "python.event_loop.lag"} & set(families())
        assert "process.cpu.time" in families()

    def test_trio_by_its_own_token(self) -> None:
        async def main() -> None:
            numbers = observe_process(interval=0.01)
            assert numbers.loop == "trio"
            while delays("trio").count < 2:
                await trio.sleep(0.005)
            blocked = threading.Thread(
                target=wait_for,
                args=[lambda: cast("float", series("python.event_loop.lag").get(((NAME, "trio"),), 0)) > 0.05],
            )
            blocked.start()
            blocked.join()

        trio.run(main)
        wait_for(lambda: not watchers())
        assert "python.event_loop.delay" not in families()

    def test_a_loop_given_from_another_thread_and_two_loops_apart(self) -> None:
        loops = [asyncio.new_event_loop() for _ in range(2)]
        threads = [threading.Thread(target=loop.run_forever) for loop in loops]
        for thread in threads:
            thread.start()
        wait_for(lambda: all(loop.is_running() for loop in loops))
        try:
            numbers = [observe_process(loop, interval=0.01) for loop in loops]
            assert [one.loop for one in numbers] == ["asyncio", "asyncio#2"]
            wait_for(lambda: delays().count and delays("asyncio#2").count)
            numbers[0].stop()
            assert (watchers(), set(series("python.event_loop.delay"))) == (1, {((NAME, "asyncio#2"),)})
            numbers[1].stop()
            assert watchers() == 0
        finally:
            for loop, thread in zip(loops, threads, strict=True):
                loop.call_soon_threadsafe(loop.stop)
                thread.join()
                loop.close()

    def test_stopped_in_the_loop_itself(self) -> None:
        async def main() -> None:
            numbers = observe_process(interval=60)
            numbers.stop()
            assert watchers() == 0

        asyncio.run(main())


FORKED = """
import asyncio, gc, json, os
from resilient import Registry
from resilient.telemetry.collecting import Collector
from resilient.telemetry.process import observe_process

async def main():
    numbers = observe_process(interval=60)
    for _ in range(50):
        gc.collect()
    gc.disable()
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        gc.collect()
        found = {f.metric.name: [[dict(k), v] for k, v in f.series.items()] for f in Collector(Registry()).collect()}
        os.write(write, json.dumps([numbers.loop, found]).encode())
        os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    print(os.read(read, 100_000).decode())

asyncio.run(main())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_tells_its_own_collections_and_no_loop() -> None:
    program = "import warnings; warnings.simplefilter('ignore', DeprecationWarning)\n" + FORKED
    loop, found = json.loads(run(program))
    assert loop is None
    assert found["cpython.gc.collections"][2] == [{"cpython.gc.generation": "2"}, 1]
    assert "process.cpu.time" in found
    assert "python.event_loop.delay" not in found
