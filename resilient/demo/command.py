"""Chooses how to show the demo, and runs it."""

from __future__ import annotations

import json
import os
import sys

from resilient.demo.plain import PlainView
from resilient.demo.report import Report, document
from resilient.demo.run import run
from resilient.demo.view import View
from resilient.errors import ConfigurationError
from resilient.telemetry.exporters import Exporter


class JsonView(View):
    """Nothing while it runs, one document at the end."""

    def close(self, report: Report) -> None:
        _write(json.dumps(document(report), indent=2) + "\n")


def demo(
    *,
    seconds: float,
    seed: int,
    plain: bool = False,
    as_json: bool = False,
    prometheus: int | None = None,
    otlp: str | None = None,
) -> int:
    """Run the demo; gives back the exit code. Ended by Ctrl-C it still ends well: with its summary, and 0."""
    try:
        exporters = _exporters(prometheus, otlp)
        run(choose_view(plain=plain, as_json=as_json), seconds=seconds, seed=seed, exporters=exporters)
    except ConfigurationError as error:
        sys.stderr.write(f"resilient demo: {error}\n")
        return 2
    return 0


def _exporters(prometheus: int | None, otlp: str | None) -> list[Exporter]:
    found: list[Exporter] = []
    if prometheus is not None:
        from resilient.telemetry.prometheus import PrometheusExporter

        found.append(PrometheusExporter(port=prometheus))
    if otlp is not None:
        from resilient.telemetry.otlp import OTLPExporter

        found.append(OTLPExporter(otlp, interval=1.0))
    return found


def choose_view(*, plain: bool, as_json: bool) -> View:
    """The live view where there is a terminal that can show it, and rich is installed."""
    if as_json:
        return JsonView()
    if plain or not _can_draw():
        return PlainView(_write)
    from resilient.demo.live import LiveView

    try:
        return LiveView()
    except ImportError:
        _write("For a live view: pip install 'resilient-py[cli]'\n\n")
        return PlainView(_write)


def _can_draw() -> bool:
    """Is there a terminal that moves its cursor and knows more than ASCII?"""
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    return sys.stdout.isatty() and encoding == "utf8" and os.environ.get("TERM") not in ("dumb", "unknown")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
