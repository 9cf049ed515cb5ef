"""The boundary F-score against one that measures every distance."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from segformer_deploy.bench.boundary import (
    boundary_f,
    boundary_pixels,
    dilate_bits,
    tolerance_px,
)

Map = npt.NDArray[np.uint8]


def edge_points(classes: Map, valid: npt.NDArray[np.bool_], index: int) -> list[tuple[int, int]]:
    """Pixel by pixel: class `index`, valid, with a valid 4-neighbour of another class."""
    height, width = classes.shape
    points = []
    for y in range(height):
        for x in range(width):
            if classes[y, x] != index or not valid[y, x]:
                continue
            around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            inside = [(v, u) for v, u in around if 0 <= v < height and 0 <= u < width]
            if any(valid[v, u] and classes[v, u] != index for v, u in inside):
                points.append((y, x))
    return points


def slow_f(a: Map, b: Map, valid: npt.NDArray[np.bool_], index: int, tolerance: float) -> float:
    """F-score of one class with all pairwise distances; NaN without a boundary on either side."""
    of_a, of_b = edge_points(a, valid, index), edge_points(b, valid, index)
    if not of_a and not of_b:
        return math.nan

    def met(points: list[tuple[int, int]], others: list[tuple[int, int]]) -> float:
        if not points or not others:
            return 0.0
        distances = np.linalg.norm(
            np.array(points, float)[:, None] - np.array(others, float)[None], axis=2
        )
        return float((distances.min(1) <= tolerance).mean())

    precision, recall = met(of_a, of_b), met(of_b, of_a)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@st.composite
def cases(draw: st.DrawFn) -> tuple[Map, Map, npt.NDArray[np.bool_], int]:
    shape = draw(st.tuples(st.integers(1, 14), st.integers(1, 14)))
    maps = hnp.arrays(np.uint8, shape, elements=st.integers(0, 3))
    valid = draw(st.one_of(st.just(np.ones(shape, bool)), hnp.arrays(np.bool_, shape)))
    return draw(maps), draw(maps), valid, draw(st.integers(1, 6))


@given(cases())
def test_same_as_all_pairwise_distances(
    case: tuple[Map, Map, npt.NDArray[np.bool_], int],
) -> None:
    prediction, label, valid, tolerance = case
    got = boundary_f(prediction, label, 5, valid=valid, tolerance=tolerance)
    expected = [slow_f(prediction, label, valid, index, tolerance) for index in range(5)]
    np.testing.assert_allclose(got, expected, rtol=1e-12)


@given(cases())
def test_symmetric_and_one_for_itself(case: tuple[Map, Map, npt.NDArray[np.bool_], int]) -> None:
    prediction, label, valid, tolerance = case
    there = boundary_f(prediction, label, 4, valid=valid, tolerance=tolerance)
    back = boundary_f(label, prediction, 4, valid=valid, tolerance=tolerance)
    np.testing.assert_allclose(there, back, rtol=1e-12)
    itself = boundary_f(label, label, 4, valid=valid, tolerance=tolerance)
    assert np.all(np.isnan(itself) | (itself == 1.0))


@given(
    hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=20)),
    st.integers(0, 25),
)
def test_dilation_is_a_disc(image: Map, radius: int) -> None:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disc = (y * y + x * x <= radius * radius).astype(np.uint8)
    expected = np.zeros_like(image)
    for bit in range(8):
        plane = (image >> bit) & 1
        border = {"borderType": cv2.BORDER_CONSTANT, "borderValue": 0}
        expected |= cv2.dilate(plane, disc, **border) << bit
    np.testing.assert_array_equal(dilate_bits(image, radius), expected)


def test_more_classes_than_a_machine_word_has_bits() -> None:
    rng = np.random.default_rng(3)
    label = cv2.resize(
        rng.permutation(200).reshape(10, 20).astype(np.uint8),
        (60, 40),
        interpolation=cv2.INTER_NEAREST,
    )
    prediction = np.roll(label, 1, axis=1)
    valid = rng.random(label.shape) > 0.1
    got = boundary_f(prediction, label, 201, valid=valid, tolerance=1)
    assert np.count_nonzero(~np.isnan(got)) == 200
    for index in (0, 63, 64, 127, 128, 199, 200):
        expected = slow_f(prediction, label, valid, index, 1)
        np.testing.assert_allclose(got[index], expected, rtol=1e-12)


def test_a_shift_within_the_tolerance_is_forgiven_and_beyond_it_is_not() -> None:
    label = np.zeros((40, 60), np.uint8)
    label[:, 30:] = 1
    for shift, expected in ((3, 1.0), (4, 0.0)):
        score = boundary_f(np.roll(label, shift, 1)[:, 8:-8], label[:, 8:-8], 2, tolerance=3)
        np.testing.assert_array_equal(score, [expected, expected])


def test_neither_the_border_of_the_picture_nor_of_void_is_a_boundary() -> None:
    label = np.zeros((20, 20), np.uint8)
    valid = np.ones((20, 20), bool)
    valid[5:9] = False
    label[5:9] = 1  # what stands in void does not matter
    assert not boundary_pixels(label, valid).any()
    assert np.isnan(boundary_f(label, label, 2, valid=valid)).all()
    assert boundary_pixels(label).sum() == 4 * 20


def test_missing_and_invented_classes_score_zero() -> None:
    label = np.zeros((30, 30), np.uint8)
    label[10:20, 10:20] = 1
    score = boundary_f(np.zeros_like(label), label, 3)
    assert list(score[:2]) == [0.0, 0.0]
    assert np.isnan(score[2])
    assert list(boundary_f(label, np.zeros_like(label), 3)[:2]) == [0.0, 0.0]


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    # diagonals 600, 2290, 80, 5, 200 (0.75 % of it is 1.5, rounded up)
    [(360, 480, 5), (1024, 2048, 17), (48, 64, 1), (3, 4, 1), (120, 160, 2)],
)
def test_tolerance(height: int, width: int, expected: int) -> None:
    # 360x480: 4.5 rounds up.
    assert tolerance_px(height, width) == expected
