"""Stand-ins for objects some of whose methods go through a pipeline."""

from __future__ import annotations

import asyncio
import copy
import inspect
import pickle
import types
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from resilient import (
    CircuitOpenError,
    ConfigurationError,
    Pipeline,
    Registry,
    circuit_breaker,
    pipeline,
    retry,
)


class Client:
    """A client of a service."""

    limit = 3

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.calls: list[object] = []
        self.closed = False

    def get(self, path: str, *, query: str = "") -> str:
        """Fetch."""
        self.calls.append(path)
        if self.failures:
            self.failures -= 1
            raise ConnectionError("reset")
        return path + query

    async def fetch(self, path: str) -> str:
        await asyncio.sleep(0)
        return self.get(path)

    def items(self) -> Iterator[int]:
        yield 1

    def both(self) -> str:
        return self.get("inside")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.closed = True

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.closed = True


class Callback:
    def __call__(self, value: int) -> int:
        return value + 1

    def send(self) -> str:
        return "sent"

    def __enter__(self) -> str:
        return "something else"

    def __exit__(self, *exc_info: object) -> None: ...

    def __len__(self) -> int:
        return 7

    def __iter__(self) -> Iterator[int]:
        return iter((1, 2))

    async def __aiter__(self) -> AsyncIterator[int]:
        yield 3


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def payments(registry: Registry) -> Pipeline:
    return pipeline("payments", retry(attempts=3, backoff=0, on=ConnectionError, registry=registry), registry=registry)


def calls(registry: Registry, name: str = "payments") -> Any:
    return registry.snapshot()["pipeline"][name]["calls"]


def test_plain_and_async_methods_go_through_the_pipeline(payments: Pipeline, registry: Registry) -> None:
    client = payments.proxy(Client(failures=2), methods={"get", "fetch"})
    assert client.get("/a", query="?b") == "/a?b"
    client.failures = 2
    assert asyncio.run(client.fetch("/c")) == "/c"
    assert client.calls == ["/a"] * 3 + ["/c"] * 3
    assert calls(registry)["success"] == 2


def test_what_gives_up_raises_the_error_of_the_method(payments: Pipeline) -> None:
    client = payments.proxy(Client(failures=9), methods=["get"])
    with pytest.raises(ConnectionError, match="reset"):
        client.get("/")
    assert len(client.calls) == 3


def test_a_guarded_method_looks_like_the_method(payments: Pipeline) -> None:
    client = payments.proxy(Client(), methods={"get", "fetch"})
    assert inspect.signature(client.get) == inspect.signature(Client().get)
    assert (client.get.__name__, client.get.__doc__) == ("get", "Fetch.")
    assert inspect.iscoroutinefunction(client.fetch)
    assert not inspect.iscoroutinefunction(client.get)
    assert client.get is client.get


def test_everything_else_passes_through(payments: Pipeline, registry: Registry) -> None:
    target = Client()
    client = payments.proxy(target, methods={"get"})
    assert isinstance(client, Client)
    assert client.__class__ is Client
    assert client.limit == 3
    assert client.calls is target.calls
    assert list(client.items()) == [1]
    assert client.both() == "inside"
    assert calls(registry)["success"] == 0
    client.closed = True
    assert target.closed
    del client.closed
    assert not hasattr(target, "closed")
    with pytest.raises(AttributeError):
        client.nothing  # type: ignore[attr-defined]  # noqa: B018
    assert client == target
    assert hash(client) == hash(target)
    assert dir(client) == dir(target)


def test_a_method_that_is_replaced_is_guarded_too(payments: Pipeline) -> None:
    target = Client()
    client = payments.proxy(target, methods={"get"})
    failures = [ConnectionError(), ConnectionError()]

    def other(path: str) -> str:
        if failures:
            raise failures.pop()
        return "other"

    client.get = other  # type: ignore[assignment, method-assign]
    assert target.get is other  # type: ignore[comparison-overlap]
    assert client.get("/") == "other"
    del client.get
    assert client.get("/") == "/"


def test_a_block_over_the_proxy_is_given_the_proxy(payments: Pipeline) -> None:
    with payments.proxy(Client(failures=2), methods={"get"}) as client:
        assert client.get("/") == "/"
        assert not client.closed
    assert client.closed

    async def main() -> None:
        async with payments.proxy(Client(failures=2), methods={"fetch"}) as client:
            assert await client.fetch("/") == "/"
        assert client.closed

    asyncio.run(main())


