"""One steadied class map with NumPy alone: the same bits as kernels/stabilise.c.

Every window of a few thousand pixels at once; the kernel in C is some fifty times as fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from segformer_deploy.runtime.stabilise import Frame, Voting

Indices = npt.NDArray[np.intp]
Counts = npt.NDArray[np.int32]

ROWS, COLUMNS = 8, 16
PRESENT = 16
PIXELS_AT_ONCE = 2048
"""Keeps a chunk's arrays of 128 samples per pixel within some megabytes."""


def stabilise(
    now: Frame,
    before: Frame,
    motion: npt.NDArray[np.int16],
    cell: int,
    voting: Voting,
    out: Frame,
) -> None:
    """Fill `out.class_map` and `out.evidence`; see `stabilise.stabilise` for the arguments."""
    height, width = now.class_map.shape
    y, x = np.mgrid[:height, :width]
    moved = motion[y // cell, x // cell]
    source_x, source_y = x + moved[..., 0], y + moved[..., 1]
    known = (source_x >= 0) & (source_x < width) & (source_y >= 0) & (source_y < height)
    sources = np.where(known, source_y, 0), np.where(known, source_x, 0)
    given = now.class_map
    shown = np.where(known, before.class_map[sources], given)
    evidence = np.where(known, before.evidence[sources], 0).astype(np.int32)
    voted = given.copy()
    out.evidence[...] = np.minimum(evidence + 1, voting.most_evidence)
    open_y, open_x = np.nonzero(_open(given, shown))
    for begin in range(0, len(open_y), PIXELS_AT_ONCE):
        at = open_y[begin : begin + PIXELS_AT_ONCE], open_x[begin : begin + PIXELS_AT_ONCE]
        colour = now.planes[:, at[0], at[1]]
        weight = voting.past + voting.trust * evidence[at]
        votes = [
            _votes(now, at[0], at[1], colour, voting.reach, np.int32(PRESENT)),
            _votes(
                *(before, source_y[at], source_x[at], colour, voting.reach),
                np.where(known[at], weight, 0).astype(np.int32),
            ),
        ]
        best = _elected(votes, shown[at], given[at])
        voted[at] = best
        disputed = np.where(given[at] != shown[at], evidence[at] - 1, out.evidence[at])
        out.evidence[at] = np.where(best != shown[at], 0, np.maximum(disputed, 0))
    out.class_map[...] = voted
    _smooth(voted, out.class_map)


def _open(given: npt.NDArray[Any], shown: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """The pixels that are not what was shown, or have another class above, below or beside."""
    marks: npt.NDArray[np.bool_] = given != shown
    below, beside = given[1:] != given[:-1], given[:, 1:] != given[:, :-1]
    marks[1:] |= below
    marks[:-1] |= below
    marks[:, 1:] |= beside
    marks[:, :-1] |= beside
    return marks


def _votes(
    frame: Frame,
    y: Indices,
    x: Indices,
    colour: npt.NDArray[np.uint8],
    reach: int,
    factor: Counts | np.int32,
) -> tuple[npt.NDArray[Any], Counts]:
    """The classes in the windows around the pixels, and how much each sample's vote weighs.

    Args:
        colour: of the pixels, uint8 `[3, n]`.
        factor: of each pixel, or one for all.

    Returns:
        two arrays `[n, 128]`.
    """
    height, width = frame.class_map.shape
    top = np.clip(y - ROWS // 2, 0, height - ROWS)[:, None]
    left = np.clip(x - COLUMNS // 2, 0, width - COLUMNS)[:, None]
    samples = np.arange(ROWS * COLUMNS)
    window = top + samples // COLUMNS, left + samples % COLUMNS
    apart = np.zeros(window[0].shape, np.int32)
    for plane, value in zip(frame.planes, colour, strict=True):
        difference = plane[window].astype(np.int32) - value[:, None].astype(np.int32)
        np.maximum(apart, np.abs(difference), out=apart)
    weight = np.maximum(reach - apart, 0) * np.reshape(factor, (-1, 1))
    return frame.class_map[window], weight


def _elected(
    votes: list[tuple[npt.NDArray[Any], Counts]],
    shown: npt.NDArray[Any],
    given: npt.NDArray[Any],
) -> npt.NDArray[Any]:
    """The classes with the most votes; of equal ones the shown, then the new, then the lowest."""

    def cast_for(class_: npt.NDArray[Any]) -> Counts:
        counts = [np.where(classes == class_, weight, 0).sum(axis=1) for classes, weight in votes]
        return np.asarray(counts[0] + counts[1], np.int32)

    best: npt.NDArray[Any] = shown.copy()
    most = cast_for(shown[:, None])
    wanted = cast_for(given[:, None])
    better = wanted > most
    best[better], most[better] = given[better], wanted[better]
    for class_ in np.unique(np.concatenate([classes.ravel() for classes, _ in votes])):
        count = cast_for(class_)
        better = count > most
        best[better], most[better] = class_, count[better]
    return best


def _smooth(voted: npt.NDArray[Any], out: npt.NDArray[Any]) -> None:
    """Inner pixels of their own between three of one class, of the four beside, take theirs."""
    up, down = voted[:-2, 1:-1], voted[2:, 1:-1]
    left, right = voted[1:-1, :-2], voted[1:-1, 2:]
    inner = out[1:-1, 1:-1]
    level = (left == right) & ((up == left) | (down == left))
    upright = (up == down) & ((left == up) | (right == up))
    inner[level] = left[level]
    inner[upright] = up[upright]
