"""One outage of one upstream, seen by one guarded client, from before its beginning to after its end."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from itertools import count
from typing import Any

import aiohttp
import redis
import trio
from prometheus_client import CollectorRegistry

from resilient import (
    CircuitBreaker,
    CircuitState,
    PrometheusExporter,
    Registry,
    RejectedError,
    bulkhead,
    circuit_breaker,
    fallback,
    pipeline,
    register_exporter,
    retry,
    timeout,
    unregister_exporter,
)
from tests.integration.callers import AT_ONCE, Answer, Caller, Sent
from tests.receivers.process import eventually

NAME = "upstream"
TIMEOUT = 0.25
ATTEMPTS = 2
OPEN_DURATION = 0.3
# However busy the machine is: without a timeout, what every silent fault does to a call lasts far longer.
BOUND = 15.0
PATIENCE = 60.0
# Byte by byte an answer takes longer than the bound, too.
LENGTH = 400
# Every client has errors of its own for what the system calls a connection that is reset, closed or refused.
FAILURES = (OSError, EOFError, HTTPException, aiohttp.ClientError, redis.RedisError, trio.BrokenResourceError)


class Outage:
    """A client with policies, and what it has seen.

    Attributes:
        sent: attempts that went out to the upstream.
        answered: calls that brought the right answer; `defaulted`: those that brought the fallback's.
        longest: seconds that the longest of all `ask`s took.
    """

    def __init__(
        self, make: Callable[[str, int, Any, Sent], Caller], host: str, port: int, *, always: bool = False
    ) -> None:
        self.registry = registry = Registry()
        policy = pipeline(
            NAME,
            fallback(default=None, on=(*FAILURES, RejectedError), registry=registry),
            retry(attempts=ATTEMPTS, backoff=0.01, on=FAILURES, registry=registry),
            circuit_breaker(consecutive_failures=3, open_duration=OPEN_DURATION, registry=registry),
            bulkhead(max_concurrent=AT_ONCE, registry=registry),
            timeout(TIMEOUT, interrupt="always" if always else "auto", registry=registry),
            registry=registry,
        )
        found = registry.find(CircuitBreaker, NAME)
        assert found is not None
        self.breaker = found
        self.sent = self.answered = self.defaulted = 0
        self.longest = 0.0
        self._words = (f"{number:0{LENGTH}d}" for number in count())
        self._lock = threading.Lock()
        self._caller = make(host, port, policy, self._send)
        self._scraped = CollectorRegistry()
        self._exporter = PrometheusExporter(registry=self._scraped)
        register_exporter(self._exporter, registry=registry)

    def ask(self) -> list[Answer]:
        """Ask for some words; what comes back is right, or the default, and nothing is raised."""
        words = [next(self._words) for _ in range(self._caller.at_once)]
        began = time.monotonic()
        answers = self._caller.ask(words)
        self.longest = max(self.longest, time.monotonic() - began)
        for word, answer in zip(words, answers, strict=True):
            # An answer to another's question would be what a connection had left that was given up half way.
            assert answer in (word, None)
        self.answered += sum(answer is not None for answer in answers)
        self.defaulted += answers.count(None)
        return answers

    def until(self, holds: Callable[[list[Answer]], object], pause: float = 0.002) -> None:
        """Ask until it holds of the answers."""
        deadline = time.monotonic() + PATIENCE
        while not holds(self.ask()):
            assert time.monotonic() < deadline, self.breaker.snapshot()
            time.sleep(pause)

    def is_well(self, answers: list[Answer]) -> bool:
        return None not in answers and self.breaker.state is CircuitState.CLOSED

    def is_open(self, answers: list[Answer]) -> bool:
        return self.breaker.state is CircuitState.OPEN

    @property
    def rejected(self) -> int:
        return self.count("circuit_breaker_calls", circuit_breaker_result="rejected")

    def probes(self) -> int:
        """Half-open states so far, each of which lets one call through."""
        return self.transitions("open", "half_open")

    def transitions(self, before: str, after: str) -> int:
        return self.count("circuit_breaker_transitions", circuit_breaker_from=before, circuit_breaker_to=after)

    def count(self, metric: str, owner: str = "policy", suffix: str = "_total", **labels: str) -> int:
        """As Prometheus sees it."""
        named = {f"resilience_{key}": value for key, value in labels.items()}
        value = self._scraped.get_sample_value(
            f"resilience_{metric}{suffix}", {f"resilience_{owner}_name": NAME, **named}
        )
        assert value is not None, metric
        return int(value)

    def calls(self, outcome: str) -> int:
        """Calls of the pipeline that ended so, whatever the error."""
        return sum(
            int(sample.value)
            for family in self._scraped.collect()
            for sample in family.samples
            if sample.name == "resilience_call_duration_seconds_count"
            and sample.labels["resilience_outcome"] == outcome
        )

    def permits(self) -> int:
        """What calls hold."""
        active = self.count("call_active", owner="pipeline", suffix="")
        orphaned = self.count("timeout_orphaned", suffix="")
        return (
            active + orphaned + self.count("bulkhead_usage", suffix="") + self.count("bulkhead_queue_usage", suffix="")
        )

    def close(self) -> None:
        self._caller.close()
        unregister_exporter(self._exporter)

    def _send(self) -> None:
        with self._lock:
            self.sent += 1


@contextmanager
def nothing_left() -> Iterator[None]:
    """A block after which there are no more threads and open files than before, once others have noticed."""
    threads, files = _threads(), _files()
    yield
    eventually(lambda: _threads() - threads, lambda more: not more)
    eventually(_files, lambda now: now <= files)


def _threads() -> set[threading.Thread]:
    # One for all timeouts, started by the first and kept.
    return {thread for thread in threading.enumerate() if thread.name != "resilient-watchdog"}


def _files() -> int:
    return len(os.listdir("/proc/self/fd"))
