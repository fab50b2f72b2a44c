from __future__ import annotations

import itertools
import math
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from datetime import timedelta
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.backoff import Backoff, Jitter, constant, exponential, linear
from resilient.core.backoff import as_backoff
from resilient.errors import ConfigurationError

LARGEST = 1.7976931348623157e308

attempts = st.integers(1, 2_000)
shares = st.floats(0, 1, exclude_max=True)
jitters: st.SearchStrategy[Jitter] = st.one_of(
    st.sampled_from(["full", "equal", "decorrelated", None]), st.floats(0, 1)
)
durations = st.floats(min_value=5e-324, max_value=LARGEST)


def fixed(share: float) -> Callable[[], float]:
    return lambda: share


def no_random() -> float:
    raise AssertionError("no random number is needed here")


def in_quarters(attempt: int) -> float:
    return attempt / 4


def in_minutes(attempt: int) -> timedelta:
    return timedelta(minutes=attempt)


async def asynchronous(attempt: int) -> float:
    return 1.0


class TestFormulas:
    def test_constant_is_the_same_for_every_attempt(self) -> None:
        assert [constant(1.5).delay(n, None, no_random) for n in (1, 2, 2_000)] == [1.5, 1.5, 1.5]

    def test_linear_grows_by_its_step_up_to_max(self) -> None:
        assert [linear(2, max=5).delay(n, None, no_random) for n in (1, 2, 3, 2_000)] == [2.0, 4.0, 5.0, 5.0]

    def test_exponential_without_jitter_multiplies_up_to_max(self) -> None:
        backoff = exponential(0.5, factor=3, max=10, jitter=None)
        assert [backoff.delay(n, None, no_random) for n in (1, 2, 3, 4, 2_000)] == [0.5, 1.5, 4.5, 10.0, 10.0]

    @pytest.mark.parametrize(
        "jitter, share, delay",
        [
            ("full", 0.0, 0.0),
            ("full", 0.25, 1.0),
            ("equal", 0.0, 2.0),
            ("equal", 0.25, 2.5),
            (0.5, 0.0, 2.0),
            (0.5, 0.5, 4.0),
            (0.5, 0.75, 5.0),
            (1.0, 0.0, 0.0),
            (0, 0.9, 4.0),
        ],
    )
    def test_jitter_spreads_the_third_delay_of_four_seconds(self, jitter: Jitter, share: float, delay: float) -> None:
        assert exponential(1, max=30, jitter=jitter).delay(3, None, fixed(share)) == delay

    @pytest.mark.parametrize(
        "previous, share, delay",
        [(None, 0.0, 1.0), (None, 0.5, 2.0), (4.0, 0.0, 1.0), (4.0, 0.5, 6.5), (8.0, 0.9, 10.0), (0.1, 0.5, 1.0)],
    )
    def test_decorrelated_jitter_goes_from_initial_to_three_times_the_previous(
        self, previous: float | None, share: float, delay: float
    ) -> None:
        assert exponential(1, max=10, jitter="decorrelated").delay(7, previous, fixed(share)) == delay

    def test_the_cap_holds_after_jitter(self) -> None:
        assert exponential(4, max=4, jitter=0.5).delay(1, None, fixed(0.99)) == 4.0

    def test_an_iterable_gives_its_items_and_repeats_the_last(self) -> None:
        backoff = as_backoff([1, 0, timedelta(seconds=2.5)])
        assert [backoff.delay(n, None, no_random) for n in (1, 2, 3, 4, 2_000)] == [1.0, 0.0, 2.5, 2.5, 2.5]

    def test_an_iterable_is_read_once_when_it_is_given(self) -> None:
        delays = [1.0, 2.0]
        backoff = as_backoff(delays)
        delays[0] = 99.0
        assert backoff.delay(1, None, no_random) == 1.0
        once = as_backoff(iter([3.0, 4.0]))
        assert [once.delay(n, None, no_random) for n in (1, 2, 1)] == [3.0, 4.0, 3.0]

    def test_a_function_is_asked_with_the_number_of_the_failed_attempt(self) -> None:
        assert [as_backoff(in_quarters).delay(n, None, no_random) for n in (1, 2, 8)] == [0.25, 0.5, 2.0]
        assert as_backoff(in_minutes).delay(2, None, no_random) == 120.0

    @pytest.mark.parametrize("value", [2, 2.0, timedelta(seconds=2)])
    def test_a_duration_is_a_constant_backoff(self, value: object) -> None:
        assert as_backoff(value) == constant(2)


