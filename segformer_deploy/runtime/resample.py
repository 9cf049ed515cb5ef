"""Resizing with the arithmetic of Pillow's ``Image.resize``, bit for bit, without Pillow.

A model answers best to the resize it was trained with, and the published weights' processors
use Pillow. Its rules: the filter is stretched by the scale where the picture shrinks
(antialiasing); weights are computed in float64, normalised and rounded to 22 fractional bits;
one axis first, rounded to bytes, then the other; an axis whose size stays is left alone.
The order is that of Pillow 13 (`vertical_first`); older ones always began with the columns,
which moves some bytes of frames that shrink mostly in height by one level.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from segformer_deploy.runtime import native
from segformer_deploy.runtime.strips import run_in_strips

Pixels = npt.NDArray[np.uint8]
Doubles = npt.NDArray[np.float64]
Filter = Literal["bilinear", "bicubic", "nearest"]

PRECISION_BITS = 32 - 8 - 2
_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}
_WORK_WORTH_A_THREAD = 500_000
"""Bytes times weights: about 0.3 ms, above what handing over a strip costs."""


@dataclass(frozen=True, eq=False)
class Taps:
    """One axis: output i is the sum of `count[i]` inputs from `first[i]` on, weighted.

    `weights` is int32 `[outputs, longest]`, fixed point with 22 fractional bits, zero beyond
    the count.
    """

    inputs: int
    first: npt.NDArray[np.int32]
    count: npt.NDArray[np.int32]
    weights: npt.NDArray[np.int32]

    @property
    def outputs(self) -> int:
        return len(self.first)

    @property
    def longest(self) -> int:
        return int(self.weights.shape[1])

    @cached_property
    def table(self) -> Any:
        """A pointer to the C struct; valid as long as this object."""
        arrays = (self.first, self.count, self.weights)
        sizes = (self.longest, self.inputs, self.outputs)
        return ctypes.pointer(native.TapsTable(*map(native.address, arrays), *sizes))


@lru_cache(maxsize=64)
def taps(inputs: int, outputs: int, filter: Filter) -> Taps:
    """The weights that resize an axis from `inputs` to `outputs` pixels."""
    if filter == "nearest":
        return _nearest(inputs, outputs)
    scale = inputs / outputs
    stretch = max(scale, 1.0)
    support = _SUPPORT[filter] * stretch
    centre = (np.arange(outputs, dtype=np.float64) + 0.5) * scale
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    count = np.minimum((centre + support + 0.5).astype(np.int64), inputs) - first
    longest = int(count.max())
    weights = np.zeros((outputs, longest), np.float64)
    total = np.zeros(outputs, np.float64)
    for tap in range(longest):
        # Summed one by one: another order of additions would round differently.
        value = _filtered(filter, (tap + first - centre + 0.5) * (1.0 / stretch))
        weights[:, tap] = np.where(tap < count, value, 0.0)
        total += weights[:, tap]
    weights /= np.where(total == 0.0, 1.0, total)[:, None]
    scaled = weights * (1 << PRECISION_BITS)
    return _frozen(inputs, first, count, np.trunc(scaled + np.where(scaled < 0, -0.5, 0.5)))


def _filtered(filter: Filter, x: Doubles) -> Doubles:
    x = np.abs(x)
    if filter == "bilinear":
        return np.maximum(1.0 - x, 0.0)
    a = -0.5  # Keys' cubic convolution
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _nearest(inputs: int, outputs: int) -> Taps:
    # Pillow steps through the source by repeated addition, so its rounding accumulates.
    steps = np.full(outputs, inputs / outputs)
    steps[0] *= 0.5
    first = np.minimum(np.cumsum(steps).astype(np.int64), inputs - 1)
    count = np.ones(outputs, np.int64)
    return _frozen(inputs, first, count, np.full((outputs, 1), float(1 << PRECISION_BITS)))


def _frozen(inputs: int, first: Any, count: Any, weights: Doubles) -> Taps:
    arrays = [np.ascontiguousarray(array, np.int32) for array in (first, count, weights)]
    for array in arrays:
        array.setflags(write=False)
    return Taps(inputs, *arrays)


def vertical_first(height: int, width: int, to_height: int, to_width: int) -> bool:
    """Whether Pillow 13 resizes the rows before the columns: where the height shrinks, and by
    more than twice as many pixels as the width does."""
    lost = height - to_height
    return lost > 0 and lost > 2 * (width - to_width)


def resize(
    picture: Pixels,
    height: int,
    width: int,
    filter: Filter,
    *,
    swap: bool = False,
    out: Pixels | None = None,
    threads: int | None = None,
) -> Pixels:
    """Resize as Pillow does, and swap the first and third channel on the way.

    Args:
        picture: uint8 `[H, W, 3]`, C-contiguous.
        height, width: of the result, in pixels.
        filter: ``bilinear``, ``bicubic`` or ``nearest``.
        swap: BGR -> RGB.
        out: uint8 `[height, width, 3]`, C-contiguous, not sharing memory with `picture`.
        threads: the most to use; None takes the cores of this process.

    Returns:
        `out`, or a new array.
    """
    out = np.empty((height, width, 3), np.uint8) if out is None else out
    columns = None if picture.shape[1] == width else taps(picture.shape[1], width, filter)
    rows = None if picture.shape[0] == height else taps(picture.shape[0], height, filter)
    rows_first = vertical_first(picture.shape[0], picture.shape[1], height, width)
    kernels = native.kernels()
    if kernels is None:
        _resize_numpy(picture[..., ::-1] if swap else picture, columns, rows, rows_first, out)
        return out

    def work(begin: int, end: int) -> None:
        native.check(
            kernels.resample(
                *(native.address(picture), picture.shape[1]),
                *(columns.table if columns else None, rows.table if rows else None),
                *(rows_first, swap, begin, end, native.address(out)),
            )
        )

    per_row = 3 * width * (rows.longest if rows else 1)
    if columns:
        per_row += 3 * width * columns.longest * math.ceil(picture.shape[0] / height)
    run_in_strips(work, height, threads, max(1, _WORK_WORTH_A_THREAD // per_row))
    return out


def _resize_numpy(
    picture: Pixels, columns: Taps | None, rows: Taps | None, rows_first: bool, out: Pixels
) -> None:
    for axis, taps in ((0, rows), (1, columns)) if rows_first else ((1, columns), (0, rows)):
        if taps:
            picture = _resample_axis(picture, taps, axis)
    out[...] = picture


def _resample_axis(picture: Pixels, taps: Taps, axis: int) -> Pixels:
    along = picture.swapaxes(0, axis)
    sums = np.full((taps.outputs, *along.shape[1:]), 1 << (PRECISION_BITS - 1), np.int32)
    for tap in range(taps.longest):
        at = np.minimum(taps.first + tap, taps.inputs - 1)
        sums += along[at] * taps.weights[:, tap, None, None]
    rounded = np.clip(sums >> PRECISION_BITS, 0, 255).astype(np.uint8)
    turned: Pixels = rounded.swapaxes(0, axis)
    return turned
