"""Fixtures for a conftest.py to import. The receivers start when first asked for and live as long as the worker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.receivers.misbehaving import GarbageServer, HangingServer
from tests.receivers.otlp import OtlpReceiver
from tests.receivers.process import reserved_ports
from tests.receivers.prometheus import Prometheus

__all__ = ["garbage", "hanging", "otlp", "prometheus", "refused_port", "running_otlp"]


@pytest.fixture(scope="session")
def prometheus() -> Iterator[Prometheus]:
    """Serve metrics on `prometheus.target()` and ask for them with the label `instance`."""
    with Prometheus.started(targets=32) as prometheus:
        yield prometheus


@pytest.fixture(scope="session")
def running_otlp() -> Iterator[OtlpReceiver]:
    with OtlpReceiver.started() as receiver:
        yield receiver


@pytest.fixture
def otlp(running_otlp: OtlpReceiver) -> OtlpReceiver:
    """A receiver that has received nothing yet."""
    running_otlp.clear()
    return running_otlp


@pytest.fixture
def hanging() -> Iterator[HangingServer]:
    with HangingServer.started() as server:
        yield server


@pytest.fixture
def garbage() -> Iterator[GarbageServer]:
    with GarbageServer.started() as server:
        yield server


@pytest.fixture
def refused_port() -> Iterator[int]:
    """A port on which nobody listens, nor will."""
    with reserved_ports(1) as (port,):
        yield port