class TestBounds:
    @given(initial=durations, factor=st.floats(1, LARGEST), cap=durations, jitter=jitters, share=shares, n=attempts)
    def test_exponential_is_finite_and_from_zero_to_max_for_any_settings(
        self, initial: float, factor: float, cap: float, jitter: Jitter, share: float, n: int
    ) -> None:
        first, most = sorted((initial, cap))
        backoff = exponential(first, factor=factor, max=most, jitter=jitter)
        previous: float | None = None
        for attempt in (1, n, n + 1, 2_000):
            previous = backoff.delay(attempt, previous, fixed(share))
            assert math.isfinite(previous)
            assert 0.0 <= previous <= most

    @given(initial=durations, cap=durations, previous=durations, share=shares)
    def test_decorrelated_is_never_below_initial_nor_above_max(
        self, initial: float, cap: float, previous: float, share: float
    ) -> None:
        first, most = sorted((initial, cap))
        assert first <= exponential(first, max=most, jitter="decorrelated").delay(9, previous, fixed(share)) <= most

    @given(step=durations, cap=durations, n=attempts)
    def test_linear_is_finite_and_at_most_max_for_any_settings(self, step: float, cap: float, n: int) -> None:
        first, most = sorted((step, cap))
        assert first <= linear(first, max=most).delay(n, None, no_random) <= most

    @given(delays=st.lists(st.floats(0, LARGEST), min_size=1), n=attempts)
    def test_an_iterable_gives_only_its_own_delays(self, delays: list[float], n: int) -> None:
        assert as_backoff(delays).delay(n, None, no_random) in delays

    @given(initial=st.floats(0.001, 10), factor=st.floats(1, 10), n=st.integers(1, 1_999))
    def test_without_jitter_no_delay_is_shorter_than_the_one_before(
        self, initial: float, factor: float, n: int
    ) -> None:
        backoff = exponential(initial, factor=factor, jitter=None)
        assert backoff.delay(n, None, no_random) <= backoff.delay(n + 1, None, no_random)


class TestValues:
    def test_equal_settings_make_equal_backoffs_whatever_their_type(self) -> None:
        assert exponential(1, factor=2, max=30) == exponential(timedelta(seconds=1), factor=2.0, max=30.0)
        assert constant(1) == constant(timedelta(seconds=1))
        assert linear(1, max=2) == linear(1.0, max=2.0)
        assert as_backoff([1, 2]) == as_backoff(iter((1.0, 2.0)))
        assert hash(exponential(1)) == hash(exponential(1.0))

    def test_different_settings_make_different_backoffs(self) -> None:
        distinct = [
            constant(1),
            constant(2),
            linear(1),
            linear(1, max=2),
            exponential(),
            exponential(jitter=None),
            exponential(jitter=0.5),
            as_backoff([1]),
            as_backoff([1, 2]),
            as_backoff(in_quarters),
            as_backoff(in_minutes),
        ]
        assert len(set(distinct)) == len(distinct)

    def test_functions_are_equal_by_module_and_qualified_name(self) -> None:
        def make(seconds: float) -> Callable[[int], float]:
            def by_hand(attempt: int) -> float:
                return seconds

            return by_hand

        one, other = as_backoff(make(1)), as_backoff(make(2))
        assert one == other
        assert hash(one) == hash(other)

    def test_functions_without_a_name_are_equal_only_to_themselves(self) -> None:
        function = partial(pow, 2)
        assert as_backoff(function) == as_backoff(function)
        assert as_backoff(function) != as_backoff(partial(pow, 2))

    @pytest.mark.parametrize(
        "backoff, shown",
        [
            (constant(1), "constant(1.0)"),
            (linear(1, max=9), "linear(1.0, max=9.0)"),
            (exponential(), "exponential(initial=0.1, factor=2.0, max=30.0, jitter='full')"),
            (as_backoff([1, 2]), "(1.0, 2.0)"),
            (as_backoff(in_quarters), f"{__name__}.in_quarters"),
        ],
    )
    def test_repr_is_what_the_user_wrote(self, backoff: Backoff, shown: str) -> None:
        assert repr(backoff) == shown

    @pytest.mark.parametrize("backoff", [linear(1), exponential()])
    def test_backoffs_are_frozen_and_pickle(self, backoff: Backoff) -> None:
        with pytest.raises(FrozenInstanceError):
            backoff.max = 5  # type: ignore[attr-defined]
        assert pickle.loads(pickle.dumps(backoff)) == backoff

    def test_a_backoff_stays_the_same_object(self) -> None:
        backoff = exponential()
        assert as_backoff(backoff) is backoff


NO_DURATION: list[object] = [-1, math.nan, math.inf, -math.inf, 10**400, True, None, "1", timedelta(seconds=-1), [1]]


