"""Paths below a prefix."""

from __future__ import annotations

from resilient.core.checks import refuse


def checked_prefix(owner: str, prefix: object) -> str:
    """A prefix without the slash at its end: "" for the root."""
    if not isinstance(prefix, str) or (prefix and not prefix.startswith("/")) or "//" in prefix:
        refuse(owner, "prefix", prefix, 'a path such as "/health"')
    return prefix.rstrip("/")


def below(prefix: str, path: str) -> str | None:
    """The rest of the path, beginning with a slash; None: it is not below the prefix."""
    if path == prefix:
        return "/"
    return path[len(prefix) :] if path.startswith(prefix + "/") else None
