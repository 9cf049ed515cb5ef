"""Frames -> 8-bit grids, by watching the float executor at the size it will run at.

A range is the smallest and the largest value that any frame had. Which tensors get a grid per
channel is decided by who reads them: where that is LayerNorm, the depthwise convolution, softmax's
product or the residual sum, a scale per channel costs nothing. Before a matrix product it would go
into the weight's rows, which are rounded per column, so there one grid serves all channels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from floor.executor import Executor
from floor.grids import Grid, Reals, grid_from_range, symmetric_grid
from floor.network import Network
from floor.prepare import ready_from_network
from floor.space import FAST
from segformer_deploy.spec import FrameSize

Array = npt.NDArray[Any]
PER_CHANNEL = ("in", "mid", "out", "hidden", "key_value")


class Extremes:
    """A watcher: per tensor, the smallest and largest value of each channel."""

    def __init__(self) -> None:
        self._parts: dict[str, dict[int, tuple[Array, Array]]] = defaultdict(dict)

    def __call__(self, name: str, values: Array, at: int) -> None:
        low, high = values.min(0), values.max(0)
        parts = self._parts[name]
        if at in parts:
            low, high = np.minimum(low, parts[at][0]), np.maximum(high, parts[at][1])
        parts[at] = low, high

    @property
    def names(self) -> list[str]:
        return list(self._parts)

    def range(self, name: str) -> tuple[Array, Array]:
        """[C] each."""
        parts = self._parts[name]
        low, high = zip(*(parts[at] for at in sorted(parts)), strict=True)
        return np.concatenate(low), np.concatenate(high)


def observe(network: Network, size: FrameSize, frames: Iterable[Array]) -> Extremes:
    """Extremes over `frames`, uint8 RGB of the network's size."""
    seen = Extremes()
    run = Executor(ready_from_network(network), size, FAST, numbers=Reals(seen))
    for frame in frames:
        run(frame, FrameSize(4, 4), lambda y, x, pixels: None)
    return seen


def grids_from_extremes(
    network: Network,
    seen: Extremes,
    per_channel: tuple[str, ...] = PER_CHANNEL,
) -> dict[str, Grid]:
    """A grid for every tensor but the logits, whose grid is fixed."""
    grids: dict[str, Grid] = {}
    for name in seen.names:
        kind = name.rpartition(".")[2]
        if kind in ("logits", "query", "resized"):
            continue
        low, high = seen.range(name)
        end = kind == "out" and "block" not in name  # a stage's output is read by projections
        wide = "c" if end else kind
        if wide not in per_channel:
            low, high = np.full_like(low, low.min()), np.full_like(high, high.max())
        grids[name] = grid_from_range(low, high)
    for name in seen.names:
        if name.endswith(".query"):
            grids[name] = _query_grid(network, seen, name, grids)
    return grids


def _query_grid(network: Network, seen: Extremes, name: str, grids: dict[str, Grid]) -> Grid:
    """One scale per head, for queries that carry the keys' scales; no zero point."""
    low, high = seen.range(name)
    width = len(low)
    heads = network.config.heads[int(name[len("stage")]) - 1]
    keys = grids[name.replace(".query", ".key_value")].scale[:width]
    largest = np.maximum(np.abs(low), np.abs(high)) * keys
    per_head = largest.reshape(heads, -1).max(1)
    return symmetric_grid(np.repeat(per_head, width // heads))
