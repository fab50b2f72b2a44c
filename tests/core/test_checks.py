from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from math import inf, nan

import pytest

from resilient.core.checks import (
    Checker,
    Shown,
    contradiction,
    describe,
    matches,
    names_rejections,
    refuse,
    same_setting,
)
from resilient.errors import CircuitOpenError, ConfigurationError, RateLimitedError, RejectedError


class TestNaming:
    @pytest.mark.parametrize(
        "kind, name, shown, bare",
        [
            ("retry", "payments", "retry 'payments'", "payments"),
            ("retry", None, "retry", "retry"),
            ("retry", "retry", "retry", "retry"),
        ],
    )
    def test_policies_are_shown_by_kind_and_name(self, kind: str, name: str | None, shown: str, bare: str) -> None:
        found = describe(kind, name)
        assert isinstance(found, Shown)
        assert (found, found.name) == (shown, bare)

    @pytest.mark.parametrize("name", ["", "  ", 3, b"payments", True])
    def test_a_name_is_a_string_with_something_in_it(self, name: object) -> None:
        with pytest.raises(ConfigurationError, match=r"retry: name=.* a string that is not empty, or None") as caught:
            Checker("retry", name)
        assert caught.value.setting == "name"


class TestRefusals:
    def test_they_name_the_policy_the_setting_the_value_and_what_is_allowed(self) -> None:
        with pytest.raises(ConfigurationError) as caught:
            refuse(describe("retry", "payments"), "attempts", 0, "a whole number of at least 1")
        error = caught.value
        assert str(error) == "retry 'payments': attempts=0 is not allowed: a whole number of at least 1"
        assert (error.policy, error.setting, error.value, error.allowed) == (
            "payments",
            "attempts",
            0,
            "a whole number of at least 1",
        )
        assert isinstance(error, ValueError)

    def test_a_plain_kind_is_its_own_name(self) -> None:
        with pytest.raises(ConfigurationError) as caught:
            refuse("subscribe", "listener", 3, "a function")
        assert caught.value.policy == "subscribe"

    def test_settings_that_contradict_each_other_are_shown_together(self) -> None:
        with pytest.raises(ConfigurationError) as caught:
            contradiction(describe("retry", None), "a and b", (1, 2), "give one of the two")
        assert str(caught.value) == "retry: a and b contradict each other (1, 2): give one of the two"
        assert caught.value.value == (1, 2)


class TestSeconds:
    @pytest.mark.parametrize(
        "value, seconds",
        [(1, 1.0), (0.5, 0.5), (timedelta(minutes=1), 60.0), (timedelta(microseconds=1), 1e-6), (1e-300, 1e-300)],
    )
    def test_numbers_and_timedeltas_become_floats(self, value: float | timedelta, seconds: float) -> None:
        found = Checker("retry").seconds("wait", value)
        assert (found, type(found)) == (seconds, float)

    @pytest.mark.parametrize(
        "value", [0, -1, nan, inf, -inf, True, False, "1", None, 10**400, timedelta(0), timedelta(seconds=-1), 1j, [1]]
    )
    def test_others_are_refused(self, value: object) -> None:
        with pytest.raises(ConfigurationError, match=r"retry: wait=.* seconds above 0"):
            Checker("retry").seconds("wait", value)

    @pytest.mark.parametrize("value", [0, 0.0, timedelta(0)])
    def test_zero_only_where_it_means_something(self, value: float) -> None:
        check = Checker("retry")
        assert check.seconds("wait", value, zero=True) == 0.0
        assert check.optional_seconds("wait", value, zero=True) == 0.0
        with pytest.raises(ConfigurationError, match="seconds above 0"):
            check.optional_seconds("wait", value)
        with pytest.raises(ConfigurationError, match="seconds of at least 0"):
            check.seconds("wait", -1, zero=True)

    def test_none_is_allowed_where_the_setting_is_optional(self) -> None:
        check = Checker("retry")
        assert check.optional_seconds("wait", None) is None
        assert check.optional_whole("attempts", None) is None
        assert check.optional_rate("failure_rate", None) is None
        assert check.optional_function("on_result", None, "a function") is None


class TestNumbers:
    @pytest.mark.parametrize("value", [0, -1, 1.0, True, "1", None, nan])
    def test_whole_numbers_are_whole(self, value: object) -> None:
        with pytest.raises(ConfigurationError, match="a whole number of at least 1"):
            Checker("retry").whole("attempts", value)

    def test_their_minimum_is_inclusive(self) -> None:
        check = Checker("retry")
        assert check.whole("attempts", 1) == 1
        assert check.whole("max_queue", 0, minimum=0) == 0
        assert check.optional_whole("attempts", 10**30) == 10**30
        with pytest.raises(ConfigurationError, match="a whole number of at least 0"):
            check.optional_whole("max_queue", -1, minimum=0)

    @pytest.mark.parametrize("value", [0, 0.0, -0.1, 1.0001, 2, nan, inf, True, "0.5", None])
    def test_rates_lie_above_0_and_at_most_at_1(self, value: object) -> None:
        with pytest.raises(ConfigurationError, match="a number above 0 and at most 1"):
            Checker("retry").rate("failure_rate", value)

    @pytest.mark.parametrize("value", [1, 1.0, 0.5, 1e-9])
    def test_rates_become_floats(self, value: float) -> None:
        found = Checker("retry").optional_rate("failure_rate", value)
        assert (found, type(found)) == (float(value), float)


