"""Degradation: a service turns features down by itself while it is under pressure, and up again afterwards."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any, ClassVar, NoReturn, Self, TypeVar, overload

from resilient.core.checks import Checker, Seconds, contradiction, describe, refuse
from resilient.core.clock import CLOCK
from resilient.core.events import EVERYTHING, LOG, Event, Listener, Outbox, Subscriptions
from resilient.core.fork import new_lock, renew_after_fork
from resilient.core.levels import Change, Levels, Signal
from resilient.degradation.features import Features
from resilient.degradation.settings import DegradationSettings, check_levels, check_name, check_thresholds
from resilient.degradation.source import Source
from resilient.policies.degradable import Degradable, DegradableSettings
from resilient.policies.sheddable import PRIORITIES, Priority, Sheddable, SheddableSettings, refused_at
from resilient.registry import Registry
from resilient.registry import registry as default_registry

D = TypeVar("D")


class Degradation:
    """Levels of service, from full to least, and the pressure that decides between them.

    Signals are read when somebody asks for the level or for a feature, at most every `interval` seconds, on the thread
    of whoever asks. Between two readings an answer costs next to nothing.

    Args:
        levels: names, from full service to the least; at least two.
        up_after: a level is taken on when a signal has asked for it so many seconds without a break.
        down_after: the next lower level follows when no signal has asked for the present one for so many seconds.
        interval: seconds for which what was read holds.
        name: shared by all who give it; the settings must then be equal. Default: "degradation" in events and in the
            registry, where a later one without a name takes its place.
        registry: where the name is registered.

    Raises:
        ConfigurationError: a setting is wrong, or the name has other settings already.

    Example:
        >>> from resilient.degradation import Degradation
        >>> from resilient.degradation.signals import bulkhead_fill, open_breakers
        >>> degradation = Degradation()
        >>> degradation.signal("breakers", open_breakers(), enter=(0.3, 0.6))
        >>> degradation.signal("bulkheads", bulkhead_fill())
        >>> @degradation.degradable("recommendations", off_at="reduced", fallback=())
        ... def recommendations(user: str) -> tuple[str, ...]:
        ...     return ("a book",)
        >>> recommendations("anna")
        ('a book',)
        >>> degradation.force_level("minimal")
        >>> recommendations("anna")
        ()
    """

    __slots__ = (
        "__weakref__",
        "_due",
        "_features",
        "_last_change",
        "_levels",
        "_lock",
        "_name",
        "_outbox",
        "_queue",
        "_read_at",
        "_reading",
        "_registry",
        "_settings",
        "_shed",
        "_since",
        "_sources",
        "_subscriptions",
    )

    kind: ClassVar[str] = "degradation"

    # Not __init__, so that a name gives the one degradation that has it, as with the factories of policies.
    def __new__(
        cls,
        levels: Sequence[str] = ("normal", "reduced", "minimal"),
        *,
        up_after: Seconds = 1.0,
        down_after: Seconds = 10.0,
        interval: Seconds = 0.5,
        name: str | None = None,
        registry: Registry = default_registry,
    ) -> Self:
        check = Checker(cls.kind, name)
        settings = DegradationSettings(
            levels=check_levels(check, levels),
            up_after=check.seconds("up_after", up_after, zero=True),
            down_after=check.seconds("down_after", down_after, zero=True),
            interval=check.seconds("interval", interval),
        )
        check.instance("registry", registry, Registry)
        made = super().__new__(cls)
        made._begin(name, settings, registry)
        if name is None:
            registry.adopt(made, cls.kind)
            return made
        return registry.obtain(cls.kind, name, lambda: made)

    def _begin(self, name: str | None, settings: DegradationSettings, registry: Registry) -> None:
        self._name = name
        self._settings = settings
        self._registry = registry
        self._subscriptions = Subscriptions()
        self._levels = Levels(len(settings.levels), settings.up_after, settings.down_after)
        self._sources: dict[str, Source] = {}
        self._features = Features()
        # Replaced as a whole, so that it is read without the lock.
        self._shed: dict[str, bool] = dict.fromkeys(PRIORITIES, False)
        self._since = CLOCK.now()
        self._read_at = self._due = float("inf")
        self._reading = False
        self._last_change: dict[str, object] | None = None
        self._queue: list[tuple[float, dict[str, object]]] = []
        self._outbox = Outbox(self._queue, self._tell)
        self._lock = new_lock()
        renew_after_fork(self)

    def __repr__(self) -> str:
        return f"<Degradation {self._name or 'unnamed'} at {self.levels[self._levels.level]}>"

    @property
    def name(self) -> str:
        """The name in events, metrics and the registry."""
        return self._name or self.kind

    @property
    def settings(self) -> dict[str, object]:
        """The settings in force, by name."""
        return asdict(self._settings)

    @property
    def levels(self) -> tuple[str, ...]:
        """The names of all levels, from full service to the least."""
        return self._settings.levels

    @property
    def level(self) -> str:
        """The name of the level in force; reads the signals where that is due."""
        self._refresh()
        return self.levels[self._levels.level]

    def signal(
        self, name: str, read: Callable[[], float], enter: Sequence[float] = (0.7, 0.9), leave_gap: float = 0.15
    ) -> None:
        """Let a number decide on the level: `read()` gives it, from 0 (all is well) to 1.

        Args:
            name: how it is called in events and in the snapshot. Given again with the same thresholds, the newer
                `read` is used.
            read: called at most every `interval` seconds; must be quick. Values beyond 0 and 1 are cut off. While it
                raises, or gives NaN or no number, the signal is ignored, and the snapshot says so.
            enter: for each level but the first, the value from which on it is asked for, in ascending order.
            leave_gap: a level that was entered is asked for until the value is so far below.

        Raises:
            ConfigurationError: a setting is wrong, or the signal has other thresholds already.
        """
        check = check_name("signal", name)
        check.function("read", read, "a plain function () -> float")
        thresholds = check_thresholds(check.policy, enter, leave_gap, self._levels.highest)
        with self._lock:
            known = self._levels.signals.get(name)
            if known is None:
                self._sources = {**self._sources, name: Source(read)}
                self._levels.signals[name] = Signal(thresholds, float(leave_gap))
                self._read_at = self._due = float("inf")
            elif (known.enter, known.leave_gap) == (thresholds, leave_gap):
                self._sources[name].read = read
                return
        if known is not None:
            given = (known.enter, known.leave_gap), (thresholds, leave_gap)
            contradiction(check.policy, "two with other thresholds", given, "one signal has a name")

    def feature(self, name: str, *, off_at: str) -> None:
        """Declare a feature that `is_active(name)` is asked about; it is off from the level `off_at` on.

        Raises:
            ConfigurationError: a setting is wrong, or the feature goes off at another level already.
        """
        check = check_name("feature", name)
        index = self._index("off_at", off_at)
        if index == 0:
            refuse(check.policy, "off_at", off_at, "a level above the first, at which all features are on")
        with self._lock:
            known = self._features.declare(name, index, self._levels.level)
        if known != index:
            contradiction(check.policy, "two off_at", (self.levels[known], off_at), "a feature goes off at one level")

    @overload
    def degradable(
        self, feature: str, *, off_at: str, fallback: Callable[..., Awaitable[D]], name: str | None = None
    ) -> Degradable[D]: ...
    @overload
    def degradable(
        self, feature: str, *, off_at: str, fallback: Callable[..., D], name: str | None = None
    ) -> Degradable[D]: ...
    @overload
    def degradable(self, feature: str, *, off_at: str, fallback: D, name: str | None = None) -> Degradable[D]: ...
    def degradable(self, feature: str, *, off_at: str, fallback: Any, name: str | None = None) -> Degradable[Any]:
        """A policy for functions that belong to a feature: while it is off they are not called.

        Args:
            feature: several functions may belong to it; it goes off for all of them at the same level.
            off_at: the level from which on it is off.
            fallback: what is served then: a value, or a function of the same arguments. May be async for async
                functions. A function that is to be served itself stands in another: `lambda *args: function`.
            name: of the policy. Default: name of the first guarded function.

        Raises:
            ConfigurationError: a setting is wrong, or the feature goes off at another level already.
        """
        check = Checker(Degradable.kind, name)
        self.feature(feature, off_at=off_at)
        handler = fallback if callable(fallback) else None
        settings = DegradableSettings(
            handler=handler,
            default=None if handler is not None else fallback,
            on=check.matcher("on", Exception),
            on_result=None,
            pass_error=False,
            degradation=self,
            feature=feature,
        )
        if name is None:
            return Degradable(None, settings, self._registry)
        return self._registry.obtain(Degradable.kind, name, lambda: Degradable(name, settings, self._registry))

    def is_active(self, feature: str, /) -> bool:
        """Is the feature on? Reads the signals where that is due.

        Raises:
            LookupError: nobody has declared such a feature.
        """
        if not self._read_at <= CLOCK.now() < self._due:
            self._refresh()
        try:
            return self._features.active[feature]
        except KeyError:
            self._unknown("feature", feature, self._features.active)

    def sheddable(self, *, priority: Priority, name: str | None = None) -> Sheddable:
        """A policy that refuses work under pressure with `RejectedError`, the least important first.

        Args:
            priority: "critical" work is never refused, "standard" at the highest level only, "best_effort" and "bulk"
                before: at the levels between, classes are refused in proportion to the level, rounded up.
            name: shared by all who give it. Default: name of the first guarded function.

        Raises:
            ConfigurationError: a setting is wrong, or the name has other settings already.
        """
        Checker(Sheddable.kind, name).choice("priority", priority, PRIORITIES)
        settings = SheddableSettings(degradation=self, priority=priority)
        if name is None:
            return Sheddable(None, settings, self._registry)
        return self._registry.obtain(Sheddable.kind, name, lambda: Sheddable(name, settings, self._registry))

    def sheds(self, priority: Priority, /) -> bool:
        """Is work of this priority refused now?

        Raises:
            LookupError: there is no such priority.
        """
        if not self._read_at <= CLOCK.now() < self._due:
            self._refresh()
        try:
            return self._shed[priority]
        except KeyError:
            self._unknown("priority", priority, PRIORITIES)

    def force(self, feature: str, on: bool | None, /) -> None:
        """Switch a feature on or off, whatever the level; None leaves it to the level again.

        Raises:
            LookupError: nobody has declared such a feature.
        """
        if on is not None and not isinstance(on, bool):
            refuse(describe(self.kind, self._name), "on", on, "True, False or None")
        if feature not in self._features.active:
            self._unknown("feature", feature, self._features.active)
        with self._lock:
            data = self._features.switch(feature, on, self._levels.level)
            if data is not None:
                self._queue.append((CLOCK.now(), data))
        self._outbox.flush()

    def force_level(self, level: str | None, /) -> None:
        """Hold a level, whatever the signals say; None leaves it to them again. They are followed all the while.

        Raises:
            ConfigurationError: there is no such level.
        """
        index = None if level is None else self._index("level", level)
        with self._lock:
            self._take_locked(self._levels.force(index, CLOCK.now()))
        self._outbox.flush()

    def escalate(self, cause: str, /) -> None:
        """Rise one level now, for what no signal shows; at most once in `up_after`. It falls again as always.

        Args:
            cause: told in the event in the place of a signal: the name of an error, say.
        """
        with self._lock:
            change = self._levels.escalate(CLOCK.now())
            self._take_locked(None if change is None else change._replace(signal=cause, value=None))
        self._outbox.flush()

    def subscribe(self, listener: Listener, *, kinds: str | Iterable[str] | None = None) -> Callable[[], None]:
        """Call `listener` with every event; gives back what ends it. See `resilient.subscribe`."""
        return self._subscriptions.add(listener, None, kinds)

    def snapshot(self) -> dict[str, object]:
        """The level, and why; signals and features. Reads no signal, takes no lock and changes nothing."""
        names, levels = self.levels, self._levels
        return {
            "level": names[levels.level],
            "since_seconds": max(0.0, CLOCK.now() - self._since),
            "automatic_level": names[levels.automatic],
            "forced": levels.forced is not None,
            "last_change": self._last_change,
            "signals": {
                name: {"value": signal.value, "asks_for": names[signal.asks], "error": self._sources[name].error}
                for name, signal in levels.signals.copy().items()
            },
            "features": self._features.snapshot(names),
        }

    def renew(self, newer: Any, /) -> None:
        """Nothing of it can be renewed: signals and features come afterwards."""

    def count_on(self, older: Any, /) -> None:
        """It has no counters."""

    def after_fork(self, now: float) -> None:
        """Whoever was reading the signals is not in the child."""
        self._reading = False
        self._read_at = self._due = float("inf")

    def _refresh(self) -> None:
        mine = False
        try:
            with self._lock:
                if self._reading or self._read_at <= CLOCK.now() < self._due:
                    return
                self._reading = mine = True
            values = {name: source.value(name, self.name) for name, source in self._sources.items()}
            with self._lock:
                now = CLOCK.now()
                self._take_locked(self._levels.observe(now, values))
                self._read_at, self._due = now, now + self._settings.interval
        finally:
            if mine:
                self._reading = False
        self._outbox.flush()

    def _take_locked(self, change: Change | None) -> None:
        if change is None:
            return
        names = self.levels
        data: dict[str, object] = {
            "from": names[change.origin],
            "to": names[change.to],
            "reason": change.reason,
            "signal": change.signal,
            "value": change.value,
        }
        self._last_change = data
        self._since = change.at
        self._queue.append((change.at, data))
        self._features.follow(change.to)
        refused = refused_at(change.to, self._levels.highest)
        self._shed = {priority: priority in refused for priority in PRIORITIES}

    def _tell(self, item: tuple[float, dict[str, object]]) -> None:
        at, data = item
        logged = LOG.wants("degradation_changed", self.kind, self.name, at)
        if not (logged or self._subscriptions.active or EVERYTHING.active):
            return
        event = Event("degradation_changed", self.kind, self.name, None, at, data)
        self._subscriptions.tell(event)
        EVERYTHING.tell(event)
        if logged:
            LOG.write(event)

    def _index(self, setting: str, level: str) -> int:
        Checker(self.kind, self._name).choice(setting, level, self.levels)
        return self.levels.index(level)

    def _unknown(self, what: str, name: object, known: Iterable[str]) -> NoReturn:
        shown = ", ".join(map(repr, known)) or "none"
        raise LookupError(f"{describe(self.kind, self._name)} has no {what} {name!r}; there are: {shown}") from None
