"""What a service shows its orchestrator: probes, and an overview."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeVar

from resilient.core.checks import Checker, Seconds, refuse, same_setting
from resilient.core.clock import CLOCK
from resilient.core.fork import new_lock, renew_after_fork
from resilient.decorate import name_of
from resilient.health.admin import PREFIX, Admin
from resilient.health.checks import Check, CheckFunction, Report, run_checks, run_checks_async
from resilient.health.rendering import draft, draft_states, plain
from resilient.health.responses import (
    HEALTH_JSON,
    JSON,
    READING,
    Request,
    Response,
    Tokens,
    answer,
    not_found,
    timestamp,
    wants_health_json,
    wrong_method,
)
from resilient.health.states import (
    Policies,
    Standing,
    Stateful,
    critical_breakers,
    ending,
    judge_checks,
    process_age,
    system,
)
from resilient.pipeline import Pipeline
from resilient.policies.base import Policy
from resilient.registry import Registry, registry

if TYPE_CHECKING:
    from resilient.health.asgi import ASGIApp
    from resilient.health.wsgi import WSGIApp

F = TypeVar("F", bound=Callable[[], object])
Details = Literal["token", "always", "never"]

MOST_BYTES: Final = 64 * 1024
"""The longest body that is read."""


@dataclass(frozen=True, slots=True)
class _Question:
    """A request that can be answered once these checks have their reports."""

    checks: tuple[Check, ...]
    answer: Callable[[Mapping[str, Report]], Response]


class Health:
    """Checks of a service, and the apps that show them.

    `GET /live` runs nothing. `GET /ready` runs the checks: a critical one that fails makes 503, another one, a breaker
    that is not closed or a level of degradation makes "degraded" with 200. `GET /startup` is 503 until each check with
    `startup=True` has passed once. `GET /` is the overview. Anyone sees statuses; details are for those with a token.

    Args:
        service: name of the service, for the overview.
        version: its version.
        critical: circuit breakers, or pipelines holding some, that make the service unready while they refuse calls.
        token: who sends it as `Authorization: Bearer` sees details. Several: a mapping of names to tokens.
        details: "token"; "always": for everybody; "never".
        registry: whose policies are shown.
        admin: True: policies can be listed and changed below `/admin` by holders of a token. A token, or a mapping of
            names to tokens: by holders of these only.
        lifecycle: a `resilient.lifecycle.Lifecycle`: the service is not ready any more once that is ending. Default:
            the one of the process, where it is in use.

    Raises:
        ConfigurationError: a setting is wrong, or `admin` has no token.

    Example:
        >>> from resilient.health import Health
        >>> health = Health(service="shop")
        >>> @health.check("database", timeout=2.0)
        ... def ping_database() -> None: ...
        >>> health.run()["database"].status
        'healthy'
    """

    def __init__(
        self,
        *,
        service: str | None = None,
        version: str | None = None,
        critical: Policy | Pipeline | Iterable[Policy | Pipeline] = (),
        token: str | Mapping[str, str] | None = None,
        details: Details = "token",
        registry: Registry = registry,
        admin: bool | str | Mapping[str, str] = False,
        lifecycle: Stateful | None = None,
    ) -> None:
        check = Checker("Health")
        for setting, value in (("service", service), ("version", version)):
            if value is not None and not isinstance(value, str):
                refuse("Health", setting, value, "a string, or None")
        check.instance("registry", registry, Registry)
        self._service = service
        self._version = version
        self._details = check.choice("details", details, ("token", "always", "never"))
        self._tokens = Tokens("token", token)
        self._policies = Policies(registry, critical_breakers(critical))
        self._checks: dict[str, Check] = {}
        self._lock = new_lock()
        self._is_started = False
        self._lifecycle = lifecycle
        self._drained: str | None = None
        self._admin = (
            None if admin is False else Admin(registry, self._tokens if admin is True else Tokens("admin", admin))
        )
        self.after_fork(CLOCK.now())
        renew_after_fork(self)

    def __repr__(self) -> str:
        return f"<Health of {self._service or 'a service'}: {len(self._checks)} checks>"

    @property
    def checks(self) -> tuple[Check, ...]:
        """The checks, in the order in which they came."""
        return tuple(self._checks.copy().values())

    def check(
        self,
        name: str,
        *,
        timeout: Seconds = 2.0,
        ttl: Seconds = 1.0,
        critical: bool = True,
        fail_after: int = 1,
        startup: bool = False,
    ) -> Callable[[F], F]:
        """Make a check of the function below; it stays as it is. The settings are those of `Check`."""

        def decorate(function: F) -> F:
            self.add(
                name, function, timeout=timeout, ttl=ttl, critical=critical, fail_after=fail_after, startup=startup
            )
            return function

        if not isinstance(name, str):
            refuse("Health.check", "name", name, 'a string: write @health.check("database")')
        return decorate

    def add(
        self,
        name: str,
        function: CheckFunction,
        *,
        timeout: Seconds = 2.0,
        ttl: Seconds = 1.0,
        critical: bool = True,
        fail_after: int = 1,
        startup: bool = False,
    ) -> Check:
        """Add a check; the settings are those of `Check`. A function defined again replaces itself.

        Raises:
            ConfigurationError: a setting is wrong, or another function has this name.
        """
        check = Check(
            name, function, timeout=timeout, ttl=ttl, critical=critical, fail_after=fail_after, startup=startup
        )
        with self._lock:
            known = self._checks.get(name)
            if known is not None and not same_setting(known.function, function):
                taken = f"another name: {name_of(known.function)} has this one"
                refuse("Health", "name", name, taken)
            self._checks = {**self._checks, name: check}
        return check

    def remove(self, name: str) -> bool:
        """Forget a check. True if it was there."""
        with self._lock:
            there = name in self._checks
            self._checks = {other: check for other, check in self._checks.items() if other != name}
        return there

    def run(self) -> dict[str, Report]:
        """What all checks find, by name; each is run only where its newest report is too old."""
        return run_checks(self.checks)

    async def run_async(self) -> dict[str, Report]:
        """The same in a task of asyncio or trio."""
        return await run_checks_async(self.checks)

    def started(self) -> None:
        """Say that the service has started, whatever its startup checks say: `/startup` is healthy from now on."""
        self._is_started = True

    def drain(self, reason: str = "draining") -> None:
        """Make `/ready` 503 until `resume()`, so that no new requests are sent here. `/live` stays as it is."""
        self._drained = str(reason)

    def resume(self) -> None:
        """Let `/ready` say again what the checks say."""
        self._drained = None

    def asgi(self, application: ASGIApp | None = None, *, prefix: str = "/health") -> ASGIApp:
        """An ASGI app to be mounted; or, given an application, that one with ours below `prefix`."""
        from resilient.health.asgi import asgi_app

        return asgi_app(self, application, prefix)

    def wsgi(self, application: WSGIApp | None = None, *, prefix: str = "/health") -> WSGIApp:
        """A WSGI app to be mounted; or, given an application, that one with ours below `prefix`."""
        from resilient.health.wsgi import wsgi_app

        return wsgi_app(self, application, prefix)

    def respond(self, request: Request) -> Response:
        """Answer a request, from whatever server."""
        question = self._route(request)
        return question if isinstance(question, Response) else question.answer(run_checks(question.checks))

    async def respond_async(self, request: Request) -> Response:
        """The same in a task of asyncio or trio."""
        question = self._route(request)
        if isinstance(question, Response):
            return question
        return question.answer(await run_checks_async(question.checks))

    def body_limit(self, request: Request) -> int:
        """How many bytes of its body this request needs; 0: it will be answered without."""
        wanted = self._admin is not None and self._admin.wants_body(request)
        return MOST_BYTES if wanted else 0

    def after_fork(self, now: float) -> None:
        """The child is a process of its own age."""
        self._born = now - process_age()

    def _route(self, request: Request) -> Response | _Question:
        path = request.path.rstrip("/") or "/"
        if self._admin is not None and (path == PREFIX or path.startswith(PREFIX + "/")):
            return self._admin.respond(request)
        if path not in ("/", "/live", "/ready", "/startup"):
            return not_found(request)
        if request.method not in READING:
            return wrong_method(request, READING)
        if path == "/live":
            return self._live(request)
        if path == "/startup":
            return self._startup(request)
        checks = self.checks
        return _Question(checks, lambda reports: self._standing(request, checks, reports, whole=path == "/"))

    def _live(self, request: Request) -> Response:
        if wants_health_json(request):
            return answer(request, 200, {"status": "pass"}, media=HEALTH_JSON)
        payload = {"status": "healthy", "timestamp": timestamp(), "uptime_seconds": round(self._uptime(), 3)}
        return answer(request, 200, payload)

    def _startup(self, request: Request) -> Response | _Question:
        checks = tuple(check for check in self.checks if check.startup)
        missing = () if self._is_started else tuple(check for check in checks if not check.has_passed)

        def tell(reports: Mapping[str, Report]) -> Response:
            standing = Standing()
            for check in missing:
                if not check.has_passed and not self._is_started:
                    standing.lower("unhealthy", f"check {check.name}: not passed yet")
            if not standing.reasons:
                self._is_started = True
            return self._answer(request, standing, missing, reports)

        return _Question(missing, tell)

    def _standing(
        self, request: Request, checks: tuple[Check, ...], reports: Mapping[str, Report], *, whole: bool
    ) -> Response:
        standing = Standing()
        for reason in (self._drained, ending(self._lifecycle)):
            if reason is not None:
                standing.lower("unhealthy", reason)
        judge_checks(standing, checks, reports)
        self._policies.judge(standing)
        return self._answer(request, standing, checks, reports, whole=whole)

    def _answer(
        self,
        request: Request,
        standing: Standing,
        checks: tuple[Check, ...],
        reports: Mapping[str, Report],
        *,
        whole: bool = False,
    ) -> Response:
        detailed = self._is_trusted(request)
        drafted = wants_health_json(request)
        payload = (draft if drafted else plain)(standing, checks, reports, detailed=detailed)
        if whole and detailed:
            payload |= self._about_draft(payload) if drafted else self._about()
        status = 503 if standing.status == "unhealthy" else 200
        return answer(request, status, payload, media=HEALTH_JSON if drafted else JSON)

    def _about(self) -> dict[str, object]:
        return {
            "service": self._service,
            "version": self._version,
            "circuit_breakers": self._policies.circuits(),
            "bulkheads": self._policies.bulkheads(),
            "degradation": self._policies.levels(),
            "system": system(self._uptime()),
        }

    def _about_draft(self, payload: dict[str, object]) -> dict[str, object]:
        known = payload["checks"]
        assert isinstance(known, dict)
        about = {"serviceId": self._service, "version": self._version}
        states = draft_states(self._policies.circuits(), round(self._uptime(), 3))
        return {**{key: value for key, value in about.items() if value is not None}, "checks": {**known, **states}}

    def _is_trusted(self, request: Request) -> bool:
        if self._details != "token":
            return self._details == "always"
        if self._tokens.holder(request) is not None:
            return True
        return self._admin is not None and self._admin.knows(request)

    def _uptime(self) -> float:
        return CLOCK.now() - self._born
