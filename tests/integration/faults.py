"""What happens to an upstream, and how it ends: on the wire, through a `FaultProxy`, or to the server's process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from resilient.chaos import FaultProxy
from tests.integration.servers import Server

RESCUE = 40.0


@dataclass(frozen=True, slots=True)
class Upstream:
    server: Server
    proxy: FaultProxy


@dataclass(frozen=True, slots=True)
class Fault:
    """Timeouts alone notice the `silent` ones. `direct` ones are met without a proxy, which would soften them."""

    begin: Callable[[Upstream], None]
    end: Callable[[Upstream], None]
    silent: bool
    direct: bool = False

    @contextmanager
    def to(self, upstream: Upstream) -> Iterator[None]:
        """A block in which it happens."""
        # Calls that nothing ends come back all the same, for a test to fail that would otherwise stand still.
        rescue = threading.Timer(RESCUE, self.end, [upstream])
        if self.silent:
            rescue.start()
        try:
            self.begin(upstream)
            yield
        finally:
            if self.silent:
                rescue.cancel()
                rescue.join()
            self.end(upstream)


def _heal(upstream: Upstream) -> None:
    upstream.proxy.heal()


FAULTS = {
    "latency": Fault(lambda up: up.proxy.latency(60.0, jitter=5.0), _heal, silent=True),
    "black_hole": Fault(lambda up: up.proxy.black_hole(), _heal, silent=True),
    "reset": Fault(lambda up: up.proxy.reset(), _heal, silent=False),
    "half_closed": Fault(lambda up: up.proxy.half_close(), _heal, silent=False),
    "refused": Fault(lambda up: up.proxy.refuse(), _heal, silent=False),
    "slow_drip": Fault(lambda up: up.proxy.drip(size=1, every=0.1), _heal, silent=True),
    "killed": Fault(lambda up: up.server.kill(), lambda up: up.server.start(), silent=False, direct=True),
    "frozen": Fault(lambda up: up.server.freeze(), lambda up: up.server.thaw(), silent=True, direct=True),
}
