"""Axes: rules that hold for every set of values."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from segformer_deploy.bench.report.scale import (
    LOG_FROM,
    figure_text,
    nice_step,
    scale_from_values,
    tick_text,
)

VALUES = st.lists(st.floats(1e-4, 1e7), min_size=1, max_size=30)


@given(VALUES, st.integers(3, 10))
def test_an_axis_holds_all_values_and_has_round_rising_ticks(
    values: list[float], most: int
) -> None:
    scale = scale_from_values(values, 50.0, 850.0, most=most)
    assert scale.low <= min(values)
    assert max(values) <= scale.high * (1 + 1e-9)
    ticks = scale.ticks(most)
    assert 2 <= len(ticks) <= most
    assert all(a < b for a, b in pairwise(ticks))
    assert all(scale.low - 1e-9 <= tick <= scale.high * (1 + 1e-9) for tick in ticks)
    assert len({tick_text(tick) for tick in ticks}) == len(ticks)


@given(VALUES)
def test_an_axis_is_logarithmic_exactly_above_20_times(values: list[float]) -> None:
    ratio = max(values) / min(values)
    assume(abs(ratio - LOG_FROM) > 1e-6)
    scale = scale_from_values(values, 0.0, 1.0)
    assert scale.log is (ratio > LOG_FROM)
    assert scale.log or scale.low == 0.0


@given(VALUES, st.floats(1e-4, 1e7), st.floats(1e-4, 1e7))
def test_places_rise_with_values_and_stay_on_the_axis(
    values: list[float], one: float, two: float
) -> None:
    scale = scale_from_values(values, 300.0, 20.0)  # a vertical axis runs down
    low, high = sorted((one, two))
    assert 20.0 - 1e-6 <= scale.at(high) <= scale.at(low) + 1e-9 <= 300.0 + 1e-6


@given(st.floats(1e-9, 1e9))
def test_a_nice_step_is_1_2_or_5_and_not_much_larger(rough: float) -> None:
    step = nice_step(rough)
    mantissa = step / 10 ** math.floor(math.log10(step) + 1e-9)
    assert any(math.isclose(mantissa, good, rel_tol=1e-6) for good in (1, 2, 5, 10))
    assert rough * (1 - 1e-9) <= step <= rough * 2.5 * (1 + 1e-6)


def test_log_places_are_those_of_the_logarithm() -> None:
    scale = scale_from_values([1.0, 1000.0], 0.0, 1.0)
    share = math.log(30 / scale.low) / math.log(scale.high / scale.low)
    assert scale.at(30.0) == pytest.approx(share)


@given(st.floats(1e-5, 1e8))
def test_a_figure_keeps_three_digits(value: float) -> None:
    assert float(figure_text(value)) == pytest.approx(value, rel=6e-3, abs=1e-6)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.5, "0.5"), (20, "20"), (1000, "1000"), (20000, "20k"), (3e6, "3M"), (2e9, "2G")],
)
def test_ticks_are_short(value: float, shown: str) -> None:
    assert tick_text(value) == shown


def test_no_values_make_an_empty_axis() -> None:
    assert scale_from_values([], 0.0, 1.0).ticks(5)
