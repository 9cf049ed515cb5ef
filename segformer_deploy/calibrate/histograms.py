"""What is kept of the values that have been seen: maxima and histograms, of constant size.

Counts are integers and maxima do not depend on order, so that the same frames give the same
bits, however many there are.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]

BINS = 8192
SAMPLE = 1 << 18
"""Of a value with more elements, every n-th counts, n prime to its axes: a tail of one in 100 000
is still seen 500 times in 200 frames, and a frame costs a tenth."""
_STRIDES = (3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89)


class ChannelMaxima:
    """The largest magnitude per value and, of chosen values, per channel (the last axis).

    Of the chosen, `powers` holds each channel's sum of squares and `counts` the number of
    squares in it.
    """

    def __init__(self, with_channels: frozenset[str]) -> None:
        self._with_channels = with_channels
        self.largest: dict[str, float] = {}
        self.channels: dict[str, Floats] = {}
        self.powers: dict[str, npt.NDArray[np.float64]] = {}
        self.counts: dict[str, int] = {}

    def add(self, name: str, value: Floats) -> None:
        if name in self._with_channels:
            flat = value.reshape(-1, value.shape[-1])
            found = np.maximum(flat.max(axis=0), -flat.min(axis=0))
            seen = self.channels.get(name)
            self.channels[name] = found if seen is None else np.maximum(seen, found)
            power = np.einsum("nc,nc->c", flat, flat).astype(np.float64)
            self.powers[name] = power + self.powers.get(name, 0.0)
            self.counts[name] = self.counts.get(name, 0) + len(flat)
            largest = float(found.max())
        else:
            largest = float(max(value.max(), -value.min()))
        self.largest[name] = max(self.largest.get(name, 0.0), largest)


class Histogram:
    """How often which magnitude occurs, in `BINS` equal bins from 0 to `limit`.

    What lies beyond `limit` counts in the last bin.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.counts: Counts = np.zeros(BINS, np.int64)

    def add(self, value: Floats) -> None:
        sample = sample_of(value)
        if self.limit <= 0:
            self.counts[0] += sample.size
            return
        steps = np.abs(sample)
        # Not times BINS / limit, which overflows where a value all but vanishes.
        steps /= np.float32(self.limit)
        steps *= BINS
        # Before the cast: a value beyond int32 would wrap.
        np.minimum(steps, BINS - 1, out=steps)
        self.counts += np.bincount(steps.astype(np.int32), minlength=BINS)


def sample_of(value: Floats) -> Floats:
    """About `SAMPLE` elements of `value`, evenly spread over every axis; all where it has fewer."""
    flat = value.reshape(-1)
    least = flat.size / SAMPLE
    if least <= 1:
        return flat
    fitting = (n for n in _STRIDES if n >= least and all(axis % n for axis in value.shape))
    return flat[:: next(fitting, _STRIDES[-1])]
