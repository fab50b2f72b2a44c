"""Guarding functions of other people's modules, imported before or after."""

from __future__ import annotations

import asyncio
import importlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from resilient import (
    CircuitOpenError,
    ConfigurationError,
    Pipeline,
    Registry,
    circuit_breaker,
    patch,
    pipeline,
    retry,
    unpatch,
)
from resilient.patching import _PATCHES

SOURCE = '''
"""Somebody else's module."""

failures = 0

def send(text="x"):
    """Send."""
    global failures
    if failures:
        failures -= 1
        raise ConnectionError("reset")
    return "sent " + text

async def send_async(text="x"):
    return send(text)

class Base:
    def inherited(self):
        return send("inherited"), type(self).__name__

    @classmethod
    def inherited_class(cls):
        return send("inherited class"), cls.__name__

class Client(Base):
    def method(self, text="m"):
        return send(text)

    async def method_async(self, text="m"):
        return send(text)

    @staticmethod
    def static(text="s"):
        return send(text)

    @classmethod
    def of_class(cls, text="c"):
        return send(text), cls.__name__

    @property
    def value(self):
        return 1

    def items(self):
        yield 1

    class Inner:
        def deep(self):
            return send("deep")

class Child(Client):
    pass

client = Client()
number = 3
'''


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def policy(registry: Registry) -> Pipeline:
    return pipeline("patched", retry(attempts=3, backoff=0, on=ConnectionError, registry=registry), registry=registry)


