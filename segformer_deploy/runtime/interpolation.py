"""Where each pixel lies between the logits, and how far rounding can carry its value.

Bilinear upsampling as PyTorch's ``interpolate(mode="bilinear", align_corners=False)`` defines
it: pixel centres at half integers, positions clamped at the border. The arithmetic is float32
in one fixed order, without fused multiply-add, so that every machine gives the same bits::

    left  = wy0 * a + wy1 * c          a b   the logits around the pixel
    right = wy0 * b + wy1 * d          c d
    value = wx0 * left + wx1 * right
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from segformer_deploy.runtime import native

RELATIVE_ERROR = 3.01 * 2.0**-23
UNDERFLOW_ERROR = 2.0**-148
_OVERSHOOT = 16
"""Elements after each table's end that a vector instruction may read."""


def rounding_bound(largest: float) -> float:
    """The most by which a float32 interpolated logit differs from exact interpolation.

    Per axis one rounding of the weight, of the product and of the sum: ((1 + u)^6 - 1) M,
    u = 2^-24, which is a little over 3 * 2^-23 M; plus four underflows of 2^-150. Two classes
    whose exact values differ by more than twice this are never exchanged.

    Args:
        largest: M, the largest absolute value among the logits, below 2^127.
    """
    return RELATIVE_ERROR * largest + UNDERFLOW_ERROR


@dataclass(frozen=True, eq=False)
class Axis:
    """One axis of an upsampling from `inputs` to `outputs` positions; see kernels.h.

    Attributes:
        lower, upper: int32, input positions around each output.
        w_lower, w_upper: float32, their weights.
        start: int32 `[inputs + 1]`, the first output whose `lower` is at least k.
    """

    inputs: int
    outputs: int
    lower: npt.NDArray[np.int32]
    upper: npt.NDArray[np.int32]
    w_lower: npt.NDArray[np.float32]
    w_upper: npt.NDArray[np.float32]
    start: npt.NDArray[np.int32]

    @cached_property
    def table(self) -> Any:
        """A pointer to the C struct; valid as long as this object."""
        arrays = (self.lower, self.upper, self.w_lower, self.w_upper, self.start)
        table = native.AxisTable(*map(native.address, arrays), self.inputs, self.outputs)
        return ctypes.pointer(table)


@lru_cache(maxsize=256)
def band(inputs: int, outputs: int, first: int, end: int) -> tuple[int, Axis]:
    """The part of `axis` whose outputs lie within inputs `first` to `end`, and where it begins.

    An output between the last of these inputs and the next one is no part of it, nor are those
    at the last input, unless it is the last of all. Positions count from `first`.
    """
    whole = axis(inputs, outputs)
    begin = int(whole.start[first])
    stop = outputs if end == inputs else int(whole.start[end - 1])
    lower = whole.lower[begin:stop] - first
    return begin, Axis(
        end - first,
        stop - begin,
        _padded(lower, np.int32),
        _padded(whole.upper[begin:stop] - first, np.int32),
        _padded(whole.w_lower[begin:stop], np.float32),
        _padded(whole.w_upper[begin:stop], np.float32),
        _padded(np.searchsorted(lower, np.arange(end - first + 1)), np.int32),
    )


def _padded(values: npt.NDArray[Any], dtype: type) -> npt.NDArray[Any]:
    whole: npt.NDArray[Any] = np.zeros(len(values) + _OVERSHOOT, dtype)
    whole[: len(values)] = values
    whole.setflags(write=False)
    return whole[: len(values)]


@lru_cache(maxsize=64)
def axis(inputs: int, outputs: int) -> Axis:
    """The tables for `inputs` logits and `outputs` pixels; computed in float64, once."""
    position = (np.arange(outputs, dtype=np.float64) + 0.5) * (inputs / outputs) - 0.5
    position = np.maximum(position, 0.0)
    lower = np.minimum(np.floor(position).astype(np.int64), inputs - 1)
    between = np.where(lower == inputs - 1, 0.0, position - lower)
    return Axis(
        inputs,
        outputs,
        _padded(lower, np.int32),
        _padded(np.minimum(lower + 1, inputs - 1), np.int32),
        _padded(1.0 - between, np.float32),
        _padded(between, np.float32),
        _padded(np.searchsorted(lower, np.arange(inputs + 1)), np.int32),
    )
