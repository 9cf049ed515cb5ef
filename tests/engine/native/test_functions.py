"""exp, GELU, softmax, LayerNorm and transposition of the kernels, against float64."""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.engine.native.compiled import compiled, needs_compiler, pointer

EPS = float(np.finfo(np.float32).eps)

pytestmark = needs_compiler


@pytest.fixture(scope="module", params=["baseline", "avx2", "avx512"])
def functions(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    return compiled("functions.c", request.param, tmp_path_factory.mktemp("functions"))


def applied(function, values) -> npt.NDArray[np.float32]:
    array = np.zeros(-(-len(values) // 64) * 64, np.float32)
    array[: len(values)] = values
    function(pointer(array), len(array))
    return array[: len(values)]


def test_exp(functions) -> None:
    x = np.concatenate([-np.geomspace(1e-9, 59.9, 200_001), [0.0]]).astype(np.float32)
    found, exact = applied(functions.each_exp, x), np.exp(x.astype(np.float64))
    error = np.abs(found - exact) / exact
    assert (error <= 2 * EPS * (1 + np.abs(x))).all()
    assert np.abs(found - exact).max() <= 2 * EPS


def test_exp_far_below_and_without_a_number(functions) -> None:
    far, infinite, nan = applied(functions.each_exp, [-1e30, -np.inf, np.nan])
    assert 0 <= far < 1e-26
    assert 0 <= infinite < 1e-26
    assert np.isnan(nan)


def test_gelu(functions) -> None:
    x = np.linspace(-12, 12, 400_001).astype(np.float32)
    exact = torch.nn.functional.gelu(torch.from_numpy(x).double()).numpy()
    found = applied(functions.each_gelu, x)
    assert (np.abs(found - exact) <= 3 * EPS * np.abs(x)).all()


def test_gelu_of_the_largest_and_of_no_number(functions) -> None:
    found = applied(functions.each_gelu, [np.inf, 3e38, np.nan, 0.0])
    far, *_ = applied(functions.each_gelu, [-1e9, -1e30])
    assert far == 0
    np.testing.assert_allclose(found, [np.inf, 3e38, np.nan, 0.0], rtol=2 * EPS, atol=0)


@given(
    rows=st.integers(1, 11),
    count=st.integers(1, 90),
    seed=st.integers(0, 99),
    scale=st.sampled_from([0.1, 5.0, 300.0]),
)
@settings(max_examples=60, deadline=None)
def test_softmax(functions, rows: int, count: int, seed: int, scale: float) -> None:
    scores = np.random.default_rng(seed).normal(0, scale, (rows, count)).astype(np.float32)
    room = functions.softmax_room(count)
    found = np.full((rows, room), 7e8, np.float32)  # what lies behind the end must not matter
    found[:, :count] = scores
    inverse = np.empty(rows, np.float32)
    functions.rows_softmax(pointer(found), rows, count, pointer(inverse))
    exact = torch.softmax(torch.from_numpy(scores).double(), 1).numpy()
    # The error of one exp, and that of the sum of all.
    assert np.abs(found[:, :count] * inverse[:, None] - exact).max() <= 4 * EPS


def test_softmax_of_no_number_is_none(functions) -> None:
    found = np.zeros((3, functions.softmax_room(40)), np.float32)
    found[1, 7] = np.nan
    inverse = np.empty(3, np.float32)
    functions.rows_softmax(pointer(found), 3, 40, pointer(inverse))
    assert np.isnan(inverse[1])
    np.testing.assert_allclose(inverse[[0, 2]], 1 / 40, rtol=2 * EPS)


@given(
    arrays(np.float32, (9, 24), elements=st.floats(-1000, 1000, width=32)),
    st.integers(1, 9),
    st.integers(1, 24),
)
@settings(max_examples=60, deadline=None)
def test_layer_norm(functions, rows, count: int, width: int) -> None:
    rng = np.random.default_rng(width)
    gamma, beta = rng.normal(size=(2, width)).astype(np.float32)
    rows = np.ascontiguousarray(rows[:count, :width])
    eps = np.float32(1e-3)
    double = torch.from_numpy(rows).double()
    exact = torch.nn.functional.layer_norm(
        double,
        (width,),
        torch.from_numpy(gamma).double(),
        torch.from_numpy(beta).double(),
        float(eps),
    ).numpy()
    # Rounding of the mean is relative to the values; the norm divides it by their deviation.
    deviation = np.sqrt(rows.astype(np.float64).var(1) + float(eps))
    largest = np.abs(rows).max(1).astype(np.float64)
    limit = 8 * EPS * (largest / deviation + np.sqrt(width) + 1)
    found = rows.copy()
    functions.rows_norm(
        pointer(gamma), pointer(beta), ctypes.c_float(eps), width, pointer(found), count
    )
    assert (np.abs(found - exact) <= limit[:, None] * (np.abs(gamma) + np.abs(beta))).all()


def test_transposition(functions) -> None:
    lanes = functions.lanes()
    block = np.arange(lanes * lanes, dtype=np.float32).reshape(lanes, lanes)
    found = block.copy()
    functions.block_transpose(pointer(found))
    np.testing.assert_array_equal(found, block.T)
