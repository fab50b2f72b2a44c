"""What it costs to ask whether a feature is on, between two readings of the signals: the goal is under 150 ns.

    python benchmarks/bench_degradation.py            # all
    python benchmarks/bench_degradation.py --fast     # rougher, in seconds

The figures are of this machine at this moment: compare rows of one run.
"""

from __future__ import annotations

import pyperf

from resilient import Registry
from resilient.degradation import Degradation
from resilient.policies.recover import recover


def work() -> None: ...


def main() -> None:
    registry = Registry()
    degradation = Degradation(registry=registry)
    for number in range(4):
        degradation.signal(f"signal {number}", lambda: 0.1)
    degradation.feature("recommendations", off_at="reduced")
    names = {
        "degradation": degradation,
        "bare": work,
        "degradable": degradation.degradable("recommendations", off_at="reduced", fallback=None)(work),
        "sheddable": degradation.sheddable(priority="bulk")(work),
        "recover": recover({ConnectionError: "retry", KeyError: "ignore"}, registry=registry)(work),
    }
    runner = pyperf.Runner()
    runner.timeit("is_active", 'degradation.is_active("recommendations")', globals=names)
    runner.timeit("sheds", 'degradation.sheds("bulk")', globals=names)
    for name in ("bare", "degradable", "sheddable", "recover"):
        runner.timeit(name, f"{name}()", globals=names)


if __name__ == "__main__":
    main()
