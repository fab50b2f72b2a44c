"""`resilient wait URL...`: until everything that a service needs is there."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from resilient.errors import ConfigurationError

if TYPE_CHECKING:
    from resilient.health.waiting import Progress

THERE: Final = 0
MISSING: Final = 1
WRONG: Final = 2


def wait(urls: Sequence[str], *, timeout: float, quiet: bool) -> int:
    """Wait, tell what is there as it comes, and what is missing in the end; gives back the exit code."""
    from resilient.health.waiting import NotHealthyError, wait_until_healthy

    told: set[str] = set()

    def tell(progress: Progress) -> None:
        for name in progress.healthy:
            if name not in told:
                told.add(name)
                _say(f"{progress.seconds:6.1f} s  {name} is there", quiet)
        if progress.turn == 1:
            for name, error in progress.missing.items():
                _say(f"{progress.seconds:6.1f} s  waiting for {name}: {error}", quiet)

    try:
        wait_until_healthy(list(urls), timeout, on_progress=tell)
    except NotHealthyError as error:
        for name, reason in error.missing.items():
            print(f"resilient wait: {name} is missing after {error.seconds:.1f} s: {reason}", file=sys.stderr)
        return MISSING
    except ConfigurationError as error:
        print(f"resilient wait: {error}", file=sys.stderr)
        return WRONG
    return THERE


def _say(line: str, quiet: bool) -> None:
    if not quiet:
        print(line, flush=True)
