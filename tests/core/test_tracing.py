"""Where nothing is traced, tracing does nothing."""

from __future__ import annotations

import pytest

from resilient.core import tracing
from resilient.core.tracing import UNTRACED, Part, _Tracing, note, trace_fallback, trace_hedge, trace_retry


def test_a_part_that_is_not_traced_is_its_own_block_and_lets_errors_pass() -> None:
    with UNTRACED as part:
        assert part is UNTRACED
        part.end("success")
        part.settle("success")
    assert UNTRACED.__exit__(ValueError, ValueError(), None) is None  # type: ignore[func-returns-value]


def test_without_tracing_every_part_is_that_one() -> None:
    assert [trace_retry(2, 0.1), trace_hedge(2, lambda: None), trace_fallback()] == [UNTRACED] * 3
    note("key", 1)
    nobody = _Tracing()
    assert (nobody.open(object()), nobody.current()) == (None, None)


def test_parts_and_notes_go_to_the_trace_of_the_call_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []

    class Trace:
        def note(self, *told_now: object) -> None:
            told.append(told_now)

        def retry(self, *told_now: object) -> Part:
            told.append(told_now)
            return parts[0]

        def hedge(self, *told_now: object) -> Part:
            told.append(told_now)
            return parts[1]

        def fallback(self) -> Part:
            return parts[2]

    parts = [Part(), Part(), Part()]
    trace, late = Trace(), lambda: None
    monkeypatch.setattr(tracing.TRACING, "current", lambda: trace)
    note("key", 1)
    assert [trace_retry(2, 0.1), trace_hedge(3, late), trace_fallback()] == parts
    assert told == [("key", 1), (2, 0.1), (3, late)]
