"""Recover: what is done about an error, by its class, in one place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, Literal, NoReturn, Protocol, Self, cast

from resilient.core.checks import Checker, Matcher, contradiction, matches, names_rejections, refuse
from resilient.core.meters import Meter, number
from resilient.core.retry_plan import RetryRun, Stop
from resilient.errors import RejectedError
from resilient.operation import Args, AsyncCall, Kwargs, Operation, Served, SyncCall
from resilient.policies.base import Policy
from resilient.policies.fallback import Fallback
from resilient.policies.retry import Retry
from resilient.policies.retry import retry as new_retry
from resilient.registry import Registry
from resilient.registry import registry as default_registry

Word = Literal["retry", "degrade", "fail_fast", "ignore"]
Strategy = Word | Retry | Fallback[Any]
Resolved = Literal["degrade", "fail_fast", "ignore"] | Retry | Fallback[Any]

WORDS: Final = ("retry", "degrade", "fail_fast", "ignore")

_NO_BLOCK: Final = (
    "recover can't be used as a block, because a block can't be run again and has no result to replace. Decorate a "
    "function with it, or write `recover(...).call(function)`"
)


class Degrades(Protocol):
    """What can be asked to do with less: a `Degradation`."""

    def escalate(self, cause: str, /) -> object: ...


class Strategies:
    """Classes of errors and what is done about them. As a setting, those that mean the same are the same."""

    __slots__ = ("by_class", "degraded")

    def __init__(self, by_class: Mapping[type[Exception], Resolved], degraded: Fallback[Any] | None) -> None:
        self.by_class = dict(by_class)
        self.degraded = degraded

    def pick(self, error: Exception) -> tuple[type[Exception], Resolved] | None:
        """The most specific class of the error that is listed, and what is done about it."""
        for cls in type(error).__mro__:
            strategy = self.by_class.get(cls)
            if strategy is not None:
                return cls, strategy
        return None

    def policies(self) -> list[Retry | Fallback[Any]]:
        """Each once, innermost first: what serves something else stands around what calls again."""
        every: list[Retry | Fallback[Any]] = []
        for strategy in (*self.by_class.values(), self.degraded):
            if isinstance(strategy, (Retry, Fallback)) and strategy not in every:
                every.append(strategy)
        return sorted(every, key=lambda policy: isinstance(policy, Fallback))

    def settings_key(self) -> object:
        return {cls: _key(strategy) for cls, strategy in self.by_class.items()}, _key(self.degraded)

    def __repr__(self) -> str:
        return repr({cls.__qualname__: strategy for cls, strategy in self.by_class.items()})


def _key(value: object) -> object:
    if isinstance(value, Policy):
        return value.kind, {name: _key(setting) for name, setting in value.settings.items()}
    qualified = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    return qualified if callable(value) and all(qualified) else value


@dataclass(frozen=True, slots=True)
class RecoverSettings:
    """What the factory was given, checked."""

    strategies: Strategies
    degradation: Degrades | None
    default: object


class RecoverMeter(Meter):
    """Errors by what was done about them."""

    __slots__ = ("errors",)

    def __init__(self) -> None:
        super().__init__()
        self.errors = {strategy: number() for strategy in (*WORDS, "fallback", "unlisted")}


class _PickedRetry(Retry):
    """A retry policy for the errors that it was picked for. It counts and tells as the one that was given."""

    __slots__ = ("_given", "_strategies")

    def __init__(self, given: Retry, strategies: Strategies) -> None:
        super().__init__(given.name, given._settings, given._registry)
        self._given = given
        self._strategies = strategies
        self._plan = given._plan
        self._meter = given._meter
        self._subscriptions = given._subscriptions
        self.attempt_timeout = given.attempt_timeout

    def next_delay(self, run: RetryRun, operation: Operation, error: Exception | None, result: object) -> float | Stop:
        if error is not None:
            picked = self._strategies.pick(error)
            if picked is None or picked[1] is not self._given:
                return Stop.NOT_RETRYABLE
            if self._plan.on is Exception:
                # Who lists a class of rejections has named it, and only then are rejections retried.
                run.plan = replace(run.plan, on=picked[0])
        return super().next_delay(run, operation, error, result)


def _picked_fallback(given: Fallback[Any], strategies: Strategies) -> Fallback[Any]:
    """The same for a fallback."""
    wanted: object = "degrade" if given is strategies.degraded else given
    own: Matcher = given._settings.on

    def selects(error: Exception) -> bool:
        picked = strategies.pick(error)
        return picked is not None and picked[1] in (given, wanted) and matches(own, error)

    policy = Fallback[Any](given.name, replace(given._settings, on=selects), given._registry)
    policy._meter = given._meter
    policy._subscriptions = given._subscriptions
    return policy


class Recover(Policy):
    """Strategies by class of error; made by `recover(...)`."""

    __slots__ = ("_inside", "_meter")

    kind: ClassVar[str] = "recover"

    def __init__(self, name: str | None, settings: RecoverSettings, registry: Registry) -> None:
        super().__init__(name, settings, registry)
        self._inside: list[Policy] = [*settings.strategies.policies()]
        self._meter = RecoverMeter()

    def snapshot(self) -> dict[str, object]:
        """Errors of the function by what was done about them, as totals; each attempt's error counts."""
        return {"errors": {strategy: int(count) for strategy, count in self._meter.errors.items()}}

    def count_on(self, older: Recover, /) -> None:
        self._meter = older._meter

    def renew(self, newer: Recover, /) -> None:
        for policy, other in zip(self._inside, newer._inside, strict=True):
            policy.renew(other)

    def claim(self, name: str) -> None:
        super().claim(name)
        self.name_inside()

    def registered(self, name: str) -> Self:
        policy = super().registered(name)
        policy.name_inside()
        return policy

    def name_inside(self) -> None:
        """Give its own name to the policies inside that have none."""
        taken: dict[str, int] = {}
        for policy in self._inside:
            if policy.name is None and self._name is not None:
                turn = taken[policy.kind] = taken.get(policy.kind, 0) + 1
                policy.claim(self._name if turn == 1 else f"{self._name}#{turn}")

    def __enter__(self) -> NoReturn:
        raise TypeError(_NO_BLOCK)

    def __aenter__(self) -> NoReturn:
        raise TypeError(_NO_BLOCK)

    def refusal(self, use: str) -> str | None:
        if use.startswith("block"):
            return _NO_BLOCK
        if use in ("generator", "async generator"):
            return f"{self._shown()} can't guard {use} functions: items already given out can't be taken back"
        return next((reason for policy in self._inside if (reason := policy.refusal(use)) is not None), None)

    def wrap_sync(self, call: SyncCall, operation: Operation) -> SyncCall:
        def decided(args: Args, kwargs: Kwargs) -> Any:
            try:
                return call(args, kwargs)
            except Exception as error:
                if self._decide(error) != "ignore":
                    raise
                return Served(self._settings.default)

        if self._ignores():
            operation.expect_fallback()
        wrapped: SyncCall = decided
        for policy in self._picked():
            wrapped = policy.wrap_sync(wrapped, operation)
        return wrapped

    def wrap_async(self, call: AsyncCall, operation: Operation) -> AsyncCall:
        async def decided(args: Args, kwargs: Kwargs) -> Any:
            try:
                return await call(args, kwargs)
            except Exception as error:
                if self._decide(error) != "ignore":
                    raise
                return Served(self._settings.default)

        if self._ignores():
            operation.expect_fallback()
        wrapped: AsyncCall = decided
        for policy in self._picked():
            wrapped = policy.wrap_async(wrapped, operation)
        return wrapped

    def _ignores(self) -> bool:
        return "ignore" in self._settings.strategies.by_class.values()

    def _picked(self) -> Iterator[Policy]:
        strategies = self._settings.strategies
        for policy in self._inside:
            if isinstance(policy, Retry):
                yield _PickedRetry(policy, strategies)
            elif isinstance(policy, Fallback):
                yield _picked_fallback(policy, strategies)

    def _decide(self, error: Exception) -> object:
        """Count what is done about it; the words that can be done at once are."""
        picked = self._settings.strategies.pick(error)
        strategy = "unlisted" if picked is None else picked[1]
        word = strategy if isinstance(strategy, str) else strategy.kind
        errors = self._meter.errors
        errors[word] += 1
        if word == "degrade" and self._settings.degradation is not None:
            self._settings.degradation.escalate(type(error).__name__)
        return word


