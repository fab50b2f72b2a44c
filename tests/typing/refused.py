"""What type checkers must refuse: every line that ends in `# E`, and no other. Never run."""

from __future__ import annotations

# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false
# pyright: reportUnusedCoroutine=false, reportGeneralTypeIssues=false, reportAssignmentType=false
from resilient import circuit_breaker, pipeline, registry, retry, standard_pipeline, subscribe, timeout
from resilient.backoff import exponential
from resilient.testing import cap, fake_clock, trip


@retry(attempts=3)
def fetch(url: str, *, limit: int = 3) -> list[str]:
    return [url] * limit


@pipeline("payments", circuit_breaker(), timeout(2.0))
async def charge(order: str) -> int:
    return len(order)


class Service:
    @retry
    def method(self, number: int) -> str:
        return str(number)

    @property
    @retry
    def value(self) -> int:
        return 1


# Arguments of guarded functions

fetch(3)  # E
fetch("url", limit="many")  # E
fetch("url", 3)  # E
fetch()  # E
fetch("url").upper()  # E
Service().method("one")  # E
Service().value.upper()  # E


async def wrong_awaits() -> None:
    await fetch("url")  # E
    number: int = charge("order")  # E
    del number


# Arguments handed over to call and call_async

retry().call(fetch, 3)  # E
retry().call(fetch, "url", limit="many")  # E
retry().call_async(fetch, "url")  # E
retry().call_async(charge, 3)  # E

# Settings

retry(attempt=3)  # E
retry(attempts="3")  # E
retry(3)  # E
retry(on="ValueError")  # E
retry(on_exhausted="fail")  # E
retry(fetch, attempts=3)  # E
circuit_breaker("payments", failure_rate="half")  # E
circuit_breaker("payments", 5)  # E
circuit_breaker(name=3)  # E
timeout()  # E
timeout("2")  # E
timeout(2.0, interrupt="kill")  # E
exponential(jitter="none")  # E
standard_pipeline()  # E
standard_pipeline("payments", retry=timeout(2.0))  # E
cap(attempts=None)  # E
subscribe(print, kinds=3)  # E
trip(3)  # E
fake_clock().advance("3")  # E

# What is no policy, or no function

pipeline(retry, timeout(2.0))  # E
pipeline("payments", 3)  # E
retry(3)  # E
timeout(2.0)(3)  # E
registry.find(fetch, "payments")  # E

# Right ones among them must not be marked

fetch("url", limit=3)
retry().call(fetch, "url", limit=3)
timeout(2)
