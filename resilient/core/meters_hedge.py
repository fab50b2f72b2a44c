"""The meter of hedge: `resilience.hedge.*`."""

from __future__ import annotations

from resilient.core.meters import Meter, number


class HedgeMeter(Meter):
    """Calls and attempts of one hedge policy."""

    __slots__ = (
        "attempts_cancelled",
        "attempts_failed",
        "attempts_lost",
        "attempts_won",
        "failed",
        "hedge_won",
        "not_hedged",
        "primary_won",
    )

    def __init__(self) -> None:
        self.not_hedged = number()
        self.primary_won = number()
        self.hedge_won = number()
        self.failed = number()
        self.attempts_won = number()
        self.attempts_lost = number()
        self.attempts_failed = number()
        self.attempts_cancelled = number()

    def calls(self) -> dict[str, int]:
        """Calls by `resilience.hedge.result`."""
        return {
            "not_hedged": int(self.not_hedged),
            "primary_won": int(self.primary_won),
            "hedge_won": int(self.hedge_won),
            "failed": int(self.failed),
        }

    def attempts(self) -> dict[str, int]:
        """Attempts by `resilience.attempt.result`."""
        return {
            "won": int(self.attempts_won),
            "lost": int(self.attempts_lost),
            "failed": int(self.attempts_failed),
            "cancelled": int(self.attempts_cancelled),
        }