class _NotGiven:
    def __repr__(self) -> str:
        return "not given"


_NOT_GIVEN: Final = _NotGiven()


def recover(
    strategies: Mapping[type[Exception], Strategy],
    *,
    retry: Retry | None = None,
    degradation: Degrades | None = None,
    degraded: Fallback[Any] | None = None,
    default: object = _NOT_GIVEN,
    name: str | None = None,
    registry: Registry = default_registry,
) -> Recover:
    """Do about an error what its class asks for: the most specific class of the error that is listed decides.

    Args:
        strategies: for each class of errors a word, or a policy made by `retry(...)` or `fallback(...)`.

            "retry": the call is made again, by the policy `retry`. Calls again are judged like the first.
            "degrade": `degradation` is asked to rise one level; then `degraded` serves something else, or, where there
            is none, the error is raised.
            "fail_fast": the error is raised at once, as one of a class that is not listed. A retry policy around this
            one sees it, and decides by its own `on`.
            "ignore": the error is dropped, and the result is `default`.

            One strategy is picked for an error. What a retry policy raises in the end goes to nobody else here.
        retry: what "retry" means. Default: `retry()`.
        degradation: a `Degradation`; for "degrade".
        degraded: what serves something else after "degrade".
        default: the result after "ignore"; the same object each time. Default: None.
        name: shared by all who give it; the settings must then be equal. Default: name of the first guarded function.
            Policies in it that have no name take it.
        registry: where the name is registered.

    Raises:
        ConfigurationError: a word is unknown, a class is none of errors, a setting belongs to a word that is not used,
            a policy could not do what it is listed for, or the name has other settings already.

    Example:
        >>> from resilient import fallback
        >>> from resilient.policies.recover import recover
        >>> careful = recover({
        ...     ConnectionError: "retry",
        ...     KeyError: "ignore",
        ...     ValueError: "fail_fast",
        ...     TimeoutError: fallback(default="later"),
        ... })
        >>> @careful
        ... def look_up(word: str) -> str | None:
        ...     return {"otter": "a mammal"}[word]
        >>> look_up("otter"), look_up("snark")
        ('a mammal', None)
    """
    check = Checker(Recover.kind, name)
    check.instance("registry", registry, Registry)
    if not isinstance(strategies, Mapping) or not strategies:
        refuse(check.policy, "strategies", strategies, "a dict of error classes and what is done about each")
    _check_use(check, strategies, "retry", "retry", retry, Retry)
    _check_use(check, strategies, "degraded", "degrade", degraded, Fallback)
    words = [strategy for strategy in strategies.values() if isinstance(strategy, str)]
    if ("degrade" in words) != (degradation is not None):
        contradiction(check.policy, "strategies and degradation", (words, degradation), '"degrade" needs a Degradation')
    if degradation is not None and not callable(getattr(degradation, "escalate", None)):
        refuse(check.policy, "degradation", degradation, "a Degradation, or None")
    if "ignore" not in words and default is not _NOT_GIVEN:
        contradiction(check.policy, "strategies and default", (words, default), 'default is for "ignore"')
    again = retry if retry is not None or "retry" not in words else new_retry(registry=registry)
    resolved: dict[type[Exception], Resolved] = {
        cls: _resolve(check, cls, strategy, again) for cls, strategy in strategies.items()
    }
    if degraded is not None:
        for cls, strategy in resolved.items():
            if strategy == "degrade":
                _check_reach(check, cls, degraded)
    settings = RecoverSettings(
        strategies=Strategies(resolved, degraded),
        degradation=degradation,
        default=None if default is _NOT_GIVEN else default,
    )
    if name is None:
        return Recover(None, settings, registry)
    policy = registry.obtain(Recover.kind, name, lambda: Recover(name, settings, registry))
    policy.name_inside()
    return policy


