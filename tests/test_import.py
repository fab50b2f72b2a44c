"""What `import resilient` costs and shows."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

import resilient
import resilient.backoff
import resilient.deadline
import resilient.testing

HEAVY = ("anyio", "asyncio", "wrapt", "structlog", "prometheus_client", "opentelemetry", "trio", "rich", "pytest")
MODULES = (resilient, resilient.backoff, resilient.deadline, resilient.testing)
PUBLIC = [(module, name) for module in MODULES for name in module.__all__]
MEMBERS = {
    resilient.Policy: ("name", "settings", "snapshot", "subscribe", "call", "call_async", "__call__"),
    resilient.CircuitBreaker: ("state", "snapshot", "trip", "force_open", "disable", "reset"),
    resilient.Retry: ("snapshot", "__iter__", "__aiter__"),
    resilient.Timeout: ("seconds", "snapshot"),
    resilient.Pipeline: ("call", "call_async", "__call__"),
    resilient.Registry: ("find", "all", "remove", "clear", "snapshot"),
    resilient.Deadline: ("remaining", "expired"),
    resilient.Attempt: ("next_delay",),
    resilient.RetryBudget: ("snapshot",),
    resilient.testing.FakeClock: ("now", "advance"),
    resilient.testing.RecordedEvents: ("kinds",),
}
METHODS = [
    pytest.param(owner, name, id=f"{owner.__name__}.{name}") for owner, names in MEMBERS.items() for name in names
]


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()


def test_importing_it_imports_nothing_heavy() -> None:
    assert run(f"import sys, resilient; print([name for name in {HEAVY!r} if name in sys.modules])") == "[]"


def test_guarding_plain_code_imports_nothing_heavy() -> None:
    program = f"""
import sys
from resilient import circuit_breaker, registry, retry, standard_pipeline, subscribe, timeout
@standard_pipeline("payments")
def pay(): return 1
pay()
with circuit_breaker("orders"), timeout(5.0): pass
for attempt in retry(attempts=2):
    with attempt: pass
subscribe(print)()
registry.snapshot()
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    assert run(program) == "[]"


def test_guarding_async_code_does_not_import_the_loop_before_it_runs() -> None:
    program = f"""
import sys, resilient
@resilient.timeout(5.0)
async def fetch(): return 1
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    assert run(program) == "[]"


@pytest.mark.parametrize("module, name", PUBLIC, ids=[f"{module.__name__}.{name}" for module, name in PUBLIC])
def test_every_public_name_is_there_and_documented(module: Any, name: str) -> None:
    thing = getattr(module, name)
    if isinstance(thing, (type, FunctionType)):
        assert inspect.getdoc(thing)
        assert thing.__doc__, "a docstring of its own, not of its base"


@pytest.mark.parametrize("owner, name", METHODS)
def test_every_public_method_is_documented(owner: type, name: str) -> None:
    assert inspect.getdoc(getattr(owner, name))


def test_the_names_are_sorted_and_each_is_there_once() -> None:
    for module in MODULES:
        assert sorted(set(module.__all__)) == sorted(module.__all__)
    assert resilient.__all__ == sorted(resilient.__all__)


def test_star_import_gives_the_public_names_and_no_more() -> None:
    namespace: dict[str, Any] = {}
    exec("from resilient import *", namespace)
    namespace.pop("__builtins__")
    assert set(namespace) == set(resilient.__all__)


def test_the_package_shows_its_names_on_one_screen() -> None:
    lines = Path(inspect.getfile(resilient)).read_text().splitlines()
    assert len(lines) <= 80


def test_the_package_is_marked_as_typed() -> None:
    assert Path(inspect.getfile(resilient)).with_name("py.typed").is_file()


def test_every_error_is_public() -> None:
    import resilient.errors

    errors = {name for name, thing in vars(resilient.errors).items() if isinstance(thing, type) and "Error" in name}
    assert errors <= set(resilient.__all__)
