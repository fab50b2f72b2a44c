"""Guarding functions of third-party libraries where they stand, when or once their module is imported."""

from __future__ import annotations

import re
import sys
from importlib import import_module
from inspect import getattr_static
from typing import Any, Final

from resilient.core.checks import refuse
from resilient.core.fork import new_rlock
from resilient.pipeline import Pipeline
from resilient.policies.base import Policy

_TARGET: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_MISSING: Final = object()


class _Patch:
    """One target: its policy, and once it is guarded how to undo it."""

    __slots__ = ("_guarded", "_holder", "_name", "_original", "policy")

    def __init__(self, policy: Policy | Pipeline) -> None:
        self.policy = policy
        self._holder: Any = _MISSING
        self._name = ""
        self._original: Any = _MISSING
        self._guarded: Any = None

    def apply(self, holder: Any, name: str) -> None:
        self._original = holder.__dict__.get(name, _MISSING)
        if not isinstance(holder, type):
            found = getattr(holder, name)
        elif self._original is _MISSING:
            found = getattr_static(holder, name)
        else:
            # Straight from the class: a static or class method must not be bound yet.
            found = self._original
        self._guarded = self.policy(found)
        setattr(holder, name, self._guarded)
        self._holder, self._name = holder, name

    def undo(self) -> bool:
        """Put back what was there; False where somebody else has replaced it since."""
        if self._holder is _MISSING:
            return True
        if self._holder.__dict__.get(self._name) is not self._guarded:
            return False
        if self._original is _MISSING:
            delattr(self._holder, self._name)
        else:
            setattr(self._holder, self._name, self._original)
        return True


_PATCHES: Final[dict[str, _Patch]] = {}
# Re-entered where looking at a module imports another one that is to be patched.
_LOCK: Final = new_rlock()


def patch(target: str, policy: Policy | Pipeline) -> None:
    """Guard a function or method of another library with a policy or pipeline.

    Where the module has been imported it is patched at once, else as soon as it is. Names that were copied out of the
    module before (`from module import function`) stay unguarded.

    Args:
        target: "module:attribute", as in "httpx:Client.send".
        policy: a policy or pipeline.

    Raises:
        ConfigurationError: the target is malformed, patched already, or is nothing that can be guarded; for a module
            that is imported later, the import raises it.

    Example:
        >>> import base64
        >>> from resilient import circuit_breaker, patch, unpatch
        >>> patch("base64:b64encode", circuit_breaker("encoding"))
        >>> base64.b64encode(b"guarded")
        b'Z3VhcmRlZA=='
        >>> unpatch("base64:b64encode")
    """
    if not isinstance(target, str) or not _TARGET.fullmatch(target):
        refuse("patch", "target", target, 'a string such as "httpx:Client.send"')
    if not isinstance(policy, (Policy, Pipeline)):
        refuse("patch", "policy", policy, "a policy such as retry(), or a pipeline")
    module = target.partition(":")[0]
    change = _Patch(policy)
    with _LOCK:
        if target in _PATCHES:
            refuse("patch", "target", target, "a target that is not patched; unpatch it first")
        _PATCHES[target] = change
    if module in sys.modules:
        _apply(target, change)
        return
    import wrapt

    wrapt.register_post_import_hook(lambda _: _apply(target, change), module)


def unpatch(target: str) -> None:
    """Undo `patch(target, ...)`, also before the module is imported.

    Raises:
        ConfigurationError: the target is not patched; or somebody else has replaced it since, and then it is left as
            it is.
    """
    with _LOCK:
        change = _PATCHES.pop(target, None)
        if change is None:
            refuse("unpatch", "target", target, "a target that was given to patch()")
        if not change.undo():
            refuse("unpatch", "target", target, "one that nobody else has replaced since; it stays as it is")


def _apply(target: str, change: _Patch) -> None:
    module, _, path = target.partition(":")
    try:
        # Waits for another thread that is in the middle of importing it.
        holder: Any = import_module(module)
        *names, name = path.split(".")
        for step in names:
            holder = _attribute(target, holder, step)
        _attribute(target, holder, name)
        with _LOCK:
            if _PATCHES.get(target) is not change:
                return  # unpatched in the meantime
            try:
                change.apply(holder, name)
            except (TypeError, AttributeError) as error:
                refuse("patch", "target", target, f"a function or method that can be replaced ({error})")
    except BaseException:
        with _LOCK:
            if _PATCHES.get(target) is change:
                del _PATCHES[target]
        raise


def _attribute(target: str, holder: Any, name: str) -> Any:
    try:
        return getattr(holder, name)
    except AttributeError:
        refuse("patch", "target", target, f"a target that exists: {holder!r} has no attribute {name!r}")