def _check_use(check: Checker, strategies: Any, setting: str, word: str, value: object, kind: type[Policy]) -> None:
    if value is None:
        return
    if not isinstance(value, kind) or type(value) is not kind:
        refuse(check.policy, setting, value, f"what {kind.kind}(...) makes, or None")
    if word not in [strategy for strategy in strategies.values() if isinstance(strategy, str)]:
        contradiction(check.policy, f"strategies and {setting}", (strategies, value), f'{setting} is for "{word}"')


def _resolve(check: Checker, cls: Any, strategy: Any, again: Retry | None) -> Resolved:
    if not isinstance(cls, type) or not issubclass(cls, Exception):
        refuse(
            check.policy, "strategies", cls, "subclasses of Exception (cancellation and its like always pass through)"
        )
    if isinstance(strategy, str):
        word = check.choice("strategies", strategy, WORDS)
        if word != "retry":
            return cast("Resolved", word)
        strategy = again
    if type(strategy) not in (Retry, Fallback):
        allowed = "a word (" + ", ".join(WORDS) + "), or what retry(...) or fallback(...) makes; others go around it"
        refuse(check.policy, "strategies", strategy, allowed)
    _check_reach(check, cls, strategy)
    return cast("Resolved", strategy)


def _check_reach(check: Checker, cls: type[Exception], policy: Policy) -> None:
    """Could the policy's own `on` select an error of this class at all?"""
    on: Matcher = policy._settings.on
    classes = on if isinstance(on, tuple) else (on,) if isinstance(on, type) else ()
    reached = not classes or any(issubclass(cls, own) or issubclass(own, cls) for own in classes)
    if isinstance(policy, Retry) and issubclass(cls, RejectedError):
        reached = on is Exception or (reached and names_rejections(on))
    if not reached:
        contradiction(
            check.policy, f"{cls.__name__} and the on= of its {policy.kind}", (cls, on), "on= selects no such error"
        )
