"""Patching and unpatching while other threads import, patch and unpatch."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from resilient import Pipeline, Registry, patch, pipeline, retry, unpatch
from resilient.patching import _PATCHES

PATIENCE = 20.0


@pytest.fixture
def policy() -> Pipeline:
    registry = Registry()
    return pipeline("patched", retry(registry=registry), registry=registry)


def started(action: Callable[..., object], *args: object) -> threading.Thread:
    thread = threading.Thread(target=action, args=args, daemon=True)
    thread.start()
    return thread


def test_who_waits_for_an_import_stops_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: Pipeline
) -> None:
    name = f"slow_import_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(
        "import sys\n"
        "gate = sys.modules['_gate_of_the_test']\n"
        "gate.begun.set()\n"
        "gate.go_on.wait(20)\n"
        "def send():\n    return 'sent'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    gate: Any = ModuleType("_gate_of_the_test")
    gate.begun, gate.go_on = threading.Event(), threading.Event()
    monkeypatch.setitem(sys.modules, "_gate_of_the_test", gate)
    other: Any = ModuleType("_other_of_the_test")
    other.send = lambda: "sent"
    monkeypatch.setitem(sys.modules, "_other_of_the_test", other)
    importing = started(importlib.import_module, name)
    assert gate.begun.wait(PATIENCE)
    waiting = started(patch, f"{name}:send", policy)
    waiting.join(0.05)
    elsewhere = started(patch, "_other_of_the_test:send", policy)
    elsewhere.join(1.0)
    stopped = elsewhere.is_alive()
    gate.go_on.set()
    for thread in (importing, waiting, elsewhere):
        thread.join(PATIENCE)
    unpatch(f"{name}:send")
    unpatch("_other_of_the_test:send")
    del sys.modules[name]
    assert not stopped


def test_unpatching_waits_for_a_patch_that_is_under_way(monkeypatch: pytest.MonkeyPatch, policy: Pipeline) -> None:
    module: Any = ModuleType("_module_of_the_test")
    module.send = original = lambda: "sent"
    monkeypatch.setitem(sys.modules, "_module_of_the_test", module)
    guarding, go_on = threading.Event(), threading.Event()
    guard = Pipeline.__call__

    def slow_guard(self: Pipeline, function: Any, /) -> Any:
        guarding.set()
        go_on.wait(PATIENCE)
        return guard(self, function)

    monkeypatch.setattr(Pipeline, "__call__", slow_guard)
    patching = started(patch, "_module_of_the_test:send", policy)
    assert guarding.wait(PATIENCE)
    unpatching = started(unpatch, "_module_of_the_test:send")
    unpatching.join(0.05)
    go_on.set()
    patching.join(PATIENCE)
    unpatching.join(PATIENCE)
    assert module.send is original
    assert "_module_of_the_test:send" not in _PATCHES
