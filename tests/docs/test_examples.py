"""Every example in the documentation, in README.md and in the docstrings of the package runs here.

A page runs from top to bottom as one program, a docstring by itself. Time is virtual, unless the page says
`<!-- time: real -->`: code of a page that itself waits knows nothing of our clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from doctest import ELLIPSIS
from pathlib import Path

import pytest
from sybil import Document
from sybil.document import PythonDocStringDocument
from sybil.parsers.myst import PythonCodeBlockParser
from sybil.parsers.rest import DocTestParser

from resilient import registry
from resilient.testing import fake_clock

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts)]
MODULES = sorted((ROOT / "resilient").rglob("*.py"))


def page(path: Path) -> Document:
    document = Document(path.read_text(), str(path))
    for region in PythonCodeBlockParser(doctest_optionflags=ELLIPSIS)(document):
        document.add(region)
    return document


def docstrings(path: Path) -> Iterator[Document]:
    source = path.read_text()
    for start, _, text in PythonDocStringDocument.extract_docstrings(source):
        # As many lines above it as in the file, so that a failure shows the right one.
        document = Document("\n" * source.count("\n", 0, start) + text, str(path))
        for region in DocTestParser(ELLIPSIS)(document):
            document.add(region)
        if document.regions:
            yield document


def cases() -> Iterator[object]:
    for path in PAGES:
        document = page(path)
        if document.regions:
            real = "<!-- time: real -->" in document.text
            marks = [pytest.mark.realtime] if real else []
            yield pytest.param(document, id=str(path.relative_to(ROOT)), marks=marks)
    for path in MODULES:
        for document in docstrings(path):
            first = next(iter(document.examples()))
            yield pytest.param(document, id=f"{path.relative_to(ROOT)}:{first.line}")


@pytest.fixture(autouse=True)
def _no_policies_of_others() -> Iterator[None]:
    registry.clear()
    yield
    registry.clear()


@pytest.mark.parametrize("document", list(cases()))
def test_the_examples_do_what_they_say(document: Document, request: pytest.FixtureRequest) -> None:
    document.namespace.clear()
    document.namespace["__name__"] = "__main__"
    with nullcontext() if request.node.get_closest_marker("realtime") else fake_clock():
        for example in document.examples():
            example.evaluate()
