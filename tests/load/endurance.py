"""The endurance run, a program of its own so that nothing but the calls fills its memory: `... endurance 10000000`.

Tells on stderr how far it is and gives on stdout, as JSON, what memory did and what was counted.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import threading
import time
import tracemalloc
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from prometheus_client import CollectorRegistry, generate_latest

from resilient import Event, PrometheusExporter, Registry, register_exporter, subscribe
from tests.load.endurance_lane import Lane, count
from tests.load.endurance_work import SHARES

ROUND = 10_000
MOMENTS = 50
# Spans cost several times what a call does: so many rounds in a hundred have them.
TRACED = 10


@dataclass(frozen=True, slots=True)
class Moment:
    """What the process has after so many calls, garbage collected."""

    calls: int
    seconds: float
    resident: int
    blocks: int
    objects: int
    own: int
    threads: int
    files: int


class CountedSpans(SpanProcessor):
    """Looks at spans and keeps none."""

    def __init__(self) -> None:
        self.calls = 0
        self.others = 0

    def on_end(self, span: ReadableSpan) -> None:
        if span.name.startswith("execute "):
            self.calls += 1
        else:
            self.others += 1


class Run:
    def __init__(self, calls: int, loop: asyncio.Runner) -> None:
        self.loop = loop
        self.rounds = max(1, calls // ROUND)
        self.registry = Registry()
        self.lanes: list[tuple[Lane, int]] = [(lane(self.registry), share) for lane, share in SHARES.items()]
        self.events: Counter[str] = Counter()
        self.spans = CountedSpans()
        self.provider = TracerProvider()
        self.provider.add_span_processor(self.spans)
        self.scraped = CollectorRegistry()
        self.scrape = b""
        self.traced_rounds = 0
        self.made = 0
        self.moments: list[Moment] = []

    def go(self) -> None:
        register_exporter(PrometheusExporter(registry=self.scraped), registry=self.registry)
        subscribe(self._count_event)
        self._started = time.monotonic()
        for number in range(self.rounds):
            self._round(traced=number * TRACED % 100 < TRACED)
            self.scrape = generate_latest(self.scraped)
            if (number + 1) * MOMENTS // self.rounds > number * MOMENTS // self.rounds:
                self._look()

    def grow(self) -> tuple[int, list[str]]:
        """How many bytes a further round leaves behind, and where the most of them were allocated."""
        tracemalloc.start()
        # What a traced program allocates once.
        self._round(traced=True)
        gc.collect()
        before = tracemalloc.take_snapshot()
        self._round(traced=True)
        gc.collect()
        ours = [tracemalloc.Filter(False, tracemalloc.__file__), tracemalloc.Filter(False, __file__)]
        differences = tracemalloc.take_snapshot().filter_traces(ours).compare_to(before.filter_traces(ours), "lineno")
        tracemalloc.stop()
        return sum(one.size_diff for one in differences), [str(one) for one in differences[:10]]

    def _round(self, *, traced: bool) -> None:
        # As the API does it; it allows that only once in a process.
        trace._TRACER_PROVIDER = self.provider if traced else None
        self.traced_rounds += traced
        for lane, share in self.lanes:
            lane.run(share, self.loop)
            self.made += share

    def _count_event(self, event: Event) -> None:
        self.events[event.kind] += 1

    def _look(self) -> None:
        gc.collect()
        every = gc.get_objects()
        own = sum(1 for thing in every if str(type(thing).__module__).partition(".")[0] == "resilient")
        with open("/proc/self/statm") as memory:
            resident = int(memory.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        moment = Moment(
            calls=self.made,
            seconds=time.monotonic() - self._started,
            resident=resident,
            blocks=sys.getallocatedblocks(),
            objects=len(every),
            own=own,
            threads=threading.active_count(),
            files=len(os.listdir("/proc/self/fd")),
        )
        self.moments.append(moment)
        sys.stderr.write(
            f"{moment.calls:>12,} calls  {moment.seconds:7.1f} s  {moment.resident / 2**20:7.1f} MiB  "
            f"{moment.blocks:,} blocks  {moment.objects:,} objects\n"
        )
        sys.stderr.flush()

    def counts(self) -> dict[str, tuple[int, int]]:
        """What was counted of each thing, and what it should be; only where they differ, and how many were compared."""
        expected: Counter[str] = Counter()
        for lane, _ in self.lanes:
            expected.update(lane.expected())
        snapshot: dict[str, Any] = {**self.registry.snapshot(), "events": self.events}
        found = {path: (count(snapshot, path), wanted) for path, wanted in expected.items()}
        return {"compared": (len(found), len(found))} | {
            path: pair for path, pair in found.items() if pair[0] != pair[1]
        }


def main(calls: int, loop: asyncio.Runner) -> None:
    run = Run(calls, loop)
    run.go()
    snapshot: Any = run.registry.snapshot()
    pipelines = snapshot["pipeline"].values()
    scraped = [
        float(line.rpartition(" ")[2])
        for line in run.scrape.decode().splitlines()
        if line.startswith("resilience_call_duration_seconds_count")
    ]
    document = {
        "moments": [asdict(moment) for moment in run.moments],
        "different": run.counts(),
        "made": run.made,
        "counted": sum(sum(one["calls"].values()) for one in pipelines),
        "active": sum(one["active"] for one in pipelines),
        "scraped": sum(scraped),
        "spans": {"rounds": run.traced_rounds, "calls": run.spans.calls, "others": run.spans.others},
        "in_flight": [one["in_flight"] for one in snapshot["bulkhead"].values()],
    }
    document["growth"], document["grew"] = run.grow()
    json.dump(document, sys.stdout, indent=1)


if __name__ == "__main__":
    with asyncio.Runner() as runner:
        main(int(sys.argv[1]), runner)
