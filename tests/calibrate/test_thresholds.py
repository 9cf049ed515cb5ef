"""What a grid should hold, against NumPy's percentiles and against common sense."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segformer_deploy.calibrate.histograms import BINS, Histogram
from segformer_deploy.calibrate.thresholds import DEFAULT_PERCENTILE, threshold_from_histogram

METHODS = ("minmax", "percentile", "entropy")


def histogram_of(values: npt.NDArray[np.float32]) -> Histogram:
    histogram = Histogram(float(np.abs(values).max()))
    histogram.add(values)
    return histogram


@st.composite
def values(draw: st.DrawFn) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = draw(st.sampled_from([1, 2, 7, 100, 3000]))
    kind = draw(st.sampled_from(["normal", "uniform", "cauchy", "relu", "constant", "sparse"]))
    made = {
        "normal": lambda: rng.normal(size=size),
        "uniform": lambda: rng.uniform(-1, 1, size),
        "cauchy": lambda: rng.standard_cauchy(size),
        "relu": lambda: np.maximum(rng.normal(size=size), 0),
        "constant": lambda: np.ones(size),
        "sparse": lambda: rng.normal(size=size) * (rng.random(size) < 0.01),
    }[kind]()
    scale = draw(st.sampled_from([1e-12, 1e-3, 1.0, 1e4]))
    return (made * scale).astype(np.float32)


@given(values(), st.sampled_from(METHODS), st.sampled_from([50, 90, 99.9, 99.999, 100]))
def test_a_threshold_is_above_0_and_within_what_was_seen(
    seen: npt.NDArray[np.float32], method, percentile: float
) -> None:
    largest = float(np.abs(seen).max())
    found = threshold_from_histogram(histogram_of(seen), method, percentile)
    assert isinstance(found, float)
    assert found <= largest
    assert (found > 0) == (largest > 0)


@given(values())
def test_minmax_holds_all_that_was_seen(seen: npt.NDArray[np.float32]) -> None:
    assert threshold_from_histogram(histogram_of(seen), "minmax") == float(np.abs(seen).max())


@given(values(), st.floats(50, 100))
def test_a_percentile_is_numpy_s_within_a_bin(
    seen: npt.NDArray[np.float32], percentile: float
) -> None:
    """The smallest value that at least so many percent do not exceed."""
    histogram = histogram_of(seen)
    found = threshold_from_histogram(histogram, "percentile", percentile)
    magnitudes = np.abs(seen.astype(np.float64))
    # Where the share falls on a value exactly, rounding decides between it and the next.
    allowed = [
        np.percentile(magnitudes, min(max(one, 0), 100), method="inverted_cdf")
        for one in (percentile - 1e-9, percentile + 1e-9)
    ]
    width = histogram.limit / BINS
    slack = 1e-6 * histogram.limit
    assert allowed[0] - slack <= found <= allowed[1] + width + slack


@given(values())
def test_a_hundred_percent_are_all(seen: npt.NDArray[np.float32]) -> None:
    limit = float(np.abs(seen).max())
    assert threshold_from_histogram(histogram_of(seen), "percentile", 100) == limit


@given(values(), st.floats(50, 100), st.floats(50, 100))
def test_more_percent_hold_more(seen: npt.NDArray[np.float32], one: float, two: float) -> None:
    histogram = histogram_of(seen)
    low, high = (threshold_from_histogram(histogram, "percentile", p) for p in sorted((one, two)))
    assert low <= high


def test_the_default_percentile_drops_a_lone_outlier() -> None:
    rng = np.random.default_rng(0)
    histogram = Histogram(1000.0)
    for _ in range(4):
        histogram.add(rng.normal(size=100_000).astype(np.float32))
    histogram.add(np.array([1000], np.float32))
    found = threshold_from_histogram(histogram, "percentile")
    assert 3 < found < 6
    assert found == threshold_from_histogram(histogram, "percentile", DEFAULT_PERCENTILE)


@pytest.mark.parametrize("seed", range(4))
def test_entropy_leaves_a_far_outlier_out(seed: int) -> None:
    rng = np.random.default_rng(seed)
    seen = rng.normal(size=200_000).astype(np.float32)
    seen[0] = 40
    found = threshold_from_histogram(histogram_of(seen), "entropy")
    assert 2.5 < found < 15


@pytest.mark.parametrize("seed", range(4))
def test_entropy_holds_nearly_all_of_even_values(seed: int) -> None:
    seen = np.random.default_rng(seed).uniform(-1, 1, 200_000).astype(np.float32)
    assert threshold_from_histogram(histogram_of(seen), "entropy") > 0.95


def test_zeros_do_not_decide_for_entropy() -> None:
    """Half of what a ReLU gives is 0; that is exact on every grid."""
    rng = np.random.default_rng(0)
    positive = np.abs(rng.normal(size=100_000)).astype(np.float32)
    relu = np.concatenate([positive, np.zeros(1_000_000, np.float32)])
    histogram = Histogram(float(relu.max()))
    for part in np.array_split(relu, 10):
        histogram.add(part)
    with_zeros = threshold_from_histogram(histogram, "entropy")
    without = threshold_from_histogram(histogram_of(positive), "entropy")
    assert with_zeros == pytest.approx(without, rel=0.15)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_seen_and_only_zeros_seen_give_the_limit(method) -> None:
    assert threshold_from_histogram(Histogram(3.0), method) == 3.0
    zeros = Histogram(0.0)
    zeros.add(np.zeros(10, np.float32))
    assert threshold_from_histogram(zeros, method) == 0.0


@pytest.mark.parametrize("method", METHODS)
def test_a_sample_that_misses_the_largest_value_still_gives_a_threshold(method) -> None:
    """The limit comes from all values, the counts from a sample of them."""
    histogram = Histogram(1e6)
    histogram.add(np.random.default_rng(0).normal(size=1000).astype(np.float32))
    assert 0 < threshold_from_histogram(histogram, method) <= 1e6
