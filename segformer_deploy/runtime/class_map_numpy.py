"""Class map and confidence with NumPy alone: the same bits as the compiled kernels.

Every class at every pixel, a few rows at a time, so that memory stays small; the kernels
in C are several times faster because they look at few classes in most places.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from segformer_deploy.runtime.interpolation import Axis

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int32]

PIXELS_AT_ONCE = 1 << 16
"""Keeps a chunk's handful of float arrays in the cache and far below a megabyte each."""


def class_map_rows(
    logits: Floats, rows: Axis, columns: Axis, out: npt.NDArray[np.uint8] | Indices
) -> None:
    """Fill `out` `[H, W]` with the winning class of each pixel; the first one wins ties.

    NaN counts as the greatest value, as in NumPy's and PyTorch's argmax.

    Args:
        logits: `[C, h, w]`.
        rows, columns: the tables for h -> H and w -> W.
        out: uint8 or int32.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        for begin, end in _chunks(rows.outputs, columns.outputs):
            best = _values(logits[0], rows, columns, begin, end)
            winner = np.zeros(best.shape, out.dtype)
            for index in range(1, len(logits)):
                value = _values(logits[index], rows, columns, begin, end)
                wins = ~(value <= best) & (best == best)
                np.copyto(best, value, where=wins)
                winner[wins] = index
            out[begin:end] = winner


def confidence_rows(
    logits: Floats,
    rows: Axis,
    columns: Axis,
    class_map: npt.NDArray[np.uint8] | Indices,
    out: Floats,
) -> None:
    """Fill `out` `[H, W]` with the softmax probability of the class that `class_map` holds."""
    with np.errstate(all="ignore"):
        for begin, end in _chunks(rows.outputs, columns.outputs):
            chosen = class_map[begin:end]
            winner = np.empty(chosen.shape, np.float32)
            for index in np.unique(chosen):
                value = _values(logits[index], rows, columns, begin, end)
                np.copyto(winner, value, where=chosen == index)
            total = np.zeros(chosen.shape, np.float64)
            for plane in logits:
                total += _exp(_values(plane, rows, columns, begin, end) - winner)
            out[begin:end] = 1.0 / total


def _chunks(height: int, width: int) -> Iterator[tuple[int, int]]:
    step = max(1, PIXELS_AT_ONCE // width)
    for begin in range(0, height, step):
        yield begin, min(begin + step, height)


def _values(plane: Floats, rows: Axis, columns: Axis, begin: int, end: int) -> Floats:
    """Interpolated logits of one class, output rows begin..end; the order of kernels.h."""
    lower, upper = plane[rows.lower[begin:end]], plane[rows.upper[begin:end]]
    w_lower, w_upper = rows.w_lower[begin:end, None], rows.w_upper[begin:end, None]
    mixed = w_lower * lower + w_upper * upper
    left, right = mixed[:, columns.lower], mixed[:, columns.upper]
    return columns.w_lower * left + columns.w_upper * right


def _exp(x: Floats) -> Floats:
    """exp in float32 as confidence.c computes it, step for step."""
    f = np.float32
    shift = f(12582912.0)
    x = np.where(x < f(-87.0), f(-87.0), x)
    x = np.where(x > f(88.0), f(88.0), x)
    shifted = x * f(1.44269504) + shift
    n = shifted - shift
    r = (x - n * f(0.693359375)) - n * f(-2.12194440e-4)
    p = np.full(x.shape, f(1.9875691500e-4))
    for coefficient in (
        *(1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2),
        *(1.6666665459e-1, 5.0000001201e-1),
    ):
        p = p * r + f(coefficient)
    p = p * (r * r) + r
    p = p + f(1.0)
    bits = (shifted.view(np.uint32) << np.uint32(23)) + np.uint32(0x3F800000)
    scaled: Floats = p * bits.view(np.float32)
    return scaled
