"""Every test that the correctness page names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "correctness.md").read_text(encoding="utf-8")
ALIASES = dict(re.findall(r"`([A-Z]+)` (?:is )?`((?:tests/\w+/)?test_\w+\.py)", PAGE))
NAMED = sorted(set(re.findall(r"`([\w/.]+)::([\w:]+)`", PAGE)))


def holds(source: str, name: str) -> bool:
    *classes, test = name.split("::")
    named = [rf"^class {cls}\b" for cls in classes] + [rf"^ *(async )?def {test}\(|^{test} = "]
    return all(re.search(pattern, source, re.MULTILINE) for pattern in named)


@pytest.mark.parametrize("where, name", NAMED)
def test_a_test_that_is_named_exists(where: str, name: str) -> None:
    # A file that the page has named before stands without its folder, and two folders may have one of the same name.
    files = [ROOT / where] if "/" in where else (ROOT / "tests").rglob(Path(ALIASES.get(where, where)).name)
    assert any(holds(file.read_text(encoding="utf-8"), name) for file in files)


def test_every_line_of_the_invariants_so_far_is_there() -> None:
    numbers = {int(number) for number in re.findall(r"^\| (\d+)\. ", PAGE, re.MULTILINE)}
    assert numbers >= set(range(1, 36))
