"""Ten million calls through every policy: memory as flat at the end as after the first fifth, and every count exact."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.load,
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads what a process has from /proc"),
]

ROOT = Path(__file__).parents[2]
CALLS = int(os.environ.get("RESILIENT_ENDURANCE", "200000"))
# What Python itself and the measurement may keep: a leak in one of a hundred calls is far above it.
MEBIBYTES = 4.0
BLOCKS = 4_000
OBJECTS = 400
# There is an exemplar for each bucket of a histogram, from the first traced call on that takes so long.
OWN = 50
BYTES_IN_A_ROUND = 100_000


@pytest.fixture(scope="module")
def endured(request: pytest.FixtureRequest) -> Any:
    """What the program tells after so many calls. Whoever waits sees how far it is."""
    command = [sys.executable, "-W", "error", "-m", "tests.load.endurance", str(CALLS)]
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def growth(endured: Any, what: str) -> int:
    """From the first fifth, by which everything has been allocated that stays, to the end."""
    moments = endured["moments"]
    settled = max(moment[what] for moment in moments[len(moments) // 5 : len(moments) // 5 + 3])
    return int(moments[-1][what] - settled)


def test_memory_is_flat(endured: Any) -> None:
    assert growth(endured, "resident") < MEBIBYTES * 2**20
    assert growth(endured, "blocks") < BLOCKS


def test_what_lives_is_as_much_as_before(endured: Any) -> None:
    assert growth(endured, "objects") < OBJECTS
    assert growth(endured, "own") < OWN
    assert growth(endured, "threads") <= 0
    assert growth(endured, "files") <= 0


def test_a_round_of_calls_leaves_nothing_allocated(endured: Any) -> None:
    assert endured["growth"] < BYTES_IN_A_ROUND, endured["grew"]


def test_every_count_is_exact(endured: Any) -> None:
    compared, _ = endured["different"].pop("compared")
    assert compared > 60
    assert endured["different"] == {}
    assert endured["made"] == endured["counted"] == endured["scraped"] == CALLS // 10_000 * 10_000
    assert endured["active"] == 0
    assert endured["in_flight"] == [0] * len(endured["in_flight"])


def test_every_call_that_was_traced_is_one_span(endured: Any) -> None:
    assert endured["spans"]["rounds"] > 0
    assert endured["spans"]["calls"] == 10_000 * endured["spans"]["rounds"]
