"""Faults on purpose, for tests: in a pipeline by `chaos(...)`, and on the wire by `FaultProxy`."""

from __future__ import annotations

from resilient.chaos.policy import Chaos, chaos
from resilient.chaos.proxy import FaultProxy

__all__ = ["Chaos", "FaultProxy", "chaos"]
