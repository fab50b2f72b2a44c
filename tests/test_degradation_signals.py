"""The ready-made signals: breakers, bulkheads, event loops, memory."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from resilient import BulkheadFullError, CircuitOpenError, ConfigurationError, Registry, bulkhead, circuit_breaker
from resilient.degradation import Degradation
from resilient.degradation.signals import Memory, bulkhead_fill, event_loop_lag, memory, open_breakers
from resilient.testing import FakeClock

MIB = 1024 * 1024


@pytest.fixture
def registry() -> Registry:
    return Registry()


def test_breakers_count_while_they_are_open(registry: Registry, fake_clock: FakeClock) -> None:
    read = open_breakers(registry=registry)
    assert read() == 0
    one, two, three = (circuit_breaker(name, open_duration=30, registry=registry) for name in "abc")
    circuit_breaker("d", registry=registry)
    assert read() == 0
    one.trip()
    two.force_open()
    three.disable()
    assert read() == 0.5
    assert open_breakers(one, three, registry=registry)() == 0.5


def test_a_breaker_whose_break_is_over_does_not_count_for_nobody_may_call_it(
    registry: Registry, fake_clock: FakeClock
) -> None:
    breaker = circuit_breaker("payments", open_duration=30, registry=registry)
    made = Degradation(registry=registry)
    made.signal("breakers", open_breakers(registry=registry))
    paying = made.degradable("pay", off_at="reduced", fallback=None)(breaker(len))
    breaker.trip()
    for _ in range(2):
        with pytest.raises(CircuitOpenError):
            paying("four")
        fake_clock.advance(0.5)
    assert paying("four") is None
    answers: list[object] = []
    for _ in range(150):
        fake_clock.advance(0.5)
        answers.append(paying("four"))
    assert (answers[0], answers[-1]) == (None, 4)


def test_reading_breakers_changes_none(registry: Registry, fake_clock: FakeClock) -> None:
    breaker = circuit_breaker("payments", open_duration=30, registry=registry)
    breaker.trip()
    fake_clock.advance(60)
    before = registry.snapshot()
    assert open_breakers(registry=registry)() == 0
    assert registry.snapshot() == before


def test_the_fullest_bulkhead_counts_with_its_queue(registry: Registry) -> None:
    read = bulkhead_fill(registry=registry)
    assert read() == 0
    small = bulkhead("small", max_concurrent=2, registry=registry)
    large = bulkhead("large", max_concurrent=6, max_queue=2, registry=registry)
    with small, large, large:
        assert read() == 0.5
        assert bulkhead_fill(large, registry=registry)() == 0.25
        with small:
            assert read() == 1.0
            with pytest.raises(BulkheadFullError):
                small.call(int)
    assert read() == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: open_breakers(bulkhead(registry=Registry())),  # type: ignore[arg-type]
        lambda: bulkhead_fill(circuit_breaker(registry=Registry())),  # type: ignore[arg-type]
        lambda: open_breakers(registry=None),  # type: ignore[arg-type]
        lambda: memory(0),
        lambda: memory(1.5),  # type: ignore[arg-type]
        event_loop_lag,
        lambda: event_loop_lag(limit=0),
    ],
)
def test_a_wrong_setting_is_refused(make: Any) -> None:
    with pytest.raises(ConfigurationError):
        make()


@pytest.mark.realtime
def test_a_blocked_event_loop_is_seen_while_it_is_blocked() -> None:
    seen: list[float] = []

    async def main() -> None:
        lag = event_loop_lag(limit=0.2, interval=0.01)
        await asyncio.sleep(0.05)
        assert lag() < 0.9

        def watch() -> None:
            time.sleep(0.25)
            seen.append(lag())

        watcher = threading.Thread(target=watch)
        watcher.start()
        time.sleep(0.35)
        watcher.join()
        lag.stop()
        with pytest.raises(RuntimeError):
            lag()

    asyncio.run(main())
    assert seen[0] > 1.0


@pytest.mark.realtime
def test_a_loop_that_is_over_is_ignored_and_its_thread_ends() -> None:
    made = Degradation(registry=Registry())

    async def main() -> None:
        made.signal("lag", event_loop_lag(interval=0.01))

    asyncio.run(main())
    deadline = time.monotonic() + 5
    while any(thread.name == "resilient-loop-lag" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert made.level == "normal"
    signals: Any = made.snapshot()["signals"]
    assert signals["lag"]["error"] == "RuntimeError"


def machine(root: Path, *, available: int = 900, cgroup: str = "0::/\n", files: dict[str, str] | None = None) -> Memory:
    """A machine of 1,000 MiB as it shows in /proc and /sys."""
    for name, text in {
        "proc/meminfo": f"MemTotal: {1000 * 1024} kB\nMemFree: 1 kB\nMemAvailable: {available * 1024} kB\n",
        "proc/self/cgroup": cgroup,
        **{f"sys/fs/cgroup/{name}": text for name, text in (files or {}).items()},
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Memory(None, root)


def test_a_container_of_cgroup_2_counts_by_its_limit_without_what_can_be_dropped(tmp_path: Path) -> None:
    read = machine(
        tmp_path,
        files={
            "memory.max": f"{200 * MIB}\n",
            "memory.current": f"{180 * MIB}\n",
            "memory.stat": f"anon 5\nactive_file 7\ninactive_file {30 * MIB}\n",
        },
    )
    assert read() == 0.75
    (tmp_path / "sys/fs/cgroup/memory.max").write_text(f"{300 * MIB}\n")
    assert read() == 0.5


def test_a_container_of_cgroup_1_counts_by_its_limit(tmp_path: Path) -> None:
    read = machine(
        tmp_path,
        cgroup="11:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n",
        files={
            "memory/memory.limit_in_bytes": f"{100 * MIB}\n",
            "memory/memory.usage_in_bytes": f"{90 * MIB}\n",
            "memory/memory.stat": f"inactive_file 1\ntotal_inactive_file {10 * MIB}\n",
        },
    )
    assert read() == 0.8


def test_the_nearest_limit_of_all_groups_around_the_process_counts(tmp_path: Path) -> None:
    read = machine(
        tmp_path,
        cgroup="0::/slice/service\n",
        files={
            "slice/service/memory.max": "max\n",
            "slice/service/memory.current": f"{40 * MIB}\n",
            "slice/memory.max": f"{100 * MIB}\n",
            "slice/memory.current": f"{60 * MIB}\n",
        },
    )
    assert read() == 0.6


@pytest.mark.parametrize(
    "files", [{}, {"memory/memory.limit_in_bytes": "9223372036854771712", "memory/memory.usage_in_bytes": "5"}]
)
def test_without_a_limit_the_memory_of_the_machine_counts(tmp_path: Path, files: dict[str, str]) -> None:
    assert machine(tmp_path, available=250, cgroup="4:memory:/\n", files=files)() == 0.75


def test_where_the_machine_is_nearer_to_its_end_than_the_container_it_counts(tmp_path: Path) -> None:
    files = {"memory.max": str(100 * MIB), "memory.current": str(10 * MIB)}
    assert machine(tmp_path, available=100, files=files)() == 0.9


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
def test_the_memory_of_this_process_can_be_had() -> None:
    assert 0 < memory()() <= 1
    assert 0 < memory(1024**4)() < 0.1
    assert memory(1)() > 1000


def test_where_the_platform_tells_nothing_the_signal_is_ignored(tmp_path: Path) -> None:
    made = Degradation(registry=Registry())
    made.signal("memory", Memory(None, tmp_path))
    assert made.level == "normal"
    signals: Any = made.snapshot()["signals"]
    assert signals["memory"]["error"] == "FileNotFoundError"