class TestWrongSettings:
    @pytest.mark.parametrize("value", NO_DURATION)
    def test_constant_refuses_what_is_no_delay(self, value: object) -> None:
        with pytest.raises(ConfigurationError) as caught:
            constant(value)  # type: ignore[arg-type]
        assert str(caught.value).startswith(f"constant: d={value!r} is not allowed: seconds of at least 0")
        assert caught.value.setting == "d"
        assert caught.value.value is value
        assert caught.value.allowed

    @pytest.mark.parametrize("value", [0, *NO_DURATION])
    @pytest.mark.parametrize(
        "name, setting, make",
        [
            ("linear", "d", linear),
            ("linear", "max", lambda value: linear(1, max=value)),
            ("exponential", "initial", exponential),
            ("exponential", "max", lambda value: exponential(max=value)),
        ],
    )
    def test_growing_backoffs_refuse_zero_too(
        self, name: str, setting: str, make: Callable[[object], Backoff], value: object
    ) -> None:
        with pytest.raises(ConfigurationError) as caught:
            make(value)
        assert str(caught.value).startswith(f"{name}: {setting}={value!r} is not allowed: ")
        assert caught.value.setting == setting

    @pytest.mark.parametrize("value", [0.99, 0, -2, math.nan, math.inf, 10**400, True, None, "2", timedelta(2)])
    def test_a_factor_below_one_is_refused(self, value: object) -> None:
        with pytest.raises(ConfigurationError, match=r"exponential: factor=.* is not allowed") as caught:
            exponential(factor=value)  # type: ignore[arg-type]
        assert caught.value.setting == "factor"

    @pytest.mark.parametrize("value", ["Full", "none", "", -0.1, 1.1, math.nan, True, False, [], timedelta(0)])
    def test_an_unknown_jitter_is_refused(self, value: object) -> None:
        with pytest.raises(ConfigurationError, match=r"exponential: jitter=.* is not allowed: 'full', ") as caught:
            exponential(jitter=value)  # type: ignore[arg-type]
        assert caught.value.setting == "jitter"

    def test_a_first_delay_above_max_is_refused(self) -> None:
        with pytest.raises(ConfigurationError, match=r"exponential: initial=31 is not allowed: at most max \(30 s\)"):
            exponential(31)
        with pytest.raises(ConfigurationError, match=r"linear: d=2 is not allowed: at most max \(1 s\)"):
            linear(2, max=1)

    @pytest.mark.parametrize(
        "value",
        [
            -1,
            math.nan,
            math.inf,
            True,
            None,
            "1",
            b"\x01",
            {1, 2},
            {1: 2},
            object(),
            [],
            iter(()),
            [1, -1],
            [math.nan],
            [math.inf],
            [1, "2"],
            [True],
            exponential,
            linear,
            constant,
            Backoff,
            float,
            asynchronous,
        ],
    )
    def test_what_is_no_backoff_is_refused_when_it_is_given(self, value: object) -> None:
        with pytest.raises(ConfigurationError, match=r"^retry 'payments': backoff=.* is not allowed: ") as caught:
            as_backoff(value, policy="retry 'payments'")
        assert caught.value.setting == "backoff"

    def test_an_endless_iterable_is_refused_instead_of_read_for_ever(self) -> None:
        with pytest.raises(ConfigurationError, match=r"retry: backoff=\(1, 2, .* 1 to 10,000 delays"):
            as_backoff(itertools.count(1))

    def test_an_iterable_of_too_many_is_read_no_further_than_it_takes_to_know(self) -> None:
        numbers = itertools.count(1)
        with pytest.raises(ConfigurationError):
            as_backoff(numbers)
        assert next(numbers) == 10_002
        assert as_backoff([1] * 10_000).delay(10_000, None, no_random) == 1.0

    @pytest.mark.parametrize(
        "backoff",
        [
            lambda: constant(0),
            lambda: linear(5, max=5),
            lambda: exponential(5, max=5),
            lambda: exponential(factor=1.0),
            lambda: exponential(jitter=0),
            lambda: exponential(jitter=1),
            lambda: as_backoff([0]),
        ],
    )
    def test_the_bounds_themselves_are_allowed(self, backoff: Callable[[], Backoff]) -> None:
        assert isinstance(backoff(), Backoff)

    @pytest.mark.parametrize("value", [-0.5, math.nan, math.inf, "1", None, True, timedelta(seconds=-1)])
    def test_a_function_that_gives_no_delay_is_named_when_it_is_used(self, value: object) -> None:
        def broken(attempt: int) -> object:
            return value

        backoff = as_backoff(broken)
        with pytest.raises(ConfigurationError, match=r"retry: backoff=.*broken returned .* not allowed: ") as caught:
            backoff.delay(1, None, no_random)
        assert caught.value.setting == "backoff"
        assert caught.value.value is value

    def test_a_function_may_ask_for_no_delay(self) -> None:
        assert as_backoff(lambda attempt: 0).delay(1, None, no_random) == 0.0

    def test_an_error_of_the_function_passes(self) -> None:
        with pytest.raises(ZeroDivisionError):
            as_backoff(lambda attempt: 1 / 0).delay(1, None, no_random)
