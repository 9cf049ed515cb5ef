"""8-bit grids of activations, and the two kinds of numbers that an executor computes with.

A grid holds per channel a scale and a zero point: ``real = (stored - zero) * scale``, stored
being an integer of -128 to 127. Every kernel works on a chunk of 4-byte numbers in the unit
of its output's grid and then calls `settle`, which rounds to that grid. With float numbers there
is no grid: `settle` only shows the values to whoever watches, which is how grids are calibrated
and how the schedule is held against PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
LOW, HIGH = np.float32(-128), np.float32(127)
Watch = Callable[[str, npt.NDArray[Any], int], object]
"""Called with a tensor's name, a chunk [T, C] in real units, and its first channel."""


@dataclass(frozen=True)
class Grid:
    """float32 [C] each; `zero` is an integer, so that real 0 (padding) is met exactly."""

    scale: Floats
    zero: Floats

    @property
    def offset(self) -> Floats:
        """real = stored * scale + offset."""
        return -self.zero * self.scale


def identity(channels: int) -> Grid:
    """Stored is real."""
    return Grid(np.ones(channels, np.float32), np.zeros(channels, np.float32))


def grid_from_range(low: npt.NDArray[Any], high: npt.NDArray[Any]) -> Grid:
    """The finest grid that holds 0 and everything from `low` to `high`, [C] each."""
    low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    scale = np.maximum((high - low) / 255, 1e-8)
    zero = np.clip(np.rint(-128 - low / scale), -128, 127)
    return Grid(scale.astype(np.float32), zero.astype(np.float32))


def symmetric_grid(largest: npt.NDArray[Any]) -> Grid:
    scale = np.maximum(largest / 127, 1e-8).astype(np.float32)
    return Grid(scale, np.zeros_like(scale))


Grids = Mapping[str, Grid]


class Numbers(Protocol):
    """What an executor's activations are."""

    act: str
    """NumPy type of a stored activation."""

    def settle(self, name: str, values: Floats, at: int = 0) -> None:
        """Bring `values` [T, C] onto the grid of tensor `name`, in place."""


class Bytes:
    """8-bit activations: rounded half to even, held at the ends of the grid."""

    act = "int8"

    def settle(self, name: str, values: Floats, at: int = 0) -> None:
        np.rint(values, out=values)
        np.maximum(values, LOW, out=values)
        np.minimum(values, HIGH, out=values)


class Reals:
    """float32 activations; `watch` sees each of them."""

    act = "float32"

    def __init__(self, watch: Watch | None = None) -> None:
        self.watch = watch

    def settle(self, name: str, values: Floats, at: int = 0) -> None:
        if self.watch is not None:
            self.watch(name, values, at)
