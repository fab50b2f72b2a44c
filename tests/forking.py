"""Programs that fork, run by tests in processes of their own."""

from __future__ import annotations

import os


def unmeasured() -> dict[str, str]:
    """The environment without coverage: the tracer locks, and a child forked meanwhile by another thread would hang."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
