"""Counts and maxima are NumPy's, in whatever order the values come."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segformer_deploy.calibrate import histograms
from segformer_deploy.calibrate.histograms import BINS, SAMPLE, ChannelMaxima, Histogram, sample_of


def inside_bins(bins: list[int], limit: float, seed: int = 0) -> np.ndarray:
    """float32 values in the given bins, away from the borders, of either sign."""
    rng = np.random.default_rng(seed)
    place = np.array(bins) + rng.uniform(0.1, 0.9, len(bins))
    return (place * limit / BINS * rng.choice([-1, 1], len(bins))).astype(np.float32)


@given(
    st.lists(st.integers(0, BINS - 1), min_size=1, max_size=200),
    st.floats(1e-20, 1e20),
    st.integers(0, 2**32 - 1),
)
def test_counts_are_numpy_s(bins: list[int], limit: float, seed: int) -> None:
    values = inside_bins(bins, limit, seed)
    histogram = Histogram(limit)
    histogram.add(values)
    expected, _ = np.histogram(np.abs(values.astype(np.float64)), BINS, (0, limit))
    assert np.array_equal(histogram.counts, expected)


def test_counts_of_many_values_differ_at_the_borders_of_bins_alone() -> None:
    values = np.random.default_rng(0).normal(size=(2, 40, 50, 64)).astype(np.float32)
    assert values.size < SAMPLE
    limit = float(np.abs(values).max())
    histogram = Histogram(limit)
    histogram.add(values)
    expected, _ = np.histogram(np.abs(values.astype(np.float64)), BINS, (0, limit))
    assert histogram.counts.sum() == values.size
    assert np.abs(np.cumsum(histogram.counts) - np.cumsum(expected)).max() <= 2
    # The largest value itself is in the last bin.
    assert histogram.counts[-1] >= 1


@given(st.lists(st.integers(0, BINS - 1), min_size=2, max_size=60), st.randoms())
def test_order_and_portions_do_not_matter(bins: list[int], random) -> None:
    values = inside_bins(bins, 3.0)
    at_once, in_portions = Histogram(3.0), Histogram(3.0)
    at_once.add(values)
    order = list(range(len(bins)))
    random.shuffle(order)
    cut = random.randint(1, len(bins) - 1)
    for part in (order[:cut], order[cut:]):
        in_portions.add(values[part])
    assert np.array_equal(at_once.counts, in_portions.counts)


def test_what_lies_beyond_the_limit_counts_in_the_last_bin() -> None:
    histogram = Histogram(1.0)
    histogram.add(np.array([1.0, -1.0, 1.5, -1e30, 1e20, 0.0], np.float32))
    assert (histogram.counts[0], histogram.counts[-1], histogram.counts.sum()) == (1, 5, 6)


def test_a_value_that_is_always_0_has_one_bin() -> None:
    histogram = Histogram(0.0)
    histogram.add(np.zeros((3, 4), np.float32))
    histogram.add(np.zeros(5, np.float32))
    assert (histogram.counts[0], histogram.counts.sum()) == (17, 17)


def test_counts_do_not_change_what_they_are_given() -> None:
    values = np.array([-1.0, 0.5], np.float32)
    Histogram(1.0).add(values)
    assert values.tolist() == [-1.0, 0.5]


def test_a_value_that_all_but_vanishes_is_counted_too() -> None:
    limit = float(np.float32(1e-37))
    histogram = Histogram(limit)
    histogram.add(np.array([0.0, limit, -limit / 2], np.float32))
    assert (histogram.counts[0], histogram.counts[BINS // 2], histogram.counts[-1]) == (1, 1, 1)


# Samples --------------------------------------------------------------------------------------


def test_a_value_of_few_elements_is_taken_whole() -> None:
    values = np.arange(SAMPLE, dtype=np.float32).reshape(4, -1)
    assert np.array_equal(sample_of(values), values.ravel())


@given(
    st.lists(
        st.sampled_from([2, 3, 5, 7, 8, 11, 15, 16, 21, 24, 30, 32, 35, 64, 77, 105, 210]),
        min_size=2,
        max_size=4,
    )
)
def test_a_sample_is_spread_evenly_over_every_axis(shape: list[int]) -> None:
    """No stride divides an axis, so no channel, row or column is left out or preferred."""
    size = int(np.prod(shape))
    with pytest.MonkeyPatch.context() as patch:
        # A small sample, so that small values show what large ones do.
        patch.setattr(histograms, "SAMPLE", 2000)
        sample = sample_of(np.arange(size).reshape(shape))
    if size <= 2000:
        assert len(sample) == size
        return
    strides = {*np.diff(sample)}
    assert len(strides) == 1
    stride = int(strides.pop())
    assert len(sample) == -(-size // stride)
    primes = [n for n in range(3, 90, 2) if all(n % m for m in range(3, n, 2))]
    fitting = [n for n in primes if 2000 * n >= size and all(axis % n for axis in shape)]
    assert stride == min(fitting, default=89)
    for axis, places in enumerate(np.unravel_index(sample, shape)):
        counts = np.bincount(places, minlength=shape[axis])
        passes, run = int(np.prod(shape[:axis])), int(np.prod(shape[axis + 1 :]))
        # Each pass through the axis holds each index `run` times in a row, of which a sample
        # takes every n-th; in n passes it takes all `run` places once.
        assert (counts >= passes // stride * run).all(), axis
        assert (counts <= -(-passes // stride) * run).all(), axis
        assert (np.abs(counts - passes * run / stride) <= passes).all(), axis


@pytest.mark.parametrize(
    "shape",
    [
        (1, 128, 256, 64),
        (1, 256, 128, 128),
        (1, 2, 8192, 256),
        (1, 105, 105, 105),
        (1, 231, 195, 64),
    ],
)
def test_values_of_real_sizes_are_sampled_evenly_over_channels(shape: tuple[int, ...]) -> None:
    size = int(np.prod(shape))
    sample = sample_of(np.arange(size, dtype=np.int32).reshape(shape))
    assert SAMPLE / 3 <= len(sample) <= SAMPLE
    counts = np.bincount(sample % shape[-1], minlength=shape[-1])
    assert counts.max() - counts.min() <= 1


# Maxima ---------------------------------------------------------------------------------------


@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_maxima_are_numpy_s(frames: int, channels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scale = np.exp(rng.normal(0, 4, channels))
    values = [
        (rng.normal(size=(2, rng.integers(1, 6), 3, channels)) * scale).astype(np.float32)
        for _ in range(frames)
    ]
    maxima = ChannelMaxima(frozenset({"norm"}))
    for value in values:
        maxima.add("norm", value)
        maxima.add("other", value)
    rows = np.concatenate([value.reshape(-1, channels) for value in values])
    assert np.array_equal(maxima.channels["norm"], np.abs(rows).max(axis=0))
    assert maxima.largest == {name: float(np.abs(rows).max()) for name in ("norm", "other")}
    assert maxima.channels.keys() == maxima.powers.keys() == maxima.counts.keys() == {"norm"}
    assert maxima.counts["norm"] == len(rows)
    np.testing.assert_allclose(
        maxima.powers["norm"], (rows.astype(np.float64) ** 2).sum(axis=0), rtol=1e-5
    )


def test_maxima_do_not_depend_on_order() -> None:
    values = [np.random.default_rng(n).normal(size=(1, 9, 4)).astype(np.float32) for n in range(5)]
    forth, back = (ChannelMaxima(frozenset({"x"})) for _ in range(2))
    for value in values:
        forth.add("x", value)
    for value in reversed(values):
        back.add("x", value)
    assert forth.largest == back.largest
    assert np.array_equal(forth.channels["x"], back.channels["x"])


@pytest.mark.parametrize("sign", [-1, 1])
def test_the_largest_is_a_magnitude_whatever_the_sign(sign: int) -> None:
    maxima = ChannelMaxima(frozenset())
    maxima.add("x", sign * np.array([[1, 2, 7.5]], np.float32))
    maxima.add("x", np.zeros((1, 3), np.float32))
    assert maxima.largest == {"x": 7.5}


def test_powers_of_long_values_keep_their_digits() -> None:
    """Sums of squares over as many rows as stage 1 has at 1024x2048, to 1 in 1000."""
    values = np.random.default_rng(0).normal(3, 1, (1, 1 << 17, 4)).astype(np.float32)
    maxima = ChannelMaxima(frozenset({"x"}))
    maxima.add("x", values)
    exact = (values.astype(np.float64) ** 2).sum(axis=(0, 1))
    np.testing.assert_allclose(maxima.powers["x"], exact, rtol=1e-3)
