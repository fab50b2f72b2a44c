"""Every exception of the package.

ResilienceError
  ConfigurationError      (also ValueError)
  RejectedError
    CircuitOpenError
    BulkheadFullError
    RateLimitedError
    ThrottledError
  TimeoutExceededError    (also TimeoutError)
  RetryExhaustedError
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

_ARGS: Final[Any] = BaseException.__dict__["args"]


def _rebuild(cls: type[ResilienceError], args: tuple[Any, ...], state: dict[str, Any]) -> ResilienceError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class ResilienceError(Exception):
    """Base of all errors that policies raise.

    Attributes:
        policy: name of the policy that raised, or None where it has none yet.
    """

    policy: str | None

    def __init__(self, message: str = "", *, policy: str | None = None) -> None:
        super().__init__(message)
        self.policy = policy

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


class ConfigurationError(ResilienceError, ValueError):
    """A setting is wrong. Raised when the policy is made, never when it is called.

    Attributes:
        setting: name of the setting, or None where several contradict each other.
        value: what was given.
        allowed: what is allowed, in words.
    """

    setting: str | None
    value: object
    allowed: str | None

    def __init__(
        self,
        message: str = "",
        *,
        policy: str | None = None,
        setting: str | None = None,
        value: object = None,
        allowed: str | None = None,
    ) -> None:
        super().__init__(message, policy=policy)
        self.setting = setting
        self.value = value
        self.allowed = allowed


class RejectedError(ResilienceError):
    """A policy refused the call; the guarded function was not run.

    Attributes:
        retry_after: seconds after which it is worth trying again, or None where that is not known.
    """

    retry_after: float | None

    def __init__(self, message: str = "", *, policy: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message, policy=policy)
        self.retry_after = retry_after


class CircuitOpenError(RejectedError):
    """The circuit breaker is open, or all probes of its half-open state are taken.

    Attributes:
        last_error: type name of the last failure that the breaker counted, or None.
    """

    last_error: str | None

    def __init__(
        self,
        message: str = "",
        *,
        policy: str | None = None,
        retry_after: float | None = None,
        last_error: str | None = None,
    ) -> None:
        super().__init__(message, policy=policy, retry_after=retry_after)
        self.last_error = last_error

    # An open circuit refuses calls by the thousand, and nearly nobody reads why: it is written at the first look.
    _why: tuple[Callable[..., str], tuple[object, ...]] | None = None

    @property
    def args(self) -> tuple[Any, ...]:
        """The message alone, as with every exception."""
        if self._why is not None:
            write, known = self._why
            _ARGS.__set__(self, (write(*known),))
            del self._why
        args: tuple[Any, ...] = _ARGS.__get__(self)
        return args

    @args.setter
    def args(self, args: tuple[Any, ...]) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        _ARGS.__set__(self, args)

    def __str__(self) -> str:
        return str(self.args[0]) if len(self.args) == 1 else super().__str__()

    def __repr__(self) -> str:
        args = self.args
        return f"{type(self).__name__}({', '.join(map(repr, args))})"


class BulkheadFullError(RejectedError):
    """All permits are taken and the queue is full, or the wait in it was too long."""


class RateLimitedError(RejectedError):
    """The call would have to wait longer for its turn than it may."""


class ThrottledError(RejectedError):
    """The call was refused on this side, because the other side refuses most of them."""


class TimeoutExceededError(ResilienceError, TimeoutError):
    """The time allowed for the call is over.

    Attributes:
        seconds: the time that was allowed.
    """

    seconds: float

    def __init__(self, message: str = "", *, policy: str | None = None, seconds: float = 0.0) -> None:
        super().__init__(message, policy=policy)
        self.seconds = seconds


class RetryExhaustedError(ResilienceError):
    """Every attempt gave a result that `on_result` asks to retry, and `on_exhausted` is "raise".

    Attributes:
        result: the result of the last attempt.
        attempts: how many attempts were made.
    """

    result: object
    attempts: int

    def __init__(
        self, message: str = "", *, policy: str | None = None, result: object = None, attempts: int = 0
    ) -> None:
        super().__init__(message, policy=policy)
        self.result = result
        self.attempts = attempts
