"""The arithmetic of the benchmarks, with made-up times: that they are fair is shown here, and not by their figures."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from benchmarks.altered import mentions, without
from benchmarks.peers.case import Case, Goal
from benchmarks.peers.document import BEGIN, END, document
from benchmarks.peers.measuring import Quiet, best_overhead, calibrate, measure, overhead
from benchmarks.peers.results import Results, rows_of

SPIN = 1e-4


def quiet(spins: Iterator[float] | None = None, lost: Iterator[tuple[int, float]] | None = None) -> Quiet:
    """A processor whose spins, and whose losses, are known beforehand."""
    losses = lost or iter(lambda: (0, 0.0), None)
    made = Quiet(spin=lambda: next(spins) if spins else SPIN, lost=lambda: next(losses))
    made.fastest = SPIN
    return made


def test_the_overhead_is_the_median_of_differences_within_a_round() -> None:
    # In the third round everything took three times as long, and the difference of the medians would be another.
    assert overhead([110, 112, 330, 111, 140], [100, 101, 300, 100, 100]) == 11


def test_without_a_bare_call_it_is_the_median() -> None:
    assert overhead([3, 1, 2], None) == 2


def test_rounds_without_a_partner_are_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        overhead([1, 2], [1])


def test_the_best_process_counts_and_each_has_its_own_bare_call() -> None:
    assert best_overhead([[30, 30], [25, 25], [90, 90]], [[10, 10], [10, 10], [80, 80]]) == 10


def test_a_slice_beside_a_slow_spin_is_measured_again() -> None:
    spins = iter([SPIN, 2 * SPIN, SPIN, SPIN, SPIN])
    times = iter([9.0, 8.0, 5.0])
    machine = quiet(spins)
    # Slow after the first try, so slow before the second as well; the third is quiet on both sides.
    assert list(machine.slices([("one", lambda loops: next(times), 10)])) == [("one", 0.5)]
    assert (machine.taken, machine.repeated, machine.disturbed) == (1, 2, 0)


def test_a_slice_in_which_the_process_lost_its_processor_is_measured_again() -> None:
    lost = iter([(0, 0.0), (1, 0.4), (1, 0.4), (1, 0.4)])
    times = iter([1.0, 0.6])
    machine = quiet(lost=lost)
    assert list(machine.slices([("one", lambda loops: next(times), 1)])) == [("one", 0.6)]
    assert machine.disturbed == 0


def test_to_wait_without_losing_the_processor_is_part_of_the_work() -> None:
    lost = iter([(3, 0.0), (3, 0.9)])
    machine = quiet(lost=lost)
    assert list(machine.slices([("one", lambda loops: 1.0, 1)])) == [("one", 1.0)]
    assert machine.repeated == 0


def test_on_a_machine_that_is_never_quiet_the_quietest_try_is_taken_in_the_end() -> None:
    spins = iter([2 * SPIN, 4 * SPIN, 3 * SPIN, 1.5 * SPIN, 1.4 * SPIN, *[4 * SPIN] * 100])
    times = count(1)
    machine = quiet(spins)
    machine.taken = 100  # so much patience is left
    assert list(machine.slices([("one", lambda loops: float(next(times)), 1)])) == [("one", 4.0)]
    assert machine.disturbed == 1


def test_patience_is_limited_over_all_slices() -> None:
    spins = iter(lambda: 4 * SPIN, None)
    machine = quiet(spins)
    timers = [(str(number), lambda loops: 1.0, 1) for number in range(100)]
    assert len(list(machine.slices(timers))) == 100
    assert machine.disturbed == 100
    assert machine.repeated <= 100 + 5


def test_loops_are_as_many_as_fill_a_slice() -> None:
    assert calibrate(lambda loops: loops * 2e-6, 0.003) == 1500


def test_one_interrupted_run_does_not_make_the_slices_short() -> None:
    runs = count()
    # Every third takes 50 ms longer, as when somebody else had the processor.
    assert calibrate(lambda loops: loops * 2e-6 + (0.05 if next(runs) % 3 == 0 else 0.0), 0.003) == 1500


def test_what_is_slower_than_a_slice_runs_once() -> None:
    assert calibrate(lambda loops: loops * 1.0, 0.003) == 1


def test_each_round_has_one_value_of_every_candidate_in_another_order() -> None:
    order: list[str] = []

    def timer(name: str, cost: float) -> Callable[[int], float]:
        def time(loops: int) -> float:
            order.append(name)
            return cost * loops

        return time

    taken = measure(
        {"a": timer("a", 1e-6), "b": timer("b", 2e-6)},
        rounds=4,
        seconds=0.001,
        quiet=quiet(),
        loops=10,
        shuffle=lambda timers: timers.reverse(),
    )
    assert order == ["b", "a", "a", "b", "b", "a", "a", "b"]
    assert taken.values == {"a": pytest.approx([1e-6] * 4), "b": pytest.approx([2e-6] * 4)}


def test_a_second_copy_of_the_package_is_another_one_and_leaves_the_first_alone() -> None:
    import resilient

    def make() -> tuple[str, object]:
        import resilient

        return resilient.__name__, resilient.registry

    name, other = without(lambda statement: False, make)
    assert name == "resilient"
    assert other is not resilient.registry
    import resilient as again

    assert again is resilient


def guarded() -> Callable[[], int]:
    from resilient import Registry, circuit_breaker

    @circuit_breaker(registry=Registry())
    def one() -> int:
        return 1

    assert one() == 1
    return one


def test_the_second_copy_does_not_ask_for_a_trace_and_the_first_goes_on_asking() -> None:
    def asks(statement: ast.stmt) -> bool:
        return isinstance(statement, ast.If) and mentions(statement.test, "opentelemetry.trace")

    lacking: Any = without(asks, guarded)
    usual: Any = guarded()
    assert "opentelemetry.trace" in usual.__code__.co_consts
    assert "opentelemetry.trace" not in lacking.__code__.co_consts
    assert lacking() == usual() == 1


def test_goals_are_held_against_the_fastest_of_those_they_name() -> None:
    goal = Goal(("slow", "fast", "absent"), {"3.11": 0.10, "3.12": 0.18})
    case = Case("case", "Case", "sync", dict.fromkeys(("resilient", "slow", "fast", "by hand"), lambda: None), (goal,))
    overheads = {"resilient": 30e-9, "slow": 900e-9, "fast": 200e-9, "by hand": 20e-9}
    row, by_hand, slow = rows_of(case, overheads, "3.11")
    assert (row.against, row.value, row.limit, row.met) == ("fast", pytest.approx(0.15), 0.10, False)
    assert (by_hand.against, by_hand.limit, by_hand.met) == ("by hand", 1.6, True)
    assert (slow.against, slow.limit, slow.met) == ("slow", None, None)
    assert rows_of(case, overheads, "3.13")[0].limit == 0.18
    assert rows_of(case, overheads, "3.13")[0].met is True


def test_a_goal_may_be_a_difference_or_a_figure_by_itself() -> None:
    goals = (Goal(("without",), 40e-9, "with", "difference"), Goal((), 0.04, "snapshot", "itself"))
    case = Case("case", "Case", "timers", {}, goals)
    more, snapshot = rows_of(case, {"with": 350e-9, "without": 300e-9, "snapshot": 0.03}, "3.11")
    assert (more.value, more.met) == (pytest.approx(50e-9), False)
    assert (snapshot.value, snapshot.met) == (0.03, True)


def test_only_what_stands_between_the_marks_is_written_anew(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    document([Results({}, "3.11", "a machine", 0.25)], [], page)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert "25%" in text
