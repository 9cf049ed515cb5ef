"""The boundary F-score: are the edges of the class map where the label's edges are?

Per class and image (Csurka, Larlus and Perronnin, "What is a good evaluation measure for
semantic segmentation?", BMVC 2013): precision is the share of the prediction's boundary
pixels that have a boundary pixel of the label within the tolerance, recall the same the other
way round, F their harmonic mean; a class's score is the mean over the images in which it has
a boundary. IoU hardly feels a ragged edge of a large class; this does.

Here a *boundary pixel* of class c is a pixel of class c with a 4-neighbour of another class,
both of them valid: neither the picture's border nor an edge towards void counts. Distance is
Euclidean; the tolerance is 0.75 % of the image's diagonal, rounded, at least one pixel.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[Any]
BoolArray = npt.NDArray[np.bool_]
Scores = npt.NDArray[np.float64]

TOLERANCE_OF_DIAGONAL = 0.0075


def tolerance_px(height: int, width: int, share: float = TOLERANCE_OF_DIAGONAL) -> int:
    """The distance in pixels up to which a boundary pixel is taken as met."""
    return max(1, math.floor(share * math.hypot(height, width) + 0.5))


def boundary_pixels(classes: IntArray, valid: BoolArray | None = None) -> BoolArray:
    """Which pixels of `[H, W]` lie at a border between two classes (both sides of it)."""
    edge = np.zeros(classes.shape, np.bool_)
    for first, second in (
        (np.s_[:, :-1], np.s_[:, 1:]),
        (np.s_[:-1, :], np.s_[1:, :]),
    ):
        differs = classes[first] != classes[second]
        if valid is not None:
            differs &= valid[first]
            differs &= valid[second]
        edge[first] |= differs
        edge[second] |= differs
    return edge


def boundary_f(
    prediction: IntArray,
    label: IntArray,
    classes: int,
    *,
    valid: BoolArray | None = None,
    tolerance: int | None = None,
) -> Scores:
    """F-score of 0..1 per class for one image, NaN where a class has no boundary on either side.

    Args:
        prediction, label: `[H, W]` class indices; below `classes` wherever `valid`.
        classes: number of classes.
        valid: bool `[H, W]`, False where the label is void.
        tolerance: in pixels; `tolerance_px` of the image's size by default.
    """
    if tolerance is None:
        tolerance = tolerance_px(*label.shape)
    in_prediction = _class_points(prediction, valid)
    in_label = _class_points(label, valid)
    scores = np.full(classes, np.nan)
    present = np.union1d(in_prediction[2], in_label[2])
    # One bit per class: a group of 64 classes is grown by one pass of bitwise ORs.
    for start in range(0, len(present), 64):
        group = present[start : start + 64]
        precision, predicted = _share_met(in_prediction, in_label, group, label.shape, tolerance)
        recall, labelled = _share_met(in_label, in_prediction, group, label.shape, tolerance)
        both = precision + recall
        score = np.divide(2 * precision * recall, both, out=np.zeros_like(both), where=both > 0)
        score[(predicted == 0) & (labelled == 0)] = np.nan
        scores[group] = score
    return scores


_Points = tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.intp]]


def _class_points(classes: IntArray, valid: BoolArray | None) -> _Points:
    """Rows, columns and classes of the boundary pixels."""
    rows, columns = np.nonzero(boundary_pixels(classes, valid))
    return rows, columns, classes[rows, columns].astype(np.intp)


def _share_met(
    points: _Points,
    others: _Points,
    group: npt.NDArray[np.intp],
    shape: tuple[int, ...],
    tolerance: int,
) -> tuple[Scores, npt.NDArray[np.intp]]:
    """Per class of `group`: the share of `points` near one of `others` (0 without any), and n."""
    dtype = _bits_type(len(group))
    bits = np.left_shift(np.ones(len(group), dtype), np.arange(len(group), dtype=dtype))
    grown = np.zeros(shape, dtype)
    rows, columns, index = _of_group(others, group)
    grown[rows, columns] = bits[index]
    grown = dilate_bits(grown, tolerance)
    rows, columns, index = _of_group(points, group)
    met = (grown[rows, columns] & bits[index]) != 0
    count = np.bincount(index, minlength=len(group))
    hits = np.bincount(index[met], minlength=len(group))
    share = np.divide(hits, count, out=np.zeros(len(group)), where=count > 0)
    return share, count


def _bits_type(count: int) -> npt.DTypeLike:
    if count <= 8:
        return np.uint8
    if count <= 16:
        return np.uint16
    return np.uint32 if count <= 32 else np.uint64


def _of_group(points: _Points, group: npt.NDArray[np.intp]) -> _Points:
    """The points whose class is in the sorted `group`, their class as its place in there."""
    rows, columns, classes = points
    place = np.searchsorted(group, classes)
    inside = place < len(group)
    inside[inside] = group[place[inside]] == classes[inside]
    return rows[inside], columns[inside], place[inside]


def dilate_bits(image: IntArray, radius: int) -> IntArray:
    """Each pixel becomes the OR of all pixels within `radius` (Euclidean), bit by bit.

    The disc is a stack of rows: rows of every half width come from one another by one step
    (two ORs), and each disc row is one of them moved up or down, so a disc of radius r costs
    about 6 r ORs of the image, not pi r**2.
    """
    height, width = image.shape
    half_width = [math.isqrt(radius * radius - dy * dy) for dy in range(radius + 1)]
    # Ascending half widths: dy descends from the radius.
    spread = image.copy()
    reached = 0
    grown = np.zeros_like(image)
    for dy in range(radius, -1, -1):
        while reached < half_width[dy]:
            reached += 1
            if reached < width:
                spread[:, reached:] |= image[:, :-reached]
                spread[:, :-reached] |= image[:, reached:]
        if dy == 0:
            grown |= spread
        elif dy < height:
            grown[dy:] |= spread[:-dy]
            grown[:-dy] |= spread[dy:]
    return grown
