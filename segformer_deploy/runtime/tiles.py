"""Overlapping windows -> the logits of the whole picture, strip by strip.

The windows lie on a grid: rows of windows times columns of windows. Once a row of windows is
done, the logits above the next row's share are final: they leave as a strip, and the whole
picture's logits never exist. A strip repeats the last row of the one above it, which the
bilinear upsampling between them needs (`class_map.class_map_from_strips`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from segformer_deploy.engine.tiling import GRID, Merge, Tiling
from segformer_deploy.spec import FrameSize

__all__ = ["Grid", "Merge", "Span", "Tiling", "spans", "strips_from_windows", "whole_from_strips"]

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Span:
    """A window along one axis.

    Attributes:
        begin, end: pixels.
        keep: (first, end) of its logits that count, on the picture's logit grid.
    """

    begin: int
    end: int
    keep: tuple[int, int]

    @property
    def pixels(self) -> slice:
        return slice(self.begin, self.end)

    @property
    def first(self) -> int:
        """Its first logit on the picture's grid."""
        return self.begin // GRID


def spans(side: int, tile: int, overlap: int, merge: Merge) -> tuple[Span, ...]:
    """The windows along a side of `side` pixels.

    They begin every `tile - overlap` pixels; the last one is shifted back to end at the edge. It
    must begin at a multiple of 4, so where `side` is none it is up to 3 pixels shorter than the
    others: its end is the picture's own, of which nothing is invented. A picture no larger than
    a tile is one window of its own size.

    Args:
        tile, overlap: pixels, as `Tiling` has checked them.
    """
    begins = [0]
    while begins[-1] + tile < side:
        last = -(-(side - tile) // GRID) * GRID
        begins.append(min(begins[-1] + tile - overlap, last))
    ends = [min(begin + tile, side) for begin in begins]
    reach = [(begin // GRID, -(-end // GRID)) for begin, end in zip(begins, ends, strict=True)]
    if merge == "centre":
        # In the middle of what two neighbours share both borders are equally far.
        cuts = [(left[1] + right[0]) // 2 for left, right in pairwise(reach)]
        edges = [0, *cuts, reach[-1][1]]
        reach = list(pairwise(edges))
    return tuple(
        Span(begin, end, keep) for begin, end, keep in zip(begins, ends, reach, strict=True)
    )


@dataclass(frozen=True)
class Grid:
    """The windows of one picture: `rows` times `columns`."""

    picture: FrameSize
    rows: tuple[Span, ...]
    columns: tuple[Span, ...]

    @classmethod
    def over(cls, picture: FrameSize, tiling: Tiling) -> Grid:
        """The grid over a picture of network size."""
        tile, overlap, merge = tiling.tile, tiling.overlap, tiling.merge
        rows = spans(picture.height, tile.height, overlap, merge)
        return cls(picture, rows, spans(picture.width, tile.width, overlap, merge))

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    @property
    def sizes(self) -> tuple[FrameSize, ...]:
        """Every size that a window has, the usual one first."""
        found = [
            FrameSize(row.end - row.begin, column.end - column.begin)
            for row in self.rows
            for column in self.columns
        ]
        return tuple(dict.fromkeys(found))


def strips_from_windows(
    grid: Grid, logits: Callable[[Span, Span], Floats]
) -> Iterator[tuple[int, Floats]]:
    """The whole picture's logits from those of its windows, as strips from the top.

    Args:
        logits: (row, column) of a window -> float32 `[C, h, w]`; read before it is asked again.

    Yields:
        (first row, float32 `[C, rows, w]`): the mean of the windows that count where several do;
        valid until the next. The last row of one is the first of the next.
    """
    strips = _strip_rows(grid.rows)
    width = grid.columns[-1].keep[1]
    over, across = _coverage(grid.rows), _coverage(grid.columns)
    begun: dict[int, Floats] = {}
    for number, row in enumerate(grid.rows):
        touched = [n for n in range(number, len(strips)) if strips[n][0] < row.keep[1]]
        for column in grid.columns:
            window = logits(row, column)
            for n in touched:
                if n not in begun:
                    first, end = strips[n]
                    # Zeroed by the system page by page: what no window reached takes no memory.
                    begun[n] = np.zeros((len(window), end - first, width), np.float32)
                _add(begun[n], strips[n], window, row, column)
        first, end = strips[number]
        counts = over[first:end, None] * across
        # Under no name here: it is gone once its reader lets go of it.
        yield first, _mean(begun.pop(number), counts)


def _mean(sums: Floats, counts: Floats) -> Floats:
    if counts.max() > 1:
        sums /= counts
    return sums


def whole_from_strips(strips: Iterable[tuple[int, Floats]]) -> Floats:
    """Strips -> all logits `[C, h, w]`, for what needs them at once."""
    parts = [strip[:, min(n, 1) :] for n, (_, strip) in enumerate(strips)]
    return np.concatenate(parts, axis=1)


def _strip_rows(rows: tuple[Span, ...]) -> list[tuple[int, int]]:
    """(first, end) of the logit rows that are final after each row of windows."""
    ends = [row.keep[0] for row in rows[1:]] + [rows[-1].keep[1]]
    return [(max(0, before - 1), end) for before, end in pairwise([0, *ends])]


def _coverage(axis: tuple[Span, ...]) -> Floats:
    """How many windows count at each logit along an axis."""
    counts = np.zeros(axis[-1].keep[1], np.float32)
    for span in axis:
        counts[slice(*span.keep)] += 1
    return counts


def _add(strip: Floats, rows: tuple[int, int], window: Floats, row: Span, column: Span) -> None:
    """Add to a strip what counts of a window's logits."""
    first, end = max(rows[0], row.keep[0]), min(rows[1], row.keep[1])
    left, right = column.keep
    strip[:, first - rows[0] : end - rows[0], left:right] += window[
        :, first - row.first : end - row.first, left - column.first : right - column.first
    ]
