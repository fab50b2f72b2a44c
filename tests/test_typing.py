"""Exact types for users of mypy: what is right passes, and what is wrong is refused line by line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

mypy = pytest.importorskip("mypy.api", reason="mypy is in the dependency group `typing`")

HERE = Path(__file__).parent
ROOT = HERE.parent


def run_mypy(file: str, cache: Path) -> tuple[str, int]:
    output, problems, status = mypy.run(
        [
            "--strict",
            "--config-file",
            str(ROOT / "pyproject.toml"),
            "--cache-dir",
            str(cache),
            "--no-error-summary",
            str(HERE / "typing" / file),
        ]
    )
    assert not problems
    return output, status


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mypy")


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_every_form_of_use_has_its_exact_type(cache: Path) -> None:
    output, status = run_mypy("api.py", cache)
    assert status == 0, output


def test_wrong_use_is_refused_line_by_line(cache: Path) -> None:
    output, _ = run_mypy("refused.py", cache)
    found = {int(line) for line in re.findall(r"refused\.py:(\d+): error:", output)}
    lines = (HERE / "typing" / "refused.py").read_text().splitlines()
    marked = {number for number, line in enumerate(lines, 1) if line.endswith("# E")}
    assert len(marked) > 30
    assert {number: lines[number - 1] for number in marked ^ found} == {}, output
