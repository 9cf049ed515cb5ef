"""OpenCV's bilinear resize of bytes, as the tables that the kernel `resample_bilinear` reads.

``cv2.resize(..., interpolation=cv2.INTER_LINEAR)`` computes positions in float32 and weights with
11 fractional bits; so do we, and the bytes are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

ONE = 1 << 11


@dataclass(frozen=True, eq=False)
class BilinearAxis:
    """One axis: output i lies between `lower[i]` and `upper[i]`.

    Attributes:
        lower, upper: int32, positions in the input.
        weight: int32, of `upper`, in units of 1/2048; the rest is `lower`'s.
    """

    lower: npt.NDArray[np.int32]
    upper: npt.NDArray[np.int32]
    weight: npt.NDArray[np.int32]


@lru_cache(maxsize=64)
def bilinear_axis(inputs: int, outputs: int) -> BilinearAxis:
    """The tables that resize an axis from `inputs` to `outputs` pixels."""
    centre = (np.arange(outputs, dtype=np.float64) + 0.5) * (inputs / outputs) - 0.5
    position = centre.astype(np.float32)
    lower = np.floor(position)
    weight = np.rint((position - lower) * np.float32(ONE))
    # At a border both positions are one pixel, but the weights still share it: each share is
    # rounded down on its own.
    low, high = (np.clip(lower + step, 0, inputs - 1) for step in (0, 1))
    arrays = [np.ascontiguousarray(array, np.int32) for array in (low, high, weight)]
    for array in arrays:
        array.setflags(write=False)
    return BilinearAxis(*arrays)
