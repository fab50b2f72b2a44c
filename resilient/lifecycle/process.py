"""The end of a process, step by step."""

from __future__ import annotations

import atexit
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any, Final, Literal, TypeVar, overload

from resilient.core.checks import Checker, Seconds, refuse
from resilient.core.clock import CLOCK
from resilient.core.fork import renew_after_fork
from resilient.drivers import tasks, threads
from resilient.lifecycle.hooks import Hook, Outcome, ShutdownHook, run_hook, run_hook_async
from resilient.lifecycle.signals import LoopHandler, take_from_loop
from resilient.registry import Registry
from resilient.registry import registry as default_registry
from resilient.telemetry.exporters import shutdown as export_and_stop

State = Literal["running", "draining", "stopping", "stopped"]
H = TypeVar("H", bound=Hook)

_POLL: Final = 0.02
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class Lifecycle:
    """The end of one process; `resilient.lifecycle.install()` and its like use one for all.

    Args:
        lame_duck: seconds for which the server goes on serving after readiness has gone, at least 0: as long as it
            takes until nobody sends requests any more. Kubernetes needs a few.
        timeout: seconds for calls under way, hooks and telemetry together, above 0. `lame_duck`, the server's own time
            for its requests and this should stay below the orchestrator's grace period (Kubernetes: 30 s).
        registry: whose pipelines are counted.

    Raises:
        ConfigurationError: a setting is wrong.
    """

    def __init__(
        self, *, lame_duck: Seconds = 5.0, timeout: Seconds = 15.0, registry: Registry = default_registry
    ) -> None:
        check = Checker("lifecycle")
        self.lame_duck = check.seconds("lame_duck", lame_duck, zero=True)
        self.timeout = check.seconds("timeout", timeout)
        check.instance("registry", registry, Registry)
        self._registry = registry
        self._hooks: list[ShutdownHook] = []
        self._previous: dict[int, Any] = {}
        self._state: State = "running"
        self._since = CLOCK.now()
        self._forwarded: set[int] = set()
        self._begun: set[int] = set()
        self._at_exit = False
        self._installed_here = False
        renew_after_fork(self)

    @property
    def state(self) -> State:
        """`running`; `draining` from the signal on; `stopping` once hooks run; `stopped`."""
        return self._state

    @property
    def in_flight(self) -> int:
        """Guarded calls under way in this process."""
        return sum(meter.active for meter in self._registry.call_meters().values())

    def snapshot(self) -> dict[str, object]:
        """State, since when, and calls under way."""
        return {
            "state": self._state,
            "since_seconds": max(0.0, CLOCK.now() - self._since),
            "in_flight": self.in_flight,
        }

    def after_fork(self, now: float) -> None:
        """A child has a life of its own, and ends as if this were not there until it calls `install` itself.

        It inherits our handlers: they go on to those that were there before, of which the parent's loop is none of its.
        """
        self._state, self._since = "running", now
        self._previous = {n: before for n, before in self._previous.items() if not isinstance(before, LoopHandler)}
        self._forwarded.clear()
        self._begun.clear()
        self._installed_here = False

    @overload
    def on_shutdown(self, hook: H, /) -> H: ...
    @overload
    def on_shutdown(
        self, hook: None = None, /, *, priority: int = 0, timeout: Seconds = 5.0, name: str | None = None
    ) -> Callable[[H], H]: ...
    def on_shutdown(
        self, hook: Any = None, /, *, priority: int = 0, timeout: Seconds = 5.0, name: str | None = None
    ) -> Any:
        """Run a function, plain or async, at the end.

        Args:
            hook: a function without arguments.
            priority: lower ones run first; of one priority the newest runs first, as with `contextlib.ExitStack`.
            timeout: seconds for this hook, above 0. One that takes longer is left behind, and the next one runs.
            name: for the log. Default: that of the function.

        Raises:
            ConfigurationError: a setting is wrong.

        Example:
            >>> from resilient.lifecycle import Lifecycle
            >>> lifecycle = Lifecycle(lame_duck=0)
            >>> @lifecycle.on_shutdown(priority=10, timeout=2.0)
            ... def close_pool() -> None:
            ...     print("pool closed")
            >>> lifecycle.stop()
            pool closed
        """
        check = Checker("on_shutdown", name)
        if not isinstance(priority, int) or isinstance(priority, bool):
            refuse(check.policy, "priority", priority, "a whole number")
        seconds = check.seconds("timeout", timeout)

        def register(function: H) -> H:
            if not callable(function):
                refuse(check.policy, "hook", function, "a function without arguments")
            shown = name or getattr(function, "__qualname__", None) or repr(function)
            self._hooks.append(ShutdownHook(function, shown, priority, seconds, len(self._hooks)))
            return function

        return register if hook is None else register(hook)

    def install(
        self,
        signals: Iterable[signal.Signals] = _SIGNALS,
        *,
        lame_duck: Seconds | None = None,
        timeout: Seconds | None = None,
    ) -> None:
        """Hear of these signals before those who have them now, and run `stop` when the process exits, at the latest.

        Call it on the main thread, after the server has set its own handlers: in the lifespan of an ASGI application
        (`asgi` does it), in gunicorn's `post_worker_init`. Calling it again chains what has come since.

        Args:
            signals: those that end the process.
            lame_duck: in the place of the setting of that name.
            timeout: in the place of the setting of that name.

        Raises:
            ConfigurationError: a setting is wrong.
            RuntimeError: not on the main thread.
        """
        check = Checker("lifecycle")
        self.lame_duck = self.lame_duck if lame_duck is None else check.seconds("lame_duck", lame_duck, zero=True)
        self.timeout = self.timeout if timeout is None else check.seconds("timeout", timeout)
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("lifecycle.install() must be called on the main thread: signals are handled there")
        for number in signals:
            before = signal.getsignal(number)
            # A signal that is ignored on purpose, or handled by something that is not Python, is left alone.
            if before in (signal.SIG_IGN, None) or getattr(before, "__self__", None) is self:
                continue
            self._previous[number] = take_from_loop(number) or before
            signal.signal(number, self._on_signal)
        self._installed_here = True
        if not self._at_exit:
            self._at_exit = True
            atexit.register(self._stop_at_exit)

    def uninstall(self) -> None:
        """Put back the handlers that were there before, where they are still ours."""
        for number, before in self._previous.items():
            if getattr(signal.getsignal(number), "__self__", None) is self and not isinstance(before, LoopHandler):
                signal.signal(number, before)
        self._previous.clear()

    def drain(self) -> None:
        """Say that the end is near: readiness goes, everything else goes on. What a signal does first."""
        if self._state == "running":
            self._change("draining")
            _log("info", "draining: readiness is gone, %d calls under way", self.in_flight)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self._installed_here:
            self._forward_from_child(number, frame)
            return
        first = self._state == "running"
        self.drain()
        if first and self.lame_duck:
            thread = threading.Thread(target=self._send_again, args=(number,), name="resilient-lame-duck", daemon=True)
            thread.start()
            return
        self._forwarded.add(number)
        self._forward(number, frame)

    def _send_again(self, number: int) -> None:
        threads.sleep(self.lame_duck)
        if number not in self._forwarded:
            # Whoever had the signal before expects it on the main thread, and a blocking call there to end.
            os.kill(os.getpid(), number)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        before = self._previous.get(number)
        if callable(before):
            before(number, frame)
        else:
            # The default would end the process on the spot: nobody's `finally`, and no hook, would run.
            raise SystemExit(128 + number)

    def _forward_from_child(self, number: int, frame: FrameType | None) -> None:
        before = self._previous.get(number)
        if callable(before):
            before(number, frame)
        else:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _stop_at_exit(self) -> None:
        if self._installed_here:
            self.stop()

    def stop(self) -> None:
        """Wait for calls under way, run the hooks, export: within `timeout` seconds, and once.

        Async hooks run in an event loop of their own; in a service that has one, `await stop_async()`. One that is
        interrupted half-way is finished by the next call, at the latest when the process exits.
        """
        if not self._begin_stop():
            return
        end = CLOCK.now() + self.timeout
        try:
            while self.in_flight and CLOCK.now() < end:
                threads.sleep(min(_POLL, max(0.0, end - CLOCK.now())))
            for hook in self._in_order():
                self._report(hook, run_hook(hook.run, min(hook.timeout, end - CLOCK.now())))
            export_and_stop(max(0.0, end - CLOCK.now()))
        except BaseException:
            self._change("draining")
            raise
        self._change("stopped")

    async def stop_async(self) -> None:
        """The same for a service with an event loop: async hooks run in it, others on threads."""
        if not self._begin_stop():
            return
        end = CLOCK.now() + self.timeout
        try:
            while self.in_flight and CLOCK.now() < end:
                await tasks.sleep(min(_POLL, max(0.0, end - CLOCK.now())))
            for hook in self._in_order():
                self._report(hook, await run_hook_async(hook.run, min(hook.timeout, end - CLOCK.now())))
            await tasks.in_thread(lambda: export_and_stop(max(0.0, end - CLOCK.now())))
        except BaseException:
            self._change("draining")
            raise
        self._change("stopped")

    def _begin_stop(self) -> bool:
        self.drain()
        if self._state != "draining":
            return False
        self._change("stopping")
        return True

    def _in_order(self) -> Iterator[ShutdownHook]:
        left = self.in_flight
        if left:
            _log("warning", "stopping with %d calls still under way", left)
        for hook in sorted(self._hooks, key=lambda hook: hook.rank):
            if hook.turn not in self._begun:
                self._begun.add(hook.turn)
                yield hook

    def _report(self, hook: ShutdownHook, outcome: Outcome) -> None:
        if outcome == "late":
            _log("warning", "shutdown hook %s took longer than its %g s and was left behind", hook.name, hook.timeout)
        elif isinstance(outcome, BaseException):
            _log("warning", "shutdown hook %s failed", hook.name, error=outcome)

    def _change(self, state: State) -> None:
        self._state = state
        self._since = CLOCK.now()

    def asgi(self, app: Any) -> Any:
        """An ASGI application that installs this at its startup, and stops at the server's shutdown.

        Example:
            >>> from resilient.lifecycle import Lifecycle
            >>> async def app(scope, receive, send): ...
            >>> app = Lifecycle().asgi(app)
        """
        from resilient.lifecycle.lifespan import with_lifespan

        return with_lifespan(self, app)


def _log(level: Literal["info", "warning"], message: str, *values: object, error: BaseException | None = None) -> None:
    import logging

    getattr(logging.getLogger("resilient.lifecycle"), level)(message, *values, exc_info=error)
