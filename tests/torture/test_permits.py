"""Permits under threads, two asyncio loops and trio that acquire, hold, cancel, time out and resize at random.

Short by default; RESILIENT_TORTURE=full makes it ten seconds for each configuration.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trio

from resilient import Bulkhead, BulkheadFullError, Registry, TimeoutExceededError, bulkhead, pipeline, timeout
from resilient.core.permits import Permits, Place
from resilient.drivers import safe_points

pytestmark = pytest.mark.torture

SECONDS = 10.0 if os.environ.get("RESILIENT_TORTURE") == "full" else 1.0
REFUSED = (BulkheadFullError, TimeoutExceededError)


class Watched(Permits):
    """Permits that check, under their own lock, that they hand out in the order of the queue.

    Not for bodies that are interrupted: only inside the package itself are interrupts put off.
    """

    def _settle_locked(self) -> list[Place]:
        order = list(self._queue)
        granted = super()._settle_locked()
        assert granted == order[: len(granted)]
        assert self.free >= 0
        return granted


class Turmoil:
    def __init__(self, limit: int, resize_to: tuple[int, ...], *, watched: bool) -> None:
        self.policy: Bulkhead = bulkhead(max_concurrent=limit, max_queue=40, registry=Registry())
        if watched:
            self.policy._permits = Watched(limit, 40)
        self.most_allowed = max((limit, *resize_to))
        self.limit = limit
        self.resize_to = resize_to
        self.inside: list[None] = []
        self.peak = 0
        self.counts: Counter[str] = Counter()
        self.end = time.monotonic() + SECONDS
        self.errors: list[BaseException] = []
        made = [timeout(seconds, interrupt="never", registry=Registry()) for seconds in (0.0002, 0.002)]
        self.patient = self.policy._pipeline()
        self.hasty = [pipeline(deadline, self.policy) for deadline in made]
        self.cut_short = [pipeline(timeout(s, registry=Registry()), self.policy) for s in (0.0003, 0.003)]

    def enter(self) -> None:
        self.inside.append(None)
        self.peak = max(self.peak, len(self.inside))

    def goes_on(self) -> bool:
        return time.monotonic() < self.end and not self.errors

    def watch(self, work: Callable[[random.Random], object], seed: int) -> threading.Thread:
        def run() -> None:
            try:
                work(random.Random(seed))
            except BaseException as error:
                self.errors.append(error)

        return threading.Thread(target=run, daemon=True)

    def hold(self, seconds: float) -> None:
        self.enter()
        try:
            time.sleep(seconds)
        finally:
            self.inside.pop()

    def on_a_thread(self, rng: random.Random) -> None:
        while self.goes_on():
            try:
                rng.choice([self.patient, *self.hasty]).call(self.hold, rng.choice([0.0, 0.0, 1e-4]))
            except REFUSED:
                self.counts["thread refused"] += 1
            else:
                self.counts["thread in"] += 1

    def on_the_main_thread(self, rng: random.Random) -> None:
        """Interrupted by signals. The body counts nothing: an interrupt in the middle of it would count wrong."""

        def nap() -> None:
            time.sleep(rng.choice([0.0, 2e-4, 1e-3]))

        while self.goes_on():
            try:
                rng.choice(self.cut_short).call(nap)
            except REFUSED:
                self.counts["interrupted"] += 1

    def resizer(self, rng: random.Random) -> None:
        while self.goes_on():
            if self.resize_to:
                self.policy.resize(rng.choice(self.resize_to))
            snapshot = self.policy.snapshot()
            assert 0 <= int(str(snapshot["queued"])) <= 40
            time.sleep(rng.uniform(0, 2e-3))

    async def task(self, rng: random.Random, sleep: Callable[[float], Any]) -> None:
        async def body() -> None:
            self.enter()
            try:
                if rng.random() < 0.5:
                    await sleep(rng.choice([0, 0, 1e-4]))
            finally:
                self.inside.pop()

        try:
            if rng.random() < 0.5:
                async with self.policy:
                    await body()
            else:
                await rng.choice([self.patient, *self.hasty, *self.cut_short]).call_async(body)
        except REFUSED:
            self.counts["task refused"] += 1
        else:
            self.counts["task in"] += 1

    def on_asyncio(self, rng: random.Random) -> None:
        async def main() -> None:
            loop = asyncio.get_running_loop()
            live: set[asyncio.Task[None]] = set()
            while self.goes_on():
                task = loop.create_task(self.task(rng, asyncio.sleep))
                live.add(task)
                task.add_done_callback(live.discard)
                if rng.random() < 0.4:
                    loop.call_later(rng.uniform(0, 5e-4), task.cancel)
                if len(live) > 15:
                    await asyncio.wait(live, return_when=asyncio.FIRST_COMPLETED)
                elif rng.random() < 0.3:
                    await asyncio.sleep(0)
            done = await asyncio.gather(*live, return_exceptions=True)
            assert all(result is None or isinstance(result, asyncio.CancelledError) for result in done)

        asyncio.run(main())

    def on_trio(self, rng: random.Random) -> None:
        async def one() -> None:
            with trio.move_on_after(rng.choice([9.0, 9.0, 2e-4])):
                await self.task(rng, trio.sleep)

        async def main() -> None:
            while self.goes_on():
                async with trio.open_nursery() as nursery:
                    for _ in range(15):
                        nursery.start_soon(one)

        trio.run(main)


@pytest.fixture(autouse=True)
def _hasty_threads() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(2e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("interrupts", [False, True])
@pytest.mark.parametrize("limit, resize_to", [(3, ()), (1, ()), (3, (1, 2, 3, 5))])
def test_no_permit_is_lost_or_doubled_and_nobody_overtakes(
    limit: int, resize_to: tuple[int, ...], interrupts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Among so many threads one may not run for 50 ms, and would be taken for stuck in the middle of our own code.
    monkeypatch.setattr(safe_points, "GRACE", 60.0)
    turmoil = Turmoil(limit, resize_to, watched=not interrupts)
    policy = turmoil.policy
    works = [turmoil.on_a_thread] * 2 + [turmoil.on_asyncio] * 2 + [turmoil.on_trio, turmoil.resizer]
    threads = [turmoil.watch(work, seed) for seed, work in enumerate(works)]
    for thread in threads:
        thread.start()
    if interrupts:
        turmoil.on_the_main_thread(random.Random(99))
    for thread in threads:
        thread.join(SECONDS + 30.0)
    assert not turmoil.errors
    assert not any(thread.is_alive() for thread in threads)
    assert min(turmoil.counts.values()) > 0, turmoil.counts
    assert turmoil.peak <= turmoil.most_allowed
    assert (policy.in_flight, policy.queued, turmoil.inside) == (0, 0, [])
    policy.resize(2)
    assert [policy._permits.try_acquire() for _ in range(3)] == [True, True, False]
