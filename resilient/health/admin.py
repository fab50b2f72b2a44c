"""Policies changed from outside: by holders of a token, one change at a time, each of them on record."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple
from weakref import finalize

from resilient.core.checks import refuse
from resilient.errors import ConfigurationError
from resilient.health.events import RecentEvents
from resilient.health.responses import READING, Request, Response, Tokens, answer, not_found, refusal, wrong_method
from resilient.health.scrubbing import describe_error, scrub
from resilient.health.states import DEGRADATION
from resilient.policies.bulkhead import Bulkhead
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.registry import Registry

PREFIX: Final = "/admin"
MOST_EVENTS: Final = 200
MOST_CONCURRENT: Final = 1_000_000

_LOGGER: Final = logging.getLogger("resilient.admin")
_NEEDED: Final = object()


class _Change(NamedTuple):
    """One thing that can be done to policies of a kind.

    `settings` are those that it takes, with their defaults. `read` tells what it changes.
    """

    settings: Mapping[str, object]
    apply: Callable[[Any, Mapping[str, Any]], object]
    read: Callable[[Any], object]


def _state(breaker: CircuitBreaker) -> str:
    return breaker.state.value


def _resize(bulkhead: Bulkhead, settings: Mapping[str, Any]) -> None:
    wanted = settings["max_concurrent"]
    if isinstance(wanted, int) and wanted > MOST_CONCURRENT:
        refuse("resize", "max_concurrent", "a larger number", f"{MOST_CONCURRENT} at most")
    bulkhead.resize(wanted)


_CHANGES: Final[Mapping[tuple[str, str], _Change]] = {
    (CircuitBreaker.kind, "trip"): _Change(
        {"duration": None}, lambda breaker, settings: breaker.trip(settings["duration"]), _state
    ),
    (CircuitBreaker.kind, "force_open"): _Change({}, lambda breaker, settings: breaker.force_open(), _state),
    (CircuitBreaker.kind, "disable"): _Change({}, lambda breaker, settings: breaker.disable(), _state),
    (CircuitBreaker.kind, "reset"): _Change({}, lambda breaker, settings: breaker.reset(), _state),
    (Bulkhead.kind, "resize"): _Change({"max_concurrent": _NEEDED}, _resize, lambda bulkhead: bulkhead.limit),
    (DEGRADATION, "force_level"): _Change(
        {"level": _NEEDED},
        lambda degradation, settings: degradation.force_level(settings["level"]),
        lambda degradation: degradation.snapshot()["level"],
    ),
}


class Admin:
    """What stands below `/admin`."""

    def __init__(self, registry: Registry, tokens: Tokens) -> None:
        if not tokens:
            refuse("Health", "admin", True, "False without a token: whoever changes policies must have one")
        self._registry = registry
        self._tokens = tokens
        self._events = RecentEvents()
        finalize(self, self._events.listen()).atexit = False

    def knows(self, request: Request) -> bool:
        return self._tokens.holder(request) is not None

    def wants_body(self, request: Request) -> bool:
        below = request.path.startswith(PREFIX + "/")
        return below and request.method == "POST" and self._tokens.holder(request) is not None

    def respond(self, request: Request) -> Response:
        holder = self._tokens.holder(request)
        if holder is None:
            return refusal(request, 401, "a bearer token is needed", ("WWW-Authenticate", "Bearer"))
        path = request.path.removeprefix(PREFIX).rstrip("/")
        if path in ("/policies", "/events"):
            if request.method not in READING:
                return wrong_method(request, READING)
            if path == "/policies":
                return answer(request, 200, {"policies": self._registry.snapshot()})
            return answer(request, 200, {"events": self._events.newest(MOST_EVENTS)})
        kind, _, rest = path.removeprefix("/").partition("/")
        name, _, action = rest.rpartition("/")
        change = _CHANGES.get((kind, action))
        policy: Any = next((one for one in self._registry if (one.kind, one.name) == (kind, name)), None)
        if change is None or policy is None:
            return not_found(request)
        if request.method != "POST":
            return wrong_method(request, ("POST",))
        return self._change(request, holder or request.peer or "unknown", kind, name, action, change, policy)

    def _change(
        self, request: Request, who: str, kind: str, name: str, action: str, change: _Change, policy: Any
    ) -> Response:
        try:
            settings = _settings(request.body, change.settings)
        except ValueError as error:
            return refusal(request, 400, str(error))
        before = change.read(policy)
        try:
            change.apply(policy, settings)
        except ConfigurationError as error:
            return refusal(request, 400, scrub(str(error)))
        except Exception as error:
            # A callable of the user's, such as an open_duration.
            _LOGGER.exception("%s by %s of %s %r failed", action, who, kind, name)
            return refusal(request, 500, f"not done: {describe_error(error)}")
        after = change.read(policy)
        record = {
            "who": who,
            "peer": request.peer,
            "action": action,
            "policy_kind": kind,
            "policy": name,
            "from_value": before,
            "to_value": after,
        }
        message = "changed by hand who=%r peer=%r action=%s policy_kind=%s policy=%r from=%r to=%r"
        _LOGGER.warning(message, *record.values(), extra=record)
        payload = {"policy_kind": kind, "policy": name, "action": action, "from": before, "to": after}
        return answer(request, 200, payload)


def _settings(body: bytes, known: Mapping[str, object]) -> dict[str, object]:
    """The settings that the body gives, and the defaults of the others; ValueError says what is wrong with it."""
    try:
        given = json.loads(body) if body.strip() else {}
    except (ValueError, RecursionError):
        raise ValueError("the body is no JSON") from None
    if not isinstance(given, dict):
        raise ValueError("the body is no JSON object")
    if not given.keys() <= known.keys():
        raise ValueError("settings that there are: " + (", ".join(known) or "none"))
    settings = {**known, **given}
    missing = [name for name, value in settings.items() if value is _NEEDED]
    if missing:
        raise ValueError(f"{', '.join(missing)} must be given")
    return settings
