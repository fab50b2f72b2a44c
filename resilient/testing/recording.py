"""What policies told during a test."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from resilient.core.events import Event
from resilient.policies.base import Policy, subscribe


class RecordedEvents(list[Event]):
    """The events told since it was made; a list, and a context manager that ends the recording."""

    def __init__(self, policy: Policy | str | None, kinds: str | Iterable[str] | None) -> None:
        super().__init__()
        # A list that nobody holds any more must not go on growing.
        own = weakref.ref(self)

        def record(event: Event) -> None:
            events = own()
            if events is not None:
                events.append(event)

        self.stop = subscribe(record, policy=policy, kinds=kinds)
        weakref.finalize(self, self.stop)

    def kinds(self) -> list[str]:
        """The kinds of the events, in order."""
        return [event.kind for event in self]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        self.stop()


def record_events(*, policy: Policy | str | None = None, kinds: str | Iterable[str] | None = None) -> RecordedEvents:
    """A list that every event is appended to from now on, until it is left as a block or dropped.

    Args:
        policy: only events of this policy, or of policies of this name.
        kinds: only events of this kind or these kinds.

    Example:
        >>> from resilient import circuit_breaker
        >>> from resilient.testing import record_events
        >>> with record_events() as events:
        ...     circuit_breaker().trip()
        >>> events.kinds()
        ['circuit_state_changed']
    """
    return RecordedEvents(policy, kinds)
