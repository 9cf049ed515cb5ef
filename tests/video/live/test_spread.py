"""Percentiles in constant memory, against NumPy's exact ones."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from segformer_deploy.video.live.spread import Spread

TIMES = st.floats(0.001, 1e6) | st.floats(1.0, 100.0)
PERCENTS = st.integers(0, 100).map(float) | st.floats(0, 100)


def spread_of(times: list[float]) -> Spread:
    spread = Spread()
    for ms in times:
        spread.add(ms)
    return spread


@given(times=st.lists(TIMES, min_size=1, max_size=300), percent=PERCENTS)
@example(times=[0.001], percent=50.0)
@example(times=[1e6], percent=99.0)
@example(times=[1.01 * 0.001], percent=50.0)
@example(times=[float(n) for n in range(1, 101)], percent=55.0)
@example(times=[float(n) for n in range(1, 101)], percent=0.0)
def test_within_one_percent_of_the_exact_one(times: list[float], percent: float) -> None:
    exact = np.percentile(np.array(times), percent, method="inverted_cdf")
    assert spread_of(times).percentile(percent) == pytest.approx(exact, rel=0.01)


@pytest.mark.parametrize("percent", range(101))
def test_every_whole_percent_of_a_hundred(percent: int) -> None:
    times = [10.0 * 1.03**n for n in range(100)]
    exact = np.percentile(np.array(times), percent, method="inverted_cdf")
    assert spread_of(times).percentile(percent) == pytest.approx(exact, rel=0.01)


def test_the_end_of_each_bucket() -> None:
    for number in range(0, 2083, 9):
        for ms in (0.001 * 1.01**number, np.nextafter(0.001 * 1.01**number, 0)):
            if 0.001 <= ms <= 1e6:
                assert spread_of([float(ms)]).percentile(50) == pytest.approx(ms, rel=0.01)


def test_of_nothing_there_is_none() -> None:
    assert Spread().percentile(50) is None
    assert Spread().count == 0


@pytest.mark.parametrize("ms", [0.0, -3.0, 1e-9])
def test_what_is_too_small_counts_as_the_smallest(ms: float) -> None:
    spread = spread_of([ms])
    assert spread.count == 1
    assert spread.percentile(50) == pytest.approx(0.001, rel=0.01)


@pytest.mark.parametrize("ms", [2e6, 1e300])
def test_what_is_too_large_counts_as_the_largest(ms: float) -> None:
    assert spread_of([ms]).percentile(50) == pytest.approx(1e6, rel=0.02)


@given(st.lists(TIMES, min_size=1, max_size=50))
def test_percentiles_rise(times: list[float]) -> None:
    spread = spread_of(times)
    found = [spread.percentile(percent) or math.nan for percent in range(0, 101, 5)]
    assert found == sorted(found)
    assert spread.count == len(times)


def test_memory_does_not_grow() -> None:
    spread = spread_of([1.0])
    spread.percentile(50)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for n in range(20_000):
            spread.add(0.01 * n)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert spread.count == 20_001
    assert grown < 4096
