"""Health of a service: checks, probes for its orchestrator, an overview, and waiting for what it depends on.

>>> from resilient.health import Health
>>> health = Health(service="shop", version="1.4.2")
>>> @health.check("database", timeout=2.0, ttl=1.0)
... def ping_database() -> None: ...
>>> app = health.asgi()  # or health.wsgi(): mount it at /health
"""

from __future__ import annotations

from resilient.health.checks import Check, Report
from resilient.health.health import Health
from resilient.health.responses import Request, Response
from resilient.health.waiting import NotHealthyError, Progress, wait_until_healthy, wait_until_healthy_async

# fmt: off
__all__ = [
    "Check", "Health", "NotHealthyError", "Progress", "Report", "Request", "Response", "wait_until_healthy",
    "wait_until_healthy_async",
]
# fmt: on
