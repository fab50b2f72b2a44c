"""For the tests of applications: virtual time, switches, and what policies tell.

    >>> from resilient import retry
    >>> from resilient.testing import fake_clock
    >>> answers = iter([1 / 3, 2 / 3, 1])
    >>> poll = retry(on_result=lambda answer: answer < 1, backoff=60)
    >>> with fake_clock() as clock:
    ...     poll.call(next, answers)
    1
    >>> clock.sleeps
    [60.0, 60.0]

The pytest plugin, which is there as soon as the package is installed, has the fixtures `fake_clock` and
`resilience_events`.
"""

from __future__ import annotations

from resilient.testing.clock import FakeClock, fake_clock
from resilient.testing.recording import RecordedEvents, record_events
from resilient.testing.switches import cap, disabled, trip

__all__ = ["FakeClock", "RecordedEvents", "cap", "disabled", "fake_clock", "record_events", "trip"]
