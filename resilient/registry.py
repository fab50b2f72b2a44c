"""Names of policies, and what all of them are doing.

Policies of one kind share a name space. A name given by the user belongs to one policy; a name taken from a guarded
function passes to the newest policy that guards a function of that name, and its counters go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Protocol, TypeVar, cast

from resilient.core.checks import describe, same_setting
from resilient.core.fork import new_rlock
from resilient.core.meters import CallMeter
from resilient.errors import ConfigurationError


class Registrable(Protocol):
    """What the registry asks of a policy."""

    kind: ClassVar[str]

    @property
    def name(self) -> str | None: ...

    @property
    def settings(self) -> dict[str, object]:
        """The settings as they are compared when the name is used again."""
        ...

    def snapshot(self) -> dict[str, object]: ...

    def renew(self, newer: Any, /) -> None:
        """Use the callables of a policy made later with equal settings."""

    def count_on(self, older: Any, /) -> None:
        """Go on counting where a policy of the same name, which this one replaces, has stopped."""


P = TypeVar("P", bound=Registrable)


class Registry:
    """Policies by kind and name.

    Policies register in the default `resilient.registry` unless they are made with a registry of their own.

    Example:
        >>> from resilient import CircuitBreaker, Registry, circuit_breaker
        >>> private = Registry()
        >>> breaker = circuit_breaker("payments", registry=private)
        >>> private.find(CircuitBreaker, "payments") is breaker
        True
    """

    def __init__(self) -> None:
        self._policies: dict[tuple[str, str], Registrable] = {}
        self._given: set[tuple[str, str]] = set()
        self._meters: dict[str, CallMeter] = {}
        self._lock = new_rlock()

    def find(self, kind: type[P], name: str, /) -> P | None:
        """The policy of this class and name, or None."""
        policy = self._policies.get((kind.kind, name))
        return policy if isinstance(policy, kind) else None

    def all(self, kind: type[P], /) -> list[P]:
        """All policies of this class, in the order in which they were registered."""
        return [policy for policy in self._policies.copy().values() if isinstance(policy, kind)]

    def remove(self, kind: type[Registrable], name: str, /) -> bool:
        """Forget a policy and its metric series. Functions that it guards stay guarded. True if it was there."""
        with self._lock:
            self._given.discard((kind.kind, name))
            return self._policies.pop((kind.kind, name), None) is not None

    def clear(self) -> None:
        """Forget all policies and counters."""
        with self._lock:
            self._policies = {}
            self._given = set()
            self._meters = {}

    def __iter__(self) -> Iterator[Registrable]:
        return iter(list(self._policies.copy().values()))

    def __len__(self) -> int:
        return len(self._policies)

    def __repr__(self) -> str:
        return f"<Registry of {len(self)} policies>"

    def snapshot(self) -> dict[str, dict[str, dict[str, object]]]:
        """What every policy and pipeline is doing, in plain values that `json.dumps` accepts.

        Changes nothing and takes no lock that a call could wait for.
        """
        kinds: dict[str, dict[str, dict[str, object]]] = {}
        for (kind, name), policy in self._policies.copy().items():
            kinds.setdefault(kind, {})[name] = policy.snapshot()
        meters = self._meters.copy()
        if meters:
            kinds["pipeline"] = {name: meter.snapshot() for name, meter in meters.items()}
        return kinds

    def obtain(self, kind: str, name: str, make: Callable[[], P]) -> P:
        """The policy registered under a name that the user gave, or a new one. Settings must agree."""
        candidate = make()
        key = kind, name
        with self._lock:
            known = self._policies.get(key)
            if known is None or key not in self._given:
                if known is not None:
                    candidate.count_on(known)
                self._policies[key] = candidate
                self._given.add(key)
                return candidate
        self._check_equal(kind, name, known, candidate)
        known.renew(candidate)
        return cast("P", known)

    def adopt(self, policy: Registrable, name: str) -> None:
        """Register an unnamed policy under the name of the function that it guards."""
        key = policy.kind, name
        with self._lock:
            if key in self._given:
                return
            known = self._policies.get(key)
            if known is not None and known is not policy:
                policy.count_on(known)
            self._policies[key] = policy

    def call_meter(self, name: str) -> CallMeter:
        """The meter of the pipelines of this name."""
        meter = self._meters.get(name)
        if meter is None:
            with self._lock:
                meter = self._meters.setdefault(name, CallMeter())
        return meter

    def call_meters(self) -> dict[str, CallMeter]:
        """The meters of all pipelines, by name."""
        return self._meters.copy()

    def _check_equal(self, kind: str, name: str, known: Registrable, candidate: Registrable) -> None:
        old, new = known.settings, candidate.settings
        differing = [key for key in new if not same_setting(old[key], new[key])]
        if not differing:
            return
        shown = "; ".join(f"{key}={new[key]!r}, registered with {key}={old[key]!r}" for key in differing)
        raise ConfigurationError(
            f"{describe(kind, name)} is already registered with other settings: {shown}. Use the same settings, "
            f"another name, or registry.remove() it first",
            policy=name,
            setting=differing[0],
            value=new[differing[0]],
            allowed=f"the registered {old[differing[0]]!r}",
        )


registry = Registry()