class TestWords:
    def test_choices_are_listed(self) -> None:
        check = Checker("timeout", "slow")
        assert check.choice("interrupt", "auto", ("auto", "never")) == "auto"
        for wrong in ("Auto", None, ["auto"], 3):
            with pytest.raises(ConfigurationError, match=r"timeout 'slow': interrupt=.*: one of 'auto', 'never'"):
                check.choice("interrupt", wrong, ("auto", "never"))

    def test_functions_can_be_called(self) -> None:
        check = Checker("retry")
        assert check.optional_function("on_result", len, "a function") is len
        with pytest.raises(ConfigurationError, match="on_result=3 is not allowed: a function, or None"):
            check.optional_function("on_result", 3, "a function")  # type: ignore[arg-type]

    def test_instances_are_of_their_class(self) -> None:
        check = Checker("retry")
        check.instance("registry", {}, dict)
        with pytest.raises(ConfigurationError, match="registry=3 is not allowed: a dict"):
            check.instance("registry", 3, dict)


class TestMatchers:
    @pytest.mark.parametrize(
        "on", [Exception, ValueError, (ValueError, OSError), BaseException, str.isdigit, lambda error: True]
    )
    def test_classes_tuples_and_predicates_are_taken_as_they_are(self, on: type[Exception]) -> None:
        assert Checker("retry").matcher("on", on) is on

    @pytest.mark.parametrize(
        "on", [(), int, (ValueError, int), (ValueError, "x"), [ValueError], ValueError("x"), None, "ValueError", 3]
    )
    def test_others_are_refused(self, on: object) -> None:
        with pytest.raises(ConfigurationError, match="an exception class, a tuple of them, or a function"):
            Checker("retry").matcher("on", on)

    def test_an_empty_tuple_only_where_nothing_is_something(self) -> None:
        assert Checker("retry").matcher("ignore", (), empty=True) == ()

    @pytest.mark.parametrize(
        "on", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError, (ValueError, KeyboardInterrupt)]
    )
    def test_what_always_passes_through_is_refused(self, on: type[BaseException]) -> None:
        with pytest.raises(ConfigurationError, match="always pass through"):
            Checker("retry").matcher("on", on)

    @pytest.mark.parametrize(
        "on, error, selected",
        [
            (ValueError, ValueError(), True),
            (ValueError, UnicodeError(), True),
            (ValueError, OSError(), False),
            ((ValueError, OSError), TimeoutError(), True),
            ((), ValueError(), False),
            (lambda error: error.args, ValueError(1), True),
            (lambda error: error.args, ValueError(), False),
        ],
    )
    def test_they_select(self, on: type[Exception], error: Exception, selected: bool) -> None:
        assert matches(on, error) is selected

    def test_what_a_predicate_raises_is_raised(self) -> None:
        def broken(error: BaseException) -> bool:
            raise LookupError("broken")

        with pytest.raises(LookupError, match="broken"):
            matches(broken, ValueError())

    @pytest.mark.parametrize(
        "on, named",
        [
            (Exception, False),
            (RejectedError, True),
            (CircuitOpenError, True),
            ((ValueError, RateLimitedError), True),
            ((ValueError, OSError), False),
            ((), False),
            (lambda error: True, False),
        ],
    )
    def test_rejections_are_meant_only_where_named(self, on: type[Exception], named: bool) -> None:
        assert names_rejections(on) is named


def _module_level() -> None: ...


def _another() -> None: ...


def _made(value: int) -> Callable[[], int]:
    return lambda: value


class _Keyed:
    def __init__(self, key: object) -> None:
        self.key = key

    def settings_key(self) -> object:
        return self.key


class TestSameSettings:
    @pytest.mark.parametrize(
        "one, other, same",
        [
            (1, 1, True),
            (1, 1.0, True),
            (1, 2, False),
            ("1", 1, False),
            (None, None, True),
            (None, 0, False),
            (ValueError, ValueError, True),
            (ValueError, OSError, False),
            ((ValueError, OSError), (ValueError, OSError), True),
            ((ValueError, OSError), (OSError, ValueError), False),
            ((), (), True),
            (_module_level, _module_level, True),
            (_module_level, _another, False),
            (_made(1), _made(2), True),
            (partial(_another), partial(_another), False),
            (_module_level, ValueError, False),
            (_Keyed(1), _Keyed(1), True),
            (_Keyed(1), _Keyed(2), False),
            (_Keyed(1), 1, False),
        ],
    )
    def test_values_by_value_and_functions_by_name(self, one: object, other: object, same: bool) -> None:
        assert same_setting(one, other) is same
        assert same_setting(other, one) is same

    def test_functions_of_one_name_in_two_modules_are_not_the_same(self) -> None:
        def elsewhere() -> None: ...

        elsewhere.__qualname__, elsewhere.__module__ = _another.__qualname__, "elsewhere"
        assert not same_setting(_another, elsewhere)
        assert not same_setting(elsewhere, _another)
