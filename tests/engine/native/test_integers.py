"""Grids and integer products of the kernels, against NumPy's integers."""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segformer_deploy.engine.native.quantised import Steps, lanes_from_matrix
from tests.engine.native.compiled import VARIANTS, compiled, needs_compiler, pointer

Int64 = npt.NDArray[np.int64]

pytestmark = needs_compiler


@pytest.fixture(scope="module", params=VARIANTS)
def integers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    return compiled("integers.c", request.param, tmp_path_factory.mktemp("integers"))


def steps_of(integers: ctypes.CDLL, values: npt.ArrayLike, inverse: float) -> Int64:
    array = np.array(values, np.float32)
    found = np.zeros(array.size, np.int16)
    integers.grid_steps(
        pointer(array), array.size, ctypes.c_float(inverse), pointer(found, np.int16)
    )
    return found.astype(np.int64)


# Rounding to a grid ---------------------------------------------------------------------------


@given(st.integers(0, 999), st.integers(1, 70), st.sampled_from([0.01, 1.0, 37.0, 5000.0]))
@settings(max_examples=60, deadline=None)
def test_steps_are_numpys(integers, seed: int, count: int, inverse: float) -> None:
    values = np.random.default_rng(seed).normal(0, 40 / inverse, count).astype(np.float32)
    expected = np.clip(np.rint(values * np.float32(inverse)), -128, 127)
    np.testing.assert_array_equal(steps_of(integers, values, inverse), expected)


def test_halves_go_to_even(integers) -> None:
    halves = np.arange(-300, 301) / 2
    expected = np.clip(np.rint(halves), -128, 127)
    np.testing.assert_array_equal(steps_of(integers, halves, 1.0), expected)
    np.testing.assert_array_equal(steps_of(integers, halves / 4, 4.0), expected)


def test_beyond_the_grid_are_its_ends(integers) -> None:
    far = [127.4, 127.5, 1e9, 3e38, np.inf, -128.4, -128.6, -1e9, -3e38, -np.inf]
    assert steps_of(integers, far, 1.0).tolist() == [127] * 5 + [-128] * 5
    (no_number,) = steps_of(integers, [np.nan], 1.0)
    assert -128 <= no_number <= 127


def test_values_on_the_grid(integers) -> None:
    values = np.random.default_rng(0).normal(0, 3, 64).astype(np.float32)
    step = np.float32(np.float16(0.037))
    expected = np.clip(np.rint(values * (1 / step)), -128, 127).astype(np.float32) * step
    found = values.copy()
    integers.grid_values(pointer(found), found.size, ctypes.c_float(float(step)))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("rows", "width"), [(1, 8), (4, 32), (5, 40), (9, 23), (6, 160)])
def test_a_norm_to_steps_is_the_norm_and_then_the_grid(integers, rows: int, width: int) -> None:
    rng = np.random.default_rng(width)
    gamma, beta = rng.normal(size=(2, width)).astype(np.float32)
    values = rng.normal(2, 3, (rows, width)).astype(np.float32)
    found = np.zeros((rows, width), np.int16)
    norm = pointer(gamma), pointer(beta), ctypes.c_float(1e-5), width
    integers.normed_steps(
        *norm, pointer(values), rows, ctypes.c_float(50.0), pointer(found, np.int16)
    )
    integers.rows_norm(*norm, pointer(values), rows)
    np.testing.assert_array_equal(found.reshape(-1), steps_of(integers, values.ravel(), 50.0))


@pytest.mark.parametrize(("rows", "width"), [(1, 8), (4, 32), (5, 40), (9, 23), (6, 160)])
@pytest.mark.parametrize("offset", [128, 3])
def test_bytes_of_a_norm_are_its_steps_further_up(
    integers, rows: int, width: int, offset: int
) -> None:
    rng = np.random.default_rng(width)
    gamma, beta = rng.normal(size=(2, width)).astype(np.float32)
    norm = pointer(gamma), pointer(beta), ctypes.c_float(1e-5), width
    values = rng.normal(2, 3, (rows, width)).astype(np.float32)
    steps, found = np.zeros((rows, width), np.int16), np.zeros((rows, width), np.uint8)
    inverse = ctypes.c_float(50.0)
    integers.normed_steps(*norm, pointer(values), rows, inverse, pointer(steps, np.int16))
    integers.normed_bytes(*norm, pointer(values), rows, inverse, offset, pointer(found, np.uint8))
    reach = steps >= -offset
    assert (offset < 128) == (not reach.all())
    np.testing.assert_array_equal(found[reach], steps[reach] + offset)


