"""A real Prometheus that scrapes ports on loopback, and promtool."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.receivers import install
from tests.receivers.process import HOST, eventually, fetch_json, reserved_ports, running


@dataclass(frozen=True, slots=True)
class Sample:
    """One element of an instant vector."""

    labels: dict[str, str]
    value: float

    @property
    def name(self) -> str:
        return self.labels.get("__name__", "")


@dataclass(frozen=True, slots=True)
class Exemplar:
    series: dict[str, str]
    labels: dict[str, str]
    value: float
    timestamp: float


class Prometheus:
    """Answers PromQL about what it has scraped.

    It takes 5 to 10 s from its start to its first scrape, and as long for a new target. It is therefore started once,
    with targets at which nothing listens yet: `target()` hands out a port, a test serves its metrics there, and they
    are scraped within an interval. A port is handed out once, so that `instance_of(port)` tells tests apart.
    """

    def __init__(self, url: str, targets: Sequence[int]) -> None:
        self.url = url
        self._targets = list(targets)

    @classmethod
    @contextmanager
    def started(
        cls, scrape: Sequence[int] = (), *, targets: int = 0, interval: float = 0.5, rules: Path | None = None
    ) -> Iterator[Self]:
        """Scrapes the ports `scrape` and as many reserved ones as `targets` says, each `interval` s.

        A scrape that takes longer than the interval counts as failed, which ends all series of its target.
        """
        pause = f"{round(interval * 1000)}ms"
        with reserved_ports(targets + 1) as (own, *reserved), tempfile.TemporaryDirectory() as name:
            addresses = [f"{HOST}:{port}" for port in (*scrape, *reserved)]
            config = {
                "global": {"scrape_interval": pause, "scrape_timeout": pause, "evaluation_interval": pause},
                "rule_files": [str(rules.absolute())] if rules else [],
                "scrape_configs": [{"job_name": "tests", "static_configs": [{"targets": addresses}]}],
            }
            folder = Path(name)
            (folder / "prometheus.yml").write_text(json.dumps(config))
            command: list[str | Path] = [
                install.prometheus(),
                "--config.file=prometheus.yml",
                "--storage.tsdb.path=data",
                f"--web.listen-address={HOST}:{own}",
                "--enable-feature=exemplar-storage",
                "--log.level=warn",
            ]
            url = f"http://{HOST}:{own}"
            with running(command, folder, f"{url}/-/ready"):
                yield cls(url, reserved)

    def target(self) -> int:
        """A port that is scraped already, for the caller to serve metrics on; its server has to set SO_REUSEADDR."""
        if not self._targets:
            raise LookupError("every target is taken: start Prometheus with more of them")
        return self._targets.pop(0)

    @staticmethod
    def instance_of(port: int) -> str:
        """The value of the label `instance` on everything that was scraped at `port`."""
        return f"{HOST}:{port}"

    def api(self, path: str, **parameters: str) -> Any:
        """The `data` of an answer, as of `api("targets")`."""
        return fetch_json(f"{self.url}/api/v1/{path}", **parameters)["data"]

    def query(self, expression: str) -> list[Sample]:
        """The instant vector (or scalar) that the expression has now."""
        data = self.api("query", query=expression)
        if data["resultType"] == "scalar":
            return [Sample({}, float(data["result"][1]))]
        if data["resultType"] != "vector":
            raise TypeError(f"{expression} is a {data['resultType']}: ask api('query', ...)")
        return [Sample(one["metric"], float(one["value"][1])) for one in data["result"]]

    def wait_for(
        self, expression: str, holds: Callable[[list[Sample]], object] = bool, *, timeout: float = 30.0
    ) -> list[Sample]:
        """The vector of the expression once `holds` is true of it; unless told otherwise, once it is not empty."""
        return eventually(lambda: self.query(expression), holds, timeout=timeout)

    def exemplars(self, expression: str) -> list[Exemplar]:
        """Every exemplar of the series that the expression selects."""
        return [
            Exemplar(series["seriesLabels"], one["labels"], float(one["value"]), float(one["timestamp"]))
            for series in self.api("query_exemplars", query=expression)
            for one in series["exemplars"]
        ]


def promtool(*arguments: str | Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Runs promtool; the caller looks at `returncode`, `stdout` and `stderr`."""
    command = [install.promtool(), *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60.0, check=False)