def test_special_methods_pass_through_where_the_object_has_them(payments: Pipeline) -> None:
    callback = payments.proxy(Callback(), methods={"send"})
    assert callback(1) == 2
    assert len(callback) == 7
    assert list(callback) == [1, 2]
    with callback as entered:
        assert entered == "something else"

    async def main() -> list[int]:
        return [item async for item in callback]

    assert asyncio.run(main()) == [3]
    assert not callable(payments.proxy(Client(), methods={"get"}))
    assert not hasattr(type(payments.proxy(Client(), methods={"get"})), "__aiter__")


def test_a_module_can_stand_behind_a_proxy(payments: Pipeline, registry: Registry) -> None:
    module = types.ModuleType("service")
    module.get = lambda: "got"  # type: ignore[attr-defined]
    assert payments.proxy(module, methods={"get"}).get() == "got"
    assert calls(registry)["success"] == 1


def test_methods_of_builtin_types_are_guarded_once(payments: Pipeline) -> None:
    items = payments.proxy([3, 1], methods={"append"})
    assert items.append is items.append
    items.append(2)
    assert sorted(items) == [1, 2, 3]


def test_a_copy_guards_a_copy(payments: Pipeline, registry: Registry) -> None:
    target = Client()
    for copied in (copy.copy, copy.deepcopy):
        other = copied(payments.proxy(target, methods={"get"}))
        assert other.__wrapped__ is not target  # type: ignore[attr-defined]
        other.failures = 2
        assert other.get("/") == "/"
        assert target.failures == 0
    assert calls(registry)["success"] == 2


def test_pickling_is_refused_with_what_to_pickle_instead(payments: Pipeline) -> None:
    client = payments.proxy(Client(), methods={"get"})
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match=r"pickle proxy.__wrapped__"):
            pickle.dumps(client, protocol)


def test_a_single_policy_makes_proxies_too(registry: Registry) -> None:
    breaker = circuit_breaker("payments", consecutive_failures=1, registry=registry)
    client = breaker.proxy(Client(failures=1), methods={"get", "fetch"})
    with pytest.raises(ConnectionError):
        client.get("/")
    with pytest.raises(CircuitOpenError):
        asyncio.run(client.fetch("/"))


def test_an_unnamed_policy_is_named_after_the_first_method_in_the_alphabet(registry: Registry) -> None:
    breaker = circuit_breaker(registry=registry)
    breaker.proxy(Client(), methods={"get", "fetch", "both"})
    assert breaker.name == f"{__name__}.Client.both"


def test_a_method_that_can_not_be_guarded_is_refused_at_once(payments: Pipeline) -> None:
    with pytest.raises(TypeError, match="can't be taken back"):
        payments.proxy(Client(), methods={"get", "items"})


@pytest.mark.parametrize(
    "target, methods, setting",
    [
        (Client(), "get", "methods"),
        (types.SimpleNamespace(g=len), "g", "methods"),
        (Client(), set(), "methods"),
        (Client(), None, "methods"),
        (Client(), iter(["get"]), "methods"),
        (Client(), {"missing"}, "methods"),
        (Client(), {"limit"}, "methods"),
        (Client(), {"__enter__"}, "methods"),
        (Client(), [3], "methods"),
        (Client, {"get"}, "target"),
    ],
)
def test_wrong_settings_are_refused(payments: Pipeline, target: Any, methods: Any, setting: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        payments.proxy(target, methods=methods)
    assert caught.value.setting == setting
    assert "payments" in str(caught.value)


def test_proxies_of_one_pipeline_share_its_state(registry: Registry) -> None:
    shared = pipeline("shared", circuit_breaker(consecutive_failures=1, registry=registry), registry=registry)
    one, other = (shared.proxy(Client(failures=1), methods={"get"}) for _ in range(2))
    with pytest.raises(ConnectionError):
        one.get("/")
    with pytest.raises(CircuitOpenError):
        other.get("/")


def test_the_methods_keep_no_proxy_alive(payments: Pipeline) -> None:
    import gc
    import weakref

    make: Callable[[], Client] = lambda: payments.proxy(Client(), methods={"get"})  # noqa: E731
    target = make().__wrapped__  # type: ignore[attr-defined]
    ref = weakref.ref(target)
    del target
    gc.collect()
    assert ref() is None