@given(st.integers(0, 999), st.integers(1, 70))
@settings(max_examples=40, deadline=None)
def test_any_number_of_bytes(integers, seed: int, count: int) -> None:
    values = np.random.default_rng(seed).normal(0, 60, count).astype(np.float32)
    found = np.full(count + 1, 7, np.uint8)
    integers.every_byte(
        *(pointer(values), count, ctypes.c_float(1.0), 128, pointer(found, np.uint8))
    )
    np.testing.assert_array_equal(found[:-1], steps_of(integers, values, 1.0) + 128)
    assert found[-1] == 7


# Products -------------------------------------------------------------------------------------


def sums_of(integers: ctypes.CDLL, a: Int64, b: Int64) -> Int64:
    (rows, depth), columns = a.shape, b.shape[1]
    deeper = np.concatenate([b, np.ones((2, columns), np.int64)]).astype(np.int8)
    packed = lanes_from_matrix(deeper, integers.panel(), 2)
    found = np.full((rows, columns), 7, np.int32)
    left = np.ascontiguousarray(a, np.int16)
    integers.sums(
        pointer(left, np.int16),
        pointer(packed, np.int16),
        pointer(found, np.int32),
        *(rows, depth, columns),
    )
    return found.astype(np.int64)


@given(st.integers(1, 21), st.integers(1, 70), st.integers(1, 40), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_sums_are_exact(integers, rows: int, pairs: int, columns: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a = rng.integers(-128, 128, (rows, 2 * pairs))
    b = rng.integers(-128, 128, (2 * pairs, columns))
    np.testing.assert_array_equal(sums_of(integers, a, b), a @ b)


@pytest.mark.parametrize("a", [-128, 127, 0])
@pytest.mark.parametrize("b", [-128, -127, 127])
def test_sums_of_the_largest_are_exact(integers, a: int, b: int) -> None:
    """As deep as the widest network's reduction, and several passes of a product."""
    depth, columns = 64 * 64, integers.panel() + 3
    assert depth > 3 * integers.pass_depth()
    left, right = np.full((7, depth), a), np.full((depth, columns), b)
    np.testing.assert_array_equal(sums_of(integers, left, right), left @ right)


def test_deep_sums_are_exact(integers) -> None:
    rng = np.random.default_rng(3)
    left, right = rng.integers(-128, 128, (13, 2048)), rng.integers(-128, 128, (2048, 35))
    np.testing.assert_array_equal(sums_of(integers, left, right), left @ right)


def byte_sums_of(integers: ctypes.CDLL, a: Int64, b: Int64, start: Int64, right: bool) -> Int64:
    (rows, depth), columns, panel = a.shape, b.shape[1], integers.panel()
    deeper = np.concatenate([b, np.ones((4, columns), np.int64)]).astype(np.uint8).view(np.int8)
    packed = lanes_from_matrix(deeper, panel, 1)
    whole = np.zeros(-(-columns // panel) * panel, np.int32)
    whole[:columns] = start
    found = np.full((rows, columns), 7, np.int32)
    left = np.ascontiguousarray(a, np.uint8)
    integers.byte_sums(
        *(pointer(left, np.uint8), pointer(packed, np.int8), pointer(whole, np.int32)),
        *(pointer(found, np.int32), rows, depth, columns, right),
    )
    return found.astype(np.int64)


@given(st.integers(1, 21), st.integers(1, 70), st.integers(1, 40), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_sums_of_bytes_are_exact(integers, rows: int, quads: int, columns: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    positive = rng.integers(0, 130, (rows, 4 * quads))
    weights = rng.integers(-126, 127, (4 * quads, columns))
    start = rng.integers(-99999, 99999, columns)
    found = byte_sums_of(integers, positive, weights, start, right=False)
    np.testing.assert_array_equal(found, positive @ weights + start)
    found = byte_sums_of(integers, weights.T, positive.T, np.zeros(rows, np.int64), right=True)
    np.testing.assert_array_equal(found, weights.T @ positive.T)


@pytest.mark.parametrize(("positive", "weight"), [(127, 127), (127, -128), (129, 127), (129, -127)])
def test_sums_of_the_largest_bytes_are_exact(integers, positive: int, weight: int) -> None:
    left, right = np.full((7, 4096), positive), np.full((4096, 21), weight)
    start = np.arange(21) * 1000
    found = byte_sums_of(integers, left, right, start, right=False)
    np.testing.assert_array_equal(found, left @ right + start)


@pytest.mark.parametrize("weight", [127, -128])
def test_sums_of_any_bytes_are_exact_where_they_may_be_any(integers, weight: int) -> None:
    if not integers.any_bytes():
        pytest.skip("these kernels add two products in int16 first")
    left, right = np.full((25, 4096), 255), np.full((4096, 37), weight)
    start = np.arange(37) * 1000
    found = byte_sums_of(integers, left, right, start, right=False)
    np.testing.assert_array_equal(found, left @ right + start)
    rng = np.random.default_rng(5)
    left, right = rng.integers(0, 256, (13, 1028)), rng.integers(-128, 128, (1028, 37))
    found = byte_sums_of(integers, left, right, -128 * right.sum(axis=0), right=False)
    np.testing.assert_array_equal(found, (left - 128) @ right)


@pytest.mark.parametrize("offset", [0, 3, 128])
def test_bytes_are_the_steps_further_up(integers, offset: int) -> None:
    values = np.random.default_rng(1).normal(20, 60, 64).clip(-offset, None).astype(np.float32)
    found = np.zeros(64, np.uint8)
    integers.grid_bytes(
        *(pointer(values), 64, ctypes.c_float(1.0), offset, pointer(found, np.uint8))
    )
    np.testing.assert_array_equal(found, steps_of(integers, values, 1.0) + offset)


def test_no_gelu_is_below_its_bytes(integers) -> None:
    """The least GELU on grids of every fineness, one of them with its edge near it."""
    least = np.full(64, -0.16997121 * (1 + 3e-7), np.float32)
    for step in np.geomspace(0.0014, 0.7, 2001).astype(np.float16).astype(np.float32):
        offset = Steps(np.zeros((4, 1), np.int8), np.ones(1, np.float32), float(step), -0.17)
        inverse = float(np.float32(1) / step)
        assert steps_of(integers, least[:1], inverse)[0] + (offset.offset() or 0) >= 0


def test_bytes_are_chosen_where_no_pair_leaves_int16() -> None:
    def offset(weights: list[int], least: float, step: float = 1.0) -> int | None:
        matrix = np.array([weights], np.int8).T
        return Steps(matrix, np.ones(1, np.float32), step, least).offset()

    assert offset([127, 127, 5, 5], 0.0) == 0
    assert offset([-128, -128, 5, 5], 0.0) == 0
    assert offset([127, 127, 0, 0], -0.17, 0.1) == 2
    assert offset([127, 127, 0, 0], -0.17, 0.05) is None
    assert offset([126, 126, 0, 0], -0.17, 0.06) == 3
    assert offset([127, -127, 5, 5], -np.inf) == 128
    assert offset([127, 3, 5, 5], -np.inf) is None
    assert offset([1, 1], 0.0) is None


def test_any_weights_may_be_bytes_where_no_pair_is_added_first() -> None:
    def offset(weights: list[int], least: float) -> int | None:
        matrix = np.array([weights], np.int8).T
        return Steps(matrix, np.ones(1, np.float32), 1.0, least).offset(any_pair=True)

    assert offset([127, 127, -128, -128], -np.inf) == 128
    assert offset([127, 127, 5, 5], -3.0) == 3
    assert offset([127, 127, 5, 5], 0.0) == 0
    assert offset([1, 1], 0.0) is None


@pytest.mark.parametrize("step", [0.0, 0.25])
@pytest.mark.parametrize("depth", [16, 1100])
def test_a_product_scales_adds_its_bias_rounds_and_adds_the_residual(
    integers, depth: int, step: float
) -> None:
    rng = np.random.default_rng(depth)
    rows, columns, panel = 11, 37, integers.panel()
    a = rng.integers(-128, 128, (rows, depth)).astype(np.int16)
    b = rng.integers(-127, 128, (depth, columns)).astype(np.int8)
    room = -(-columns // panel) * panel
    # Powers of two and small integers: the expected values are exact in float32.
    scale = np.ldexp(np.float32(1), rng.integers(-14, -8, room)).astype(np.float32)
    bias, residual = (
        rng.integers(-9, 9, shape).astype(np.float32) for shape in (room, (rows, columns))
    )
    expected = (a.astype(np.int64) @ b) * scale[:columns].astype(np.float64) + bias[:columns]
    if step:
        expected = np.clip(np.rint(expected / step), -128, 127) * step
    found = np.zeros((rows, columns), np.float32)
    packed = lanes_from_matrix(b, panel, 2)
    integers.whole_product(
        *(pointer(a, np.int16), pointer(packed, np.int16)),
        *(pointer(scale), pointer(bias), pointer(residual)),
        *(ctypes.c_float(step), pointer(found), rows, depth, columns),
    )
    np.testing.assert_array_equal(found, (expected + residual).astype(np.float32))
