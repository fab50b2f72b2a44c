from __future__ import annotations

import gc
import sys
import threading

import pytest

from resilient.core.windows import FAILURE, SLOW, CountWindow, TimeWindow, Window

CODES = {".": 0, "F": FAILURE, "S": SLOW, "B": FAILURE | SLOW}


def play(window: Window, results: str, now: float = 0.0) -> None:
    """`.` a success that takes no lock, the others as the breaker adds them."""
    for result in results:
        if result == ".":
            window.success(now)
        else:
            window.add_locked(now, CODES[result])


class TestCountWindow:
    @pytest.mark.parametrize(
        "size, results, counts",
        [
            (3, "", (0, 0, 0)),
            (3, ".", (1, 0, 0)),
            (3, "F", (1, 1, 0)),
            (3, "B", (1, 1, 1)),
            (3, "FSB", (3, 2, 2)),
            (3, "F..", (3, 1, 0)),
            (3, "F...", (3, 0, 0)),
            (3, "FF.S", (3, 1, 1)),
            (3, "FFF.", (3, 2, 0)),
            (3, "FFF....", (3, 0, 0)),
            (3, "BBB.F", (3, 2, 1)),
            (1, "F.", (1, 0, 0)),
            (1, ".F", (1, 1, 0)),
        ],
    )
    def test_it_holds_the_last_calls(self, size: int, results: str, counts: tuple[int, int, int]) -> None:
        window = CountWindow(size)
        play(window, results)
        assert window.counts(0.0) == counts

    def test_successes_that_wait_push_out_the_oldest_calls(self) -> None:
        window = CountWindow(4)
        play(window, "FSFS..")
        assert (window.calls, window.failures, window.slow) == (4, 2, 2)
        assert window.counts(0.0) == (4, 1, 1)
        play(window, "F")
        assert (window.calls, window.failures, window.slow) == window.counts(0.0) == (4, 1, 1)

    def test_looking_changes_nothing(self) -> None:
        window = CountWindow(3)
        play(window, "FF..")
        assert window.counts(0.0) == window.counts(0.0) == (3, 1, 0)
        play(window, "F")
        assert (window.calls, window.failures) == (3, 1)

    def test_a_million_successes_take_no_more_memory_than_the_window(self) -> None:
        window = CountWindow(5)
        for _ in range(1_000_000):
            window.success(0.0)
        assert len(window._inbox) == 5
        play(window, "F")
        assert (window.calls, window.failures, len(window._ring)) == (5, 1, 5)


class TestTimeWindow:
    def test_a_call_is_forgotten_after_the_duration_and_not_before(self) -> None:
        window = TimeWindow(10.0)
        play(window, "F", 100.0)
        assert window.counts(109.999) == (1, 1, 0)
        assert window.counts(110.0) == (0, 0, 0)

    def test_calls_a_hundredth_of_the_window_apart_are_forgotten_one_by_one(self) -> None:
        window = TimeWindow(12.5)
        for step in range(20):
            play(window, "F", step * 0.125)
        assert [window.counts(12.5 + step * 0.125)[1] for step in range(20)] == list(range(19, -1, -1))

    def test_calls_close_together_are_forgotten_with_the_last_of_them(self) -> None:
        window = TimeWindow(10.0)
        play(window, "F", 0.0)
        play(window, "F", 0.0625)
        assert window.counts(10.0) == (2, 2, 0)
        assert window.counts(10.0625) == (0, 0, 0)

    def test_what_has_passed_no_longer_trips(self) -> None:
        window = TimeWindow(10.0)
        play(window, "BBBB", 0.0)
        play(window, "F", 11.0)
        assert (window.calls, window.failures, window.slow) == (1, 1, 0)

    def test_idle_time_is_forgotten_at_once_however_long(self) -> None:
        window = TimeWindow(10.0)
        for step in range(100):
            play(window, "F", step * 0.1)
        play(window, "F", 1e12)
        assert window.counts(1e12) == (1, 1, 0)
        assert len(window._cells) == 1

    def test_memory_stays_bounded_whatever_the_load(self) -> None:
        window = TimeWindow(10.0)
        for step in range(50_000):
            play(window, "F" if step % 7 == 0 else ".", step * 0.013)
        assert len(window._cells) <= TimeWindow.CELLS + 1

    def test_successes_alone_stay_bounded_too(self) -> None:
        window = TimeWindow(1.0)
        for step in range(5_000):
            window.success(step * 1.0)
        assert len(window._cells) <= 4 * TimeWindow.CELLS

    def test_looking_changes_nothing(self) -> None:
        window = TimeWindow(10.0)
        play(window, "F.", 0.0)
        assert window.counts(1e6) == (0, 0, 0)
        assert window.counts(5.0) == (2, 1, 0)

    def test_other_threads_may_begin_a_cell_while_garbage_is_collected_in_the_middle_of_counting(self) -> None:
        window = TimeWindow(10.0)
        for step in range(50):
            window.success(step * 0.2)
        now = 20.0

        def begin_a_cell(phase: str, info: dict[str, int]) -> None:
            nonlocal now
            now += 1.0
            window.success(now)

        threshold = gc.get_threshold()
        gc.callbacks.append(begin_a_cell)
        gc.set_threshold(1)
        try:
            for _ in range(500):
                window.counts(10.0)
        finally:
            gc.set_threshold(*threshold)
            gc.callbacks.remove(begin_a_cell)


class TestStreak:
    @pytest.mark.parametrize("make", [lambda: CountWindow(10), lambda: TimeWindow(10.0)], ids=["calls", "time"])
    @pytest.mark.parametrize(
        "results, streak",
        [("F", 1), ("FFF", 3), (".F", 1), ("FF.F", 1), ("FFSF", 1), ("FBF", 3), ("FFS", 0), ("F" * 30, 30)],
    )
    def test_it_counts_the_failures_since_the_last_success(self, make: type, results: str, streak: int) -> None:
        window: Window = make()
        play(window, results)
        assert window.streak == streak


@pytest.mark.parametrize("make", [lambda: CountWindow(10_000), lambda: TimeWindow(10.0)], ids=["calls", "time"])
def test_successes_of_eight_threads_are_all_counted(make: type) -> None:
    window: Window = make()
    lock = threading.Lock()

    def work() -> None:
        for step in range(500):
            window.success(step * 0.01)
            if step % 50 == 0:
                with lock:
                    window.add_locked(step * 0.01, FAILURE)

    threads = [threading.Thread(target=work) for _ in range(8)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert window.counts(5.0) == (8 * 510, 80, 0)
