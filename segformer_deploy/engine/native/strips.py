"""The logits of a frame strip by strip, so that they never lie in memory as a whole.

The decoder's step works on each row of the logits alone: from stage 1's row and the rows of the
coarser stages that its tables name. A copy of the step that starts further down in the map and
in the tables gives just those rows, by the same operations. Exactness: bits.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

from segformer_deploy.engine.native import library

STRIP_BYTES = 2 << 20
"""Of a strip's logits, at most about: 150 classes at 512x512 take 10 MB."""
_MOST_STRIPS, _FEWEST_ROWS = 6, 8
"""About: a row is computed twice between two strips, and of a large frame `STRIP_BYTES` would
be a few rows."""
_TILE_ROWS = 2
"""What a thread of the decoder takes at a time (TILE_ROWS in decoder.c)."""


def strip_rows(height: int, width: int, classes: int, threads: int) -> Iterator[tuple[int, int]]:
    """(first row, row after the last) of each strip; neighbours share one row.

    Pixels between two strips lie between the last row of one and the first of the next; so
    that row is in both, and computed twice.
    """
    even = _TILE_ROWS * threads
    most = STRIP_BYTES // (4 * classes * width) // even * even
    count = max(most, -(-max(height // _MOST_STRIPS, _FEWEST_ROWS) // even) * even)
    first = 0
    while True:
        end = min(first + count, height)
        if height - end < count // 4:  # no sliver at the end
            end = height
        yield first, end
        if end == height:
            return
        first = end - 1


def decoder_of_rows(whole: library.Decoder, first: int, end: int, logits: int) -> library.Decoder:
    """The step that writes rows `first` to `end` of the logits to `logits`, `[classes, n, width]`.

    It points to what `whole` points to.
    """
    part = library.Decoder()
    ctypes.memmove(ctypes.addressof(part), ctypes.addressof(whole), ctypes.sizeof(whole))
    part.own = whole.own + 4 * first * whole.width * whole.fuse.inputs
    for axis in part.rows:
        for name, _ in library.Axis._fields_:
            setattr(axis, name, getattr(axis, name) + 4 * first)
    part.height, part.logits = end - first, logits
    return part
