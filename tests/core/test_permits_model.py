"""Permits and their queue at random, against a plain model."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

from resilient.core.permits import Permits
from tests.core.permits_kit import Sleeper


class PermitsMachine(RuleBasedStateMachine):
    """The model: how many hold a permit, who waits in which order, who has been granted one and not taken it yet."""

    def __init__(self) -> None:
        super().__init__()
        self.limit = 2
        self.max_queue = 3
        self.permits = Permits(self.limit, self.max_queue)
        self.holders = 0
        self.waiting: list[Sleeper] = []
        self.granted: list[Sleeper] = []

    sleepers = Bundle("sleepers")

    def hand_out(self) -> None:
        while self.waiting and self.holders < self.limit:
            sleeper = self.waiting.pop(0)
            if not sleeper.gone:
                self.holders += 1
                self.granted.append(sleeper)

    @rule()
    def acquire(self) -> None:
        possible = self.holders < self.limit and not self.waiting
        assert self.permits.try_acquire() is possible
        self.holders += possible

    @precondition(lambda self: self.holders > len(self.granted))
    @rule()
    def release(self) -> None:
        self.permits.release()
        self.holders -= 1
        self.hand_out()

    @rule(target=sleepers, gone=st.booleans())
    def queue_up(self, gone: bool) -> object:
        if self.holders >= self.limit and len(self.waiting) >= self.max_queue:
            assert self.permits.queue_up(lambda: True) is None
            return None
        sleeper = Sleeper(self.permits, gone=gone)
        if self.holders < self.limit:
            # It is there to be asked, and needs no waking.
            assert sleeper.place.granted
            self.holders += 1
            self.granted.append(sleeper)
        else:
            self.waiting.append(sleeper)
        return sleeper

    @rule(sleeper=sleepers)
    def end_wait(self, sleeper: Sleeper | None) -> None:
        if sleeper is None:
            return
        assert self.permits.end_wait(sleeper.place) is (sleeper in self.granted)
        if sleeper in self.granted:
            self.granted.remove(sleeper)
        elif sleeper in self.waiting:
            self.waiting.remove(sleeper)

    @rule(limit=st.integers(1, 5))
    def resize(self, limit: int) -> None:
        self.permits.resize(limit, 0.0)
        self.limit = limit
        self.hand_out()

    @rule(count=st.integers(0, 2))
    def lend(self, count: int) -> None:
        self.permits.lend(count)
        self.holders += count

    @invariant()
    def both_agree(self) -> None:
        assert self.permits.limit == self.limit
        assert self.permits.in_flight == self.holders
        assert self.permits.queued == len(self.waiting)
        for sleeper in self.granted:
            assert sleeper.place.granted
        for sleeper in self.waiting:
            assert not sleeper.place.granted
            assert sleeper.woken == 0


TestPermitsMachine = PermitsMachine.TestCase