@pytest.fixture
def name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module that can be imported and has not been."""
    name = f"third_party_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    for target in list(_PATCHES):
        if target.startswith(name):
            try:
                unpatch(target)
            except ConfigurationError:
                pass
    sys.modules.pop(name, None)


@pytest.fixture
def module(name: str) -> Any:
    return importlib.import_module(name)


def guarded_calls(registry: Registry) -> int:
    meters: Any = registry.snapshot().get("pipeline", {}).get("patched")
    return 0 if meters is None else sum(meters["calls"].values())


USES: dict[str, tuple[Callable[[Any], Any], object]] = {
    "send": (lambda module: module.send("a"), "sent a"),
    "send_async": (lambda module: asyncio.run(module.send_async("a")), "sent a"),
    "Client.method": (lambda module: module.Client().method("b"), "sent b"),
    "Client.method_async": (lambda module: asyncio.run(module.Client().method_async("b")), "sent b"),
    "Client.static": (lambda module: (module.Client.static("d"), module.Client().static("d")), ("sent d", "sent d")),
    "Client.of_class": (
        lambda module: (module.Child.of_class("e"), module.Client().of_class("e")),
        (("sent e", "Child"), ("sent e", "Client")),
    ),
    "Client.inherited": (lambda module: module.Client().inherited(), ("sent inherited", "Client")),
    "Client.inherited_class": (lambda module: module.Child.inherited_class(), ("sent inherited class", "Child")),
    "Client.Inner.deep": (lambda module: module.Client.Inner().deep(), "sent deep"),
    "client.method": (lambda module: module.client.method("f"), "sent f"),
}


def state(module: ModuleType) -> list[dict[str, object]]:
    """All that a patch could change."""
    classes: list[Any] = [module.Base, module.Client, module.Child, module.Client.Inner]
    return [dict(vars(thing)) for thing in (module, *classes, module.client)]


@pytest.mark.parametrize("path", USES)
@pytest.mark.parametrize("when", ["before", "after"])
def test_what_is_patched_goes_through_the_policy_until_it_is_unpatched(
    path: str, when: str, name: str, policy: Pipeline, registry: Registry
) -> None:
    use, expected = USES[path]
    if when == "before":
        importlib.import_module(name)
    patch(f"{name}:{path}", policy)
    module = importlib.import_module(name)
    module.failures = 2
    assert use(module) == expected
    count = guarded_calls(registry)
    assert count in (1, 2)
    unpatch(f"{name}:{path}")
    assert use(module) == expected
    assert guarded_calls(registry) == count


@pytest.mark.parametrize("path", USES)
def test_unpatching_restores_everything_exactly(path: str, module: Any, name: str, policy: Pipeline) -> None:
    before = state(module)
    patch(f"{name}:{path}", policy)
    assert state(module) != before
    unpatch(f"{name}:{path}")
    assert state(module) == before
    assert all(
        new[key] is old[key] for new, old in zip(state(module), before, strict=True) for key in old if key != "failures"
    )


def test_a_patched_method_of_a_base_class_is_left_alone(module: Any, name: str, policy: Pipeline) -> None:
    original = module.Base.inherited
    patch(f"{name}:Client.inherited", policy)
    assert module.Base.inherited is original
    assert "inherited" in vars(module.Client)


def test_a_patched_function_looks_like_the_function(module: Any, name: str, policy: Pipeline) -> None:
    patch(f"{name}:send", policy)
    assert (module.send.__name__, module.send.__doc__, module.send.__module__) == ("send", "Send.", name)
    patch(f"{name}:send_async", policy)
    assert asyncio.iscoroutinefunction(module.send_async)


def test_unpatching_before_the_import_leaves_the_module_alone(name: str, policy: Pipeline) -> None:
    patch(f"{name}:send", policy)
    unpatch(f"{name}:send")
    assert not hasattr(importlib.import_module(name).send, "__resilient__")


def test_a_target_that_is_patched_unpatched_and_patched_is_guarded_once(
    name: str, policy: Pipeline, registry: Registry
) -> None:
    for _ in range(3):
        patch(f"{name}:send", policy)
        unpatch(f"{name}:send")
    patch(f"{name}:send", policy)
    module = importlib.import_module(name)
    assert module.send() == "sent x"
    assert guarded_calls(registry) == 1
    assert module.send.__resilient__.policies == policy.policies


def test_two_targets_of_a_module_are_patched_apart(name: str, policy: Pipeline) -> None:
    patch(f"{name}:send", policy)
    patch(f"{name}:Client.method", policy)
    module = importlib.import_module(name)
    unpatch(f"{name}:send")
    assert not hasattr(module.send, "__resilient__")
    assert hasattr(module.Client.method, "__resilient__")


@pytest.mark.parametrize("when", ["before", "after"])
def test_patching_twice_is_refused(when: str, name: str, policy: Pipeline, registry: Registry) -> None:
    if when == "before":
        importlib.import_module(name)
    patch(f"{name}:send", policy)
    with pytest.raises(ConfigurationError, match="unpatch it first"):
        patch(f"{name}:send", circuit_breaker(registry=registry))
    module = importlib.import_module(name)
    module.failures = 2
    assert module.send() == "sent x"


def test_unpatching_what_was_not_patched_is_refused(name: str, policy: Pipeline) -> None:
    with pytest.raises(ConfigurationError, match="given to patch"):
        unpatch(f"{name}:send")
    patch(f"{name}:send", policy)
    unpatch(f"{name}:send")
    with pytest.raises(ConfigurationError, match="given to patch"):
        unpatch(f"{name}:send")


def test_what_somebody_else_has_replaced_since_is_left_as_it_is(module: Any, name: str, policy: Pipeline) -> None:
    patch(f"{name}:send", policy)
    module.send = other = lambda: "other"
    with pytest.raises(ConfigurationError, match="stays as it is"):
        unpatch(f"{name}:send")
    assert module.send is other
    patch(f"{name}:send", policy)
    assert module.send() == "other"


def test_a_reloaded_module_can_be_patched_again(module: Any, name: str, policy: Pipeline) -> None:
    patch(f"{name}:send", policy)
    importlib.reload(module)
    assert not hasattr(module.send, "__resilient__")
    with pytest.raises(ConfigurationError):
        unpatch(f"{name}:send")
    patch(f"{name}:send", policy)
    assert hasattr(module.send, "__resilient__")


@pytest.mark.parametrize("path", ["nothing", "Client.nothing", "nothing.method", "number", "Client", "Client.value"])
def test_what_can_not_be_guarded_is_refused_and_forgotten(path: str, module: Any, name: str, policy: Pipeline) -> None:
    before = state(module)
    for _ in range(2):
        with pytest.raises(ConfigurationError) as caught:
            patch(f"{name}:{path}", policy)
        assert caught.value.setting == "target"
        assert state(module) == before
    assert f"{name}:{path}" not in _PATCHES


def test_a_kind_of_function_that_the_policy_refuses_is_refused(module: Any, name: str, policy: Pipeline) -> None:
    with pytest.raises(ConfigurationError, match="can't be taken back"):
        patch(f"{name}:Client.items", policy)


def test_methods_of_builtin_types_are_refused(policy: Pipeline) -> None:
    with pytest.raises(ConfigurationError, match="can be replaced"):
        patch("builtins:str.upper", policy)
    assert str.upper("a") == "A"


def test_for_a_module_that_is_imported_later_the_import_raises(name: str, policy: Pipeline) -> None:
    patch(f"{name}:nothing", policy)
    with pytest.raises(ConfigurationError, match="has no attribute 'nothing'"):
        importlib.import_module(name)
    assert f"{name}:nothing" not in _PATCHES
    assert importlib.import_module(name).send() == "sent x"


def test_a_policy_that_guards_the_function_already_is_refused_and_forgotten(
    module: Any, name: str, policy: Pipeline
) -> None:
    module.send = policy(module.send)
    with pytest.raises(ConfigurationError, match="each policy object once"):
        patch(f"{name}:send", policy)
    assert f"{name}:send" not in _PATCHES


@pytest.mark.parametrize("target", ["send", "a.b.c", ":send", "module:", "a:b:c", "a b:c", "a:b..c", "1a:b", None, 3])
def test_malformed_targets_are_refused(target: Any, policy: Pipeline) -> None:
    with pytest.raises(ConfigurationError) as caught:
        patch(target, policy)
    assert caught.value.setting == "target"


def test_what_is_no_policy_is_refused(name: str) -> None:
    for wrong in (retry, None, "payments"):
        with pytest.raises(ConfigurationError) as caught:
            patch(f"{name}:send", wrong)  # type: ignore[arg-type]
        assert caught.value.setting == "policy"
    assert f"{name}:send" not in _PATCHES


def test_a_single_policy_will_do(module: Any, name: str, registry: Registry) -> None:
    breaker = circuit_breaker(consecutive_failures=1, registry=registry)
    patch(f"{name}:send", breaker)
    module.failures = 1
    with pytest.raises(ConnectionError):
        module.send()
    with pytest.raises(CircuitOpenError):
        module.send()
    assert breaker.name == f"{name}.send"


def test_of_many_threads_one_patches_and_one_unpatches(module: Any, name: str, policy: Pipeline) -> None:
    original = module.send
    for _ in range(30):
        start = threading.Barrier(6)
        done: list[str] = []

        def contend(action: Callable[[], object], start: threading.Barrier = start, done: list[str] = done) -> None:
            start.wait()
            try:
                action()
            except ConfigurationError:
                return
            done.append("done")

        for action in (lambda: patch(f"{name}:send", policy), lambda: unpatch(f"{name}:send")):
            done.clear()
            threads = [threading.Thread(target=contend, args=[action]) for _ in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert done == ["done"]
        assert module.send is original


def test_patching_while_another_thread_imports_the_module_guards_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: Pipeline
) -> None:
    """The module is in `sys.modules` as soon as its import begins, and has no functions yet."""
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
    importing = threading.Thread(target=importlib.import_module, args=[name])
    importing.start()
    assert gate.begun.wait(20)
    patching = threading.Thread(target=patch, args=[f"{name}:send", policy])
    patching.start()
    patching.join(0.05)
    gate.go_on.set()
    importing.join(20)
    patching.join(20)
    assert hasattr(sys.modules[name].send, "__resilient__")
    unpatch(f"{name}:send")
    del sys.modules[name]


def test_importing_the_package_loads_neither_wrapt_nor_an_event_loop() -> None:
    code = (
        "import sys, resilient\n"
        "from resilient import hedge, patch, percentile, throttle\n"
        "hedge(delay=percentile(0.9)); throttle()\n"
        "hedge(delay=1).call(str)\n"
        "print([name for name in ('anyio', 'asyncio', 'trio', 'wrapt') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
