"""The Grafana dashboard for the metrics of the catalogue."""

from __future__ import annotations

from importlib.resources import files


def grafana_dashboard() -> str:
    """The dashboard as the text of a JSON file, for Grafana 10.1 and later."""
    return files(__package__ or "resilient.telemetry").joinpath("dashboard.json").read_text("utf-8")
