"""Histogram -> the magnitude that the INT8 grid should hold: minmax, percentile, entropy."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from segformer_deploy.calibrate.histograms import BINS, Counts, Histogram
from segformer_deploy.graph.insert_qdq import STEPS

Method = Literal["minmax", "percentile", "entropy"]

DEFAULT_PERCENTILE = 99.999
_ENTROPY_BINS = 2048
_LEVELS = STEPS + 1


def threshold_from_histogram(
    histogram: Histogram, method: Method, percentile: float = DEFAULT_PERCENTILE
) -> float:
    """The largest magnitude to hold; beyond it values saturate."""
    if method == "minmax" or histogram.limit <= 0 or not histogram.counts.sum():
        return histogram.limit
    if method == "percentile":
        return _percentile(histogram, percentile)
    return _entropy(histogram)


def _percentile(histogram: Histogram, percentile: float) -> float:
    """The upper edge of the bin in which `percentile` percent of all values are reached."""
    counts = np.cumsum(histogram.counts)
    # In integers of the total, so that 100 % is the last bin that holds anything.
    wanted = counts[-1] * (percentile / 100)
    edge = int(np.searchsorted(counts, wanted)) + 1
    return histogram.limit * min(edge, BINS) / BINS


def _entropy(histogram: Histogram) -> float:
    """The range whose grid loses least information (Kullback-Leibler divergence).

    As TensorRT's entropy calibrator did it (Migacz, "8-bit inference with TensorRT", GTC 2017):
    the histogram cut at a bin, its outliers gathered in the last one, against the same
    histogram seen through 128 levels.
    """
    counts = histogram.counts.reshape(_ENTROPY_BINS, -1).sum(axis=1)
    # Zeros are exact on every grid, and so many of them drown the rest.
    counts[0] = counts[1]
    ends = range(_LEVELS, _ENTROPY_BINS + 1, _LEVELS // 8)
    losses = [_information_lost(counts, end) for end in ends]
    return histogram.limit * ends[int(np.argmin(losses))] / _ENTROPY_BINS


def _information_lost(counts: Counts, end: int) -> float:
    cut = counts[:end].astype(np.float64)
    seen = _through_levels(cut)
    cut[-1] += counts[end:].sum()
    total, seen_total = cut.sum(), seen.sum()
    if not total or not seen_total:
        return float("inf")
    p, q = cut / total, seen / seen_total
    where = p > 0
    if (q[where] == 0).any():
        # Outliers gathered in a bin that the grid does not show: lost without a measure.
        q = np.maximum(q, 1e-12)
    return float(np.sum(p[where] * np.log(p[where] / q[where])))


def _through_levels(counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The counts with each level's total spread over those of its bins that hold any."""
    level = np.arange(len(counts)) * _LEVELS // len(counts)
    occupied = counts > 0
    totals = np.bincount(level, counts, minlength=_LEVELS)
    bins = np.bincount(level, occupied, minlength=_LEVELS)
    spread = np.divide(totals, bins, out=np.zeros_like(totals), where=bins > 0)
    result: npt.NDArray[np.float64] = np.where(occupied, spread[level], 0.0)
    return result
