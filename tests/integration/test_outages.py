"""Real clients of real servers, through everything that can happen to a connection or to the server's process.

Every time here is real, and the machine may be busy: tests wait for states and compare counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from resilient.chaos import FaultProxy
from tests.integration.callers import CALLERS
from tests.integration.faults import FAULTS, Upstream
from tests.integration.outage import BOUND, Outage, nothing_left
from tests.integration.servers import HttpServer, RedisServer, Server
from tests.receivers import install
from tests.receivers.process import eventually

pytestmark = [
    pytest.mark.realtime,
    pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts the open files in /proc"),
]

# Each fault and each client once; all of one with all of the other is `nox -s load`.
ALWAYS = {
    ("http_under_asyncio", "latency"),
    ("redis_under_asyncio", "black_hole"),
    ("http_on_main_thread", "reset"),
    ("redis_on_threads", "half_closed"),
    ("http_under_trio", "refused"),
    ("http_on_threads", "slow_drip"),
    ("redis_on_main_thread", "killed"),
    ("http_under_asyncio", "frozen"),
}


@pytest.fixture(scope="module")
def http() -> Iterator[Server]:
    with HttpServer.started() as server:
        yield server


@pytest.fixture(scope="module")
def redis() -> Iterator[Server]:
    if not install.has_redis_server():
        pytest.skip("there is no redis-server, nor apt-get to fetch it with")
    with RedisServer.started() as server:
        yield server


@pytest.mark.parametrize(
    "client, fault",
    [
        pytest.param(client, fault, marks=() if (client, fault) in ALWAYS else pytest.mark.load)
        for client in CALLERS
        for fault in FAULTS
    ],
)
def test_an_outage_is_bounded_spares_the_upstream_and_ends_by_itself(
    client: str, fault: str, request: pytest.FixtureRequest
) -> None:
    server: Any = request.getfixturevalue(client.partition("_")[0])
    happening = FAULTS[fault]
    with nothing_left(), FaultProxy(server.host, server.port) as proxy:
        upstream = Upstream(server, proxy)
        address = server if happening.direct else proxy
        outage = Outage(CALLERS[client], address.host, address.port, always=client.endswith("threads"))
        try:
            outage.until(outage.is_well)
            with happening.to(upstream):
                outage.until(outage.is_open)
                seen = check_that_the_upstream_is_spared(outage)
            outage.until(outage.is_well, pause=0.02)
            check_what_the_metrics_tell(outage, **seen)
            assert outage.longest < BOUND
            assert outage.permits() == 0
            if happening.silent and not client.endswith("threads"):
                # Clients in threads have timeouts of their own, which may come first.
                assert outage.count("timeout_calls", timeout_result="timed_out") > 0
        finally:
            outage.close()
        eventually(lambda: proxy.open_connections, lambda number: number == 0)


def check_that_the_upstream_is_spared(outage: Outage) -> dict[str, int]:
    """While the fault lasts, nothing goes out but the probes; gives what was counted by then."""
    sent, probes, rejected = outage.sent, outage.probes(), outage.rejected
    # A machine that stood still may have had the circuit open, and close, before.
    closed = outage.transitions("half_open", "closed")
    outage.until(lambda answers: outage.rejected >= rejected + 20 and outage.probes() > probes)

    assert outage.sent - sent <= outage.probes() - probes
    assert outage.transitions("half_open", "closed") == closed
    return {"closed": closed, "defaulted": outage.defaulted}


def check_what_the_metrics_tell(outage: Outage, *, closed: int, defaulted: int) -> None:
    assert outage.calls("success") == outage.answered
    assert outage.calls("fallback") == outage.defaulted >= defaulted >= 20
    assert outage.count("fallback_calls", fallback_result="applied") == outage.defaulted
    assert sum(outage.calls(outcome) for outcome in ("failure", "timeout", "rejected", "cancelled")) == 0
    assert outage.transitions("closed", "open") >= 1
    assert outage.transitions("half_open", "closed") > closed
    # A timeout may have come between the breaker and the first line of the body.
    recorded = sum(outage.count("circuit_breaker_calls", circuit_breaker_result=how) for how in ("success", "failure"))
    assert outage.sent <= recorded <= outage.sent + 2
    tried = sum(
        outage.count("retry_attempts", attempt_result=how) for how in ("success", "retryable_failure", "failure")
    )
    assert tried == recorded + outage.rejected
    assert outage.count("bulkhead_calls", bulkhead_result="accepted") == recorded
