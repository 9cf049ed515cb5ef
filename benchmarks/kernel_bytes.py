"""How many bytes the GPU's kernels read and write, counted from the tables that they look up.

Two counts of what is read, since caches lie between: `once` takes each byte once per launch,
which is what memory must deliver where the second-level cache holds what blocks share;
`per_block` takes each byte once per block, which is what must come even where blocks share
nothing. Within a block every byte counts once: what a block reads again is in its cache.

Nothing here is measured. tests/cuda/test_kernel_bytes.py holds each count against the loads and
stores of the kernels' own PTX, interpreted thread by thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from segformer_deploy.cuda.bilinear import bilinear_axis
from segformer_deploy.cuda.jobs import OVERLAY_PIXELS, PIXELS, TILE_X, TILE_Y
from segformer_deploy.runtime.interpolation import axis
from segformer_deploy.runtime.resample import Filter, Taps, taps, vertical_first

Array = Any
Size = tuple[int, int]
WORD = 4
SECTOR = 32
"""Bytes that a GPU moves at least, between memory, caches and multiprocessors."""
_AXIS_WORDS = 4  # lower, upper and their weights, per row and column of the class map
_STARTS = 4 * WORD  # where a tile's pixels begin and end


@dataclass(frozen=True)
class Bytes:
    """Of one launch, or of several."""

    once: int
    per_block: int
    written: int

    def __add__(self, other: Bytes) -> Bytes:
        return Bytes(
            self.once + other.once,
            self.per_block + other.per_block,
            self.written + other.written,
        )

    def to_dict(self) -> dict[str, int]:
        return {
            "read_once": self.once,
            "read_per_block": self.per_block,
            "written": self.written,
            "moved": self.per_block + self.written,
        }


# ---- logits to class map -----------------------------------------------------------------


def class_map(classes: int, logits: Size, size: Size, item: int) -> Bytes:
    """One frame's logits `[classes, *logits]`, `item` bytes each, to a class map of `size`."""
    rows, columns = _tiles(logits[0], size[0], TILE_Y), _tiles(logits[1], size[1], TILE_X)
    tall, wide = sum(one.cells for one in rows), sum(one.cells for one in columns)
    tables = sum(
        WORD * _AXIS_WORDS * (row.pixels + column.pixels) + _STARTS
        for row in rows
        for column in columns
    )
    starts = WORD * (len(rows) + len(columns) + 2)
    return Bytes(
        classes * logits[0] * logits[1] * item + WORD * _AXIS_WORDS * sum(size) + starts,
        classes * tall * wide * item + tables,
        size[0] * size[1] * _map_item(classes),
    )


