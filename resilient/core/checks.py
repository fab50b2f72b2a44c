"""Settings are checked when a policy is made; what is wrong is said in one form.

circuit_breaker 'payments': failure_rate=1.5 is not allowed: a number above 0 and at most 1
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from datetime import timedelta
from inspect import iscoroutinefunction
from math import isfinite
from typing import NoReturn, TypeVar

from resilient.errors import ConfigurationError, RejectedError

Seconds = float | int | timedelta
Function = TypeVar("Function", bound=Callable[..., object])
Matcher = type[BaseException] | tuple[type[BaseException], ...] | Callable[[Exception], object]


class Shown(str):
    """How messages name a policy: `retry 'payments'`, or `retry` where it has no name; knows the bare name, too."""

    __slots__ = ("name",)

    name: str


def describe(kind: str, name: str | None) -> Shown:
    shown = Shown(kind if name is None or name == kind else f"{kind} {name!r}")
    shown.name = name or kind
    return shown


def _bare_name(policy: str) -> str:
    return policy.name if isinstance(policy, Shown) else policy


def refuse(policy: str, setting: str, value: object, allowed: str) -> NoReturn:
    raise ConfigurationError(
        f"{policy}: {setting}={value!r} is not allowed: {allowed}",
        policy=_bare_name(policy),
        setting=setting,
        value=value,
        allowed=allowed,
    )


def contradiction(policy: str, settings: str, value: tuple[object, ...], allowed: str) -> NoReturn:
    raise ConfigurationError(
        f"{policy}: {settings} contradict each other ({', '.join(map(repr, value))}): {allowed}",
        policy=_bare_name(policy),
        setting=settings,
        value=value,
        allowed=allowed,
    )


class Checker:
    """Checks the settings of one policy, whose name goes into every message."""

    __slots__ = ("policy",)

    def __init__(self, kind: str, name: object = None) -> None:
        if name is not None and (not isinstance(name, str) or not name.strip()):
            refuse(kind, "name", name, "a string that is not empty, or None")
        self.policy = describe(kind, name)

    def seconds(self, setting: str, value: object, *, zero: bool = False) -> float:
        """A finite duration as float seconds: above 0, or from 0 on where `zero`."""
        number = value.total_seconds() if isinstance(value, timedelta) else value
        if not isinstance(number, bool) and isinstance(number, (int, float)):
            try:
                seconds = float(number)
            except OverflowError:
                seconds = float("inf")
            if isfinite(seconds) and (seconds > 0 or (zero and seconds == 0)):
                return seconds
        bound = "of at least 0" if zero else "above 0"
        refuse(self.policy, setting, value, f"seconds {bound} (a finite number or a timedelta)")

    def optional_seconds(self, setting: str, value: object, *, zero: bool = False) -> float | None:
        return None if value is None else self.seconds(setting, value, zero=zero)

    def whole(self, setting: str, value: object, *, minimum: int = 1) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and value >= minimum:
            return value
        refuse(self.policy, setting, value, f"a whole number of at least {minimum}")

    def optional_whole(self, setting: str, value: object, *, minimum: int = 1) -> int | None:
        return None if value is None else self.whole(setting, value, minimum=minimum)

    def rate(self, setting: str, value: object) -> float:
        """A share: above 0 and at most 1."""
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= 1:
            return float(value)
        refuse(self.policy, setting, value, "a number above 0 and at most 1")

    def optional_rate(self, setting: str, value: object) -> float | None:
        return None if value is None else self.rate(setting, value)

    def choice(self, setting: str, value: object, allowed: Collection[str]) -> str:
        if isinstance(value, str) and value in allowed:
            return value
        refuse(self.policy, setting, value, "one of " + ", ".join(repr(word) for word in allowed))

    def instance(self, setting: str, value: object, wanted: type) -> None:
        if not isinstance(value, wanted):
            refuse(self.policy, setting, value, f"a {wanted.__name__}")

    def optional_function(self, setting: str, value: Function | None, what: str) -> Function | None:
        return None if value is None else self.function(setting, value, what + ", or None")

    def function(self, setting: str, value: Function, what: str) -> Function:
        # What an async function gives is a coroutine: always true, and never run.
        if not callable(value) or iscoroutinefunction(value):
            refuse(self.policy, setting, value, what)
        return value

    def matcher(self, setting: str, value: object, *, empty: bool = False) -> Matcher:
        """What `on=` takes: an exception class, a tuple of them, or a predicate."""
        if isinstance(value, type):
            if issubclass(value, BaseException):
                return self._not_neutral(setting, value)
        elif isinstance(value, tuple):
            if (value or empty) and all(isinstance(item, type) and issubclass(item, BaseException) for item in value):
                for item in value:
                    self._not_neutral(setting, item)
                return value
        elif callable(value) and not iscoroutinefunction(value):
            return value
        refuse(self.policy, setting, value, "an exception class, a tuple of them, or a function (exception) -> bool")

    def _not_neutral(self, setting: str, value: type[BaseException]) -> type[BaseException]:
        if not issubclass(value, Exception) and value is not BaseException:
            refuse(
                self.policy,
                setting,
                value,
                "a subclass of Exception (cancellation, KeyboardInterrupt and their like always pass through)",
            )
        return value


def matches(on: Matcher, error: Exception) -> bool:
    """Does `on` select this exception? The predicate's own errors propagate."""
    if isinstance(on, (type, tuple)):
        return isinstance(error, on)
    return bool(on(error))


def names_rejections(on: Matcher) -> bool:
    """Is `on`, or does it hold, a class of rejections? Only then are rejections of inner policies selected."""
    if isinstance(on, tuple):
        return any(issubclass(item, RejectedError) for item in on)
    return isinstance(on, type) and issubclass(on, RejectedError)


def same_setting(one: object, other: object) -> bool:
    """Are two values of a setting the same? Functions are, where module and qualified name are."""
    key = getattr(type(one), "settings_key", None)
    if key is not None and type(one) is type(other):
        return bool(key(one) == key(other))
    if callable(one) and callable(other) and not isinstance(one, type) and not isinstance(other, type):
        names = getattr(one, "__qualname__", None), getattr(other, "__qualname__", None)
        if all(names):
            modules = getattr(one, "__module__", None), getattr(other, "__module__", None)
            return names[0] == names[1] and modules[0] == modules[1]
    if type(one) is not type(other) and not (isinstance(one, (int, float)) and isinstance(other, (int, float))):
        return False
    return bool(one == other)


def key_of(
    key: Callable[..., Hashable], args: Sequence[object], kwargs: Mapping[str, object], policy: Callable[[], str]
) -> Hashable:
    """What `key=` makes of a call's arguments. Its own errors propagate."""
    value = key(*args, **kwargs)
    try:
        hash(value)
    except TypeError as error:
        raise TypeError(f"{policy()}: key= must give something hashable, not {type(value).__qualname__}") from error
    return value


def refuse_keyed(policy: str, use: str) -> str | None:
    """Why a policy with `key=` can't guard this."""
    if use in ("function", "async function"):
        return None
    return f"{policy} has key=, which is made of a call's arguments: it guards functions, not {use}s"
