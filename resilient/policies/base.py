"""What all policies share: a name, a registry, listeners, and their faces."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any, ClassVar, Protocol, Self

from resilient.core.checks import describe, refuse
from resilient.core.clock import CLOCK
from resilient.core.events import EVERYTHING, LOG, Event, Listener, Subscriptions
from resilient.core.fork import renew_after_fork
from resilient.fused import Fragment
from resilient.operation import AsyncCall, Call, Operation, Scope, SyncCall
from resilient.pipeline import Faces, Pipeline
from resilient.registry import Registry


class Settings(Protocol):
    """A frozen dataclass of checked settings."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


class Policy(Faces):
    """Base of all policies.

    A policy is made once, holds its own state, and may be shared by any number of threads, event loops and tasks,
    synchronous and asynchronous callers together.
    """

    __slots__ = ("__weakref__", "_alone", "_name", "_registry", "_settings", "_subscriptions")

    kind: ClassVar[str]

    def __init__(self, name: str | None, settings: Settings, registry: Registry) -> None:
        self._name = name
        self._settings: Any = settings
        self._registry = registry
        self._subscriptions = Subscriptions()
        # Made here and not on first use, so that threads which come first together share its open blocks.
        self._alone = Pipeline(None, (self,), registry)
        renew_after_fork(self)

    def after_fork(self, now: float) -> None:
        """In the child: everything that it is made of begins anew."""
        for cls in type(self).__mro__:
            for slot in cls.__dict__.get("__slots__", ()):
                renew = getattr(getattr(self, slot, None), "after_fork", None)
                if renew is not None:
                    renew(now)

    @property
    def name(self) -> str | None:
        """The name that it was given, or that it took from the first function it guards; None before that."""
        return self._name

    @property
    def settings(self) -> dict[str, object]:
        """The settings in force, by name."""
        return {field.name: getattr(self._settings, field.name) for field in fields(self._settings)}

    def subscribe(self, listener: Listener, *, kinds: str | Iterable[str] | None = None) -> Callable[[], None]:
        """Call `listener` with every event of this policy; gives back what ends it. See `resilient.subscribe`."""
        return self._subscriptions.add(listener, None, kinds)

    def snapshot(self) -> dict[str, object]:
        """What the policy is doing, in plain values; takes no lock and changes nothing."""
        raise NotImplementedError  # every policy has its own

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name or 'unnamed'}>"

    def _pipeline(self) -> Pipeline:
        return self._alone

    def wrap_sync(self, call: SyncCall, operation: Operation) -> SyncCall:
        raise NotImplementedError  # every policy has its own

    def wrap_async(self, call: AsyncCall, operation: Operation) -> AsyncCall:
        raise NotImplementedError  # every policy has its own

    def straight(self, operation: Operation, own: Call, inner: Call, asynchronous: bool) -> Fragment | None:
        """What it does around a call that goes well, as source; None: always call `own`, what `wrap_*` gave."""
        return None

    def scope(self, operation: Operation) -> Scope:
        raise TypeError(self.refusal("block"))

    def refusal(self, use: str) -> str | None:
        return None

    def claim(self, name: str) -> None:
        """Take the name of the first function guarded."""
        self._name = name
        self._registry.adopt(self, name)

    def registered(self, name: str) -> Self:
        """Register under a name that the user gave: this policy, or the one that has it already."""
        policy = self._registry.obtain(self.kind, name, lambda: self)
        policy._name = name
        return policy

    def renew(self, newer: Any, /) -> None:
        self._settings = newer._settings

    def count_on(self, older: Any, /) -> None:
        raise NotImplementedError  # every policy has its own

    def _shown(self) -> str:
        return describe(self.kind, self._name)

    def _tell(self, kind: str, operation: str | None, data: Mapping[str, object], at: float | None = None) -> None:
        tell = self._hearing(kind, CLOCK.now() if at is None else at)
        if tell is not None:
            tell(operation, data)

    def _hearing(self, kind: str, at: float) -> Callable[[str | None, Mapping[str, object]], None] | None:
        """What tells those who want to hear of an event of this kind, its operation and data; None: nobody does."""
        name = self._name or self.kind
        logged = LOG.wants(kind, self.kind, name, at)
        if not logged and not self._subscriptions.active and not EVERYTHING.active:
            return None

        def tell(operation: str | None, data: Mapping[str, object]) -> None:
            event = Event(kind, self.kind, name, operation, at, data)
            self._subscriptions.tell(event)
            EVERYTHING.tell(event)
            if logged:
                LOG.write(event)

        return tell


def subscribe(
    listener: Listener, *, policy: Policy | str | None = None, kinds: str | Iterable[str] | None = None
) -> Callable[[], None]:
    """Call `listener` with every `Event`, on the thread where it happens; gives back a function that ends it.

    Listeners run outside all locks and in order. What they raise is logged once and changes no call.

    Args:
        listener: a function of one `Event`.
        policy: only events of this policy, or of policies of this name.
        kinds: only events of this kind or these kinds.

    Raises:
        ConfigurationError: a kind that there is not, or a listener that can't be called.

    Example:
        >>> from resilient import subscribe
        >>> stop = subscribe(print, kinds="circuit_state_changed")
        >>> stop()
    """
    if isinstance(policy, Policy):
        return policy.subscribe(listener, kinds=kinds)
    if policy is not None and not isinstance(policy, str):
        refuse("subscribe", "policy", policy, "a policy, the name of one, or None")
    return EVERYTHING.add(listener, policy, kinds)
