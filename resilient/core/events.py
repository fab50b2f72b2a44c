"""What policies tell about themselves, and who listens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from resilient.core.checks import refuse
from resilient.core.fork import new_rlock

KINDS: Final = frozenset(
    {
        "call_rejected",
        "circuit_state_changed",
        "retry_scheduled",
        "retry_exhausted",
        "timed_out",
        "fallback_applied",
        "hedge_started",
        "limit_changed",
        "degradation_changed",
        "fault_injected",
    }
)


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that a policy did.

    Attributes:
        kind: what happened, one of the kinds that `subscribe` takes.
        policy_kind: "retry", "circuit_breaker", ...
        policy: the policy's name.
        operation: name of the pipeline or guarded function; None where nobody called (a breaker tripped by hand).
        at: the instant, in seconds of the monotonic clock.
        data: what there is to say about this kind; never arguments, results or exception messages.
    """

    kind: str
    policy_kind: str
    policy: str
    operation: str | None
    at: float
    data: Mapping[str, object] = field(default_factory=dict)


Listener = Callable[[Event], object]


class _Subscription:
    __slots__ = ("failed", "kinds", "listener", "policy")

    def __init__(self, listener: Listener, policy: str | None, kinds: frozenset[str] | None) -> None:
        self.listener = listener
        self.policy = policy
        self.kinds = kinds
        self.failed = False

    def wants(self, event: Event) -> bool:
        return (self.policy is None or self.policy == event.policy) and (self.kinds is None or event.kind in self.kinds)


# One for all: held for an instant, and policies are many. Its thread may take it again: the garbage collector may run
# anywhere, and takes listeners away whose owners are gone.
_CHANGING: Final = new_rlock()


class Subscriptions:
    """Listeners in the order in which they came. Read without a lock: a change makes a new tuple."""

    __slots__ = ("active",)

    def __init__(self) -> None:
        self.active: tuple[_Subscription, ...] = ()

    def add(self, listener: Listener, policy: str | None, kinds: Iterable[str] | None) -> Callable[[], None]:
        if not callable(listener):
            refuse("subscribe", "listener", listener, "a function that takes an Event")
        subscription = _Subscription(listener, policy, None if kinds is None else _checked(kinds))
        self._change(lambda active: (*active, subscription))

        def unsubscribe() -> None:
            self._change(lambda active: tuple(other for other in active if other is not subscription))

        return unsubscribe

    def _change(self, changed: Callable[[tuple[_Subscription, ...]], tuple[_Subscription, ...]]) -> None:
        while True:
            before = self.active
            after = changed(before)
            with _CHANGING:
                if self.active is before:
                    self.active = after
                    return

    def tell(self, event: Event) -> None:
        for subscription in self.active:
            if subscription.wants(event):
                try:
                    subscription.listener(event)
                except Exception:  # noqa: BLE001 - a listener must not change the outcome of a call
                    _log_once(subscription, event)


def _checked(kinds: object) -> frozenset[str]:
    wanted = (kinds,) if isinstance(kinds, str) else tuple(kinds) if isinstance(kinds, Iterable) else ()
    known = [kind for kind in wanted if isinstance(kind, str) and kind in KINDS]
    if not wanted or len(known) < len(wanted):
        refuse("subscribe", "kinds", kinds, "some of " + ", ".join(sorted(KINDS)))
    return frozenset(known)


def _log_once(subscription: _Subscription, event: Event) -> None:
    if subscription.failed:
        return
    subscription.failed = True
    import logging

    logging.getLogger("resilient").exception(
        "listener %r failed on %s of %s %r; its errors are ignored from here on",
        subscription.listener,
        event.kind,
        event.policy_kind,
        event.policy,
    )


EVERYTHING: Final = Subscriptions()


class _Log:
    """Where events become log lines; nowhere, as long as nobody has put himself here.

    `wants(kind, policy_kind, policy, at)` is asked before an event is made, and may count what it lets pass unwritten.
    """

    __slots__ = ("wants", "write")

    def __init__(self) -> None:
        self.wants: Callable[[str, str, str, float], bool] = lambda kind, policy_kind, policy, at: False
        self.write: Callable[[Event], None] = lambda event: None


LOG: Final = _Log()

Item = TypeVar("Item")


class Outbox(Generic[Item]):
    """Tells what has gathered in a queue in the order of the queue, outside all locks.

    Whoever finds nobody telling tells all that is there; others leave theirs behind and go on.
    """

    __slots__ = ("_tell", "_telling", "_waiting")

    def __init__(self, waiting: list[Item], tell: Callable[[Item], object]) -> None:
        self._waiting = waiting
        self._tell = tell
        self._telling = False

    def after_fork(self, now: float) -> None:
        """Who was telling is not there any more, and what waited is told in the parent."""
        self._telling = False
        self._waiting.clear()

    def flush(self) -> None:
        while True:
            mine = False
            try:
                with _CHANGING:
                    if self._telling or not self._waiting:
                        return
                    self._telling = mine = True
                while self._waiting:
                    self._tell(self._waiting.pop(0))
            finally:
                if mine:
                    self._telling = False