def class_map_sectors(classes: int, logits: Size, item: int) -> int:
    """Bytes of logits that reach the multiprocessors in whole sectors: a halo column costs one.

    Where a row of logits fills whole sectors, as those of usual sizes do.
    """
    assert logits[1] * item % SECTOR == 0
    rows, columns = _tiles(logits[0], logits[0], TILE_Y), _tiles(logits[1], logits[1], TILE_X)
    sectors = sum(-(-one.cells * item // SECTOR) for one in columns)
    return classes * sum(one.cells for one in rows) * sectors * SECTOR


@dataclass(frozen=True)
class _Tile:
    """One axis of a block: cells that it reads, the next block's first included; its pixels."""

    cells: int
    pixels: int


def _tiles(inputs: int, outputs: int, length: int) -> list[_Tile]:
    start = axis(inputs, outputs).start
    tiles = []
    for first in range(0, inputs, length):
        last = min(first + length, inputs)
        tiles.append(_Tile(min(last + 1, inputs) - first, int(start[last] - start[first])))
    return tiles


def confidence(classes: int, logits: Size, size: Size, item: int) -> Bytes:
    """The probability of each pixel's class, from logits and class map."""
    rows, columns = axis(logits[0], size[0]), axis(logits[1], size[1])
    pixel = np.arange(size[0] * size[1])
    y, x, block = pixel // size[1], pixel % size[1], pixel // PIXELS
    corners = [
        row.astype(np.int64)[y] * logits[1] + column[x]
        for row in (rows.lower, rows.upper)
        for column in (columns.lower, columns.upper)
    ]
    read = np.zeros(logits[0] * logits[1], bool)
    for corner in corners:
        read[corner] = True
    # Neighbours in one cell read the same corners: one of them stands for all.
    same = (np.diff(block) == 0) & (np.diff(corners[0]) == 0)
    first = np.flatnonzero(np.concatenate([[True], ~same]))
    places = _pairs(block[first], [corner[first] for corner in corners])
    lines = 1 + int(np.count_nonzero((np.diff(block) != 0) | (np.diff(y) != 0)))
    # A block that is no longer than a line has each column once.
    tables = lines + (pixel.size if size[1] >= PIXELS else _pairs(block, [x]))
    maps = pixel.size * _map_item(classes)
    return Bytes(
        classes * int(read.sum()) * item + WORD * _AXIS_WORDS * sum(size) + maps,
        classes * places * item + WORD * _AXIS_WORDS * tables + maps,
        pixel.size * WORD,
    )


def _pairs(block: Array, positions: list[Array]) -> int:
    """How many different (block, position) there are."""
    span = max(int(one.max()) for one in positions) + 1
    return int(np.unique(np.concatenate([block * span + one for one in positions])).size)


def overlay(classes: int, size: Size) -> Bytes:
    """Frame and class map to the frame under its colours; at most, for a few colours may do."""
    pixels = size[0] * size[1]
    palette = 3 * (classes + 1)
    pictures = pixels * (3 + _map_item(classes))
    blocks = -(-pixels // OVERLAY_PIXELS)
    return Bytes(pictures + palette, pictures + blocks * palette, 3 * pixels)


def _map_item(classes: int) -> int:
    return 1 if classes <= 256 else 4


def usual(classes: int, logits: Size, size: Size, item: int) -> Bytes:
    """Resize, then argmax: all upsampled logits are written, and read again."""
    small, large = (classes * one[0] * one[1] * item for one in (logits, size))
    return Bytes(small + large, small + large, large + size[0] * size[1] * _map_item(classes))


# ---- frame to network input --------------------------------------------------------------


def resize(frame: Size, size: Size, filter: Filter, nv12: bool = False) -> Bytes:
    """Pillow's: one launch for each axis that changes."""
    (height, width), (to_height, to_width) = frame, size
    if frame == size:
        return _columns(height, width, None, nv12)
    wide = taps(width, to_width, filter) if width != to_width else None
    high = taps(height, to_height, filter) if height != to_height else None
    if wide is None or high is None:
        return _rows(width, high, nv12) if high else _columns(height, width, wide, nv12)
    if vertical_first(height, width, to_height, to_width):
        return _rows(width, high, nv12) + _columns(to_height, width, wide, False)
    return _columns(height, width, wide, nv12) + _rows(to_width, high, False)


def bilinear(frame: Size, size: Size, nv12: bool = False) -> Bytes:
    """OpenCV's: one launch."""
    y, x = bilinear_axis(frame[0], size[0]), bilinear_axis(frame[1], size[1])
    row_sets = [np.unique([y.lower[i], y.upper[i]]) for i in range(size[0])]
    column_sets = [np.unique([x.lower[part], x.upper[part]]) for part in _parts(size[1])]
    per_block = sum(_picture(r, c, nv12) for r in row_sets for c in column_sets)
    tables = size[0] * 3 * WORD * size[1] + len(column_sets) * 3 * WORD * size[0]
    once = _picture(np.unique([y.lower, y.upper]), np.unique([x.lower, x.upper]), nv12)
    return Bytes(once + 3 * WORD * sum(size), per_block + tables, 3 * size[0] * size[1])


def _columns(rows: int, width: int, table: Taps | None, nv12: bool) -> Bytes:
    """Each row on its own; without a table only the format changes."""
    outputs = table.outputs if table else width
    sets = [_taken(table, part) if table else np.arange(width)[part] for part in _parts(outputs)]
    lines = np.arange(rows)
    every = np.unique(np.concatenate(sets))
    # Blocks are single rows, so that NV12's chroma row is read by two of them.
    per_block = rows * sum(_picture(lines[:1], one, nv12) for one in sets)
    tables = WORD * (2 * outputs + int(table.count.sum())) if table else 0
    return Bytes(
        _picture(lines, every, nv12) + tables, per_block + rows * tables, 3 * rows * outputs
    )


def _rows(width: int, table: Taps, nv12: bool) -> Bytes:
    sets = [_taken(table, slice(i, i + 1)) for i in range(table.outputs)]
    columns = [np.arange(width)[part] for part in _parts(width)]
    per_block = sum(_picture(r, c, nv12) for r in sets for c in columns)
    tables = WORD * (2 * table.outputs + int(table.count.sum()))
    once = _picture(np.unique(np.concatenate(sets)), np.arange(width), nv12)
    return Bytes(once + tables, per_block + len(columns) * tables, 3 * table.outputs * width)


def _parts(outputs: int) -> list[slice]:
    return [slice(at, at + PIXELS) for at in range(0, outputs, PIXELS)]


def _taken(table: Taps, part: slice) -> Array:
    """The inputs that some outputs are made from."""
    pairs = zip(table.first[part], table.count[part], strict=True)
    return np.unique(np.concatenate([np.arange(first, first + count) for first, count in pairs]))


def _picture(rows: Array, columns: Array, nv12: bool) -> int:
    """Bytes of the pixels where these rows and columns cross."""
    pixels = rows.size * columns.size
    if not nv12:
        return 3 * pixels
    return pixels + 2 * int(np.unique(rows // 2).size * np.unique(columns // 2).size)
