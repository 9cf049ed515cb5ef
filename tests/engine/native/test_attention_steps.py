"""The integer products of the attention kernel, against NumPy's integers."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segformer_deploy.engine.native.library import Grids
from segformer_deploy.engine.native.quantised import lanes_from_matrix
from tests.engine.native.compiled import VARIANTS, compiled, needs_compiler, pointer

Floats = npt.NDArray[np.float32]
Steps = npt.NDArray[np.int64]

pytestmark = needs_compiler


@pytest.fixture(scope="module", params=VARIANTS)
def kernel(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("attention")
    return compiled("attention_steps.c", request.param, folder)


@dataclass(frozen=True)
class Case:
    """Steps on the sides of both products, of all heads.

    Attributes:
        query: [rows, channels]; the others: [tokens, channels].
    """

    query: Steps
    key: Steps
    value: Steps
    heads: int
    grids: tuple[float, float, float, float]
    """Steps of query, key, softmax and value."""

    def mixed(self, kernel: ctypes.CDLL, head: int) -> tuple[Steps, Floats]:
        """The softmax's steps and the mixed values of `head`."""
        (rows, channels), tokens = self.query.shape, len(self.key)
        grids, room, panel = Grids(*self.grids), kernel.weights_room(tokens), kernel.panel()
        assert rows <= kernel.most_queries()
        # On the grid's lines, where rounding finds the steps again.
        sides = self.key * self.grids[1], self.value * self.grids[3]
        both = np.concatenate(sides, axis=1).astype(np.float32)
        keys = np.full(-(-tokens // panel) * panel * channels, 7, np.int16)
        values = np.full(self.heads * (panel + channels) * (tokens + 3), 7, np.int16)
        steps, scores = np.zeros(2 * channels, np.int16), np.zeros((rows, room), np.float32)
        kernel.packed(
            *(pointer(both), ctypes.byref(grids), tokens, channels, self.heads),
            pointer(steps, np.int16),
            *(pointer(keys, np.int16), pointer(values, np.int16)),
        )
        weights = np.zeros((rows, room), np.uint8 if kernel.bytes() else np.int16)
        found = np.zeros((rows, channels), np.float32)
        query = np.ascontiguousarray(self.query, np.int16)
        kernel.mixed(
            *(pointer(query, np.int16), pointer(keys, np.int16), pointer(values, np.int16)),
            *(ctypes.byref(grids), rows, tokens, channels, self.heads, head),
            *(pointer(scores), pointer(weights, weights.dtype), pointer(found)),
        )
        assert not weights[:, tokens:].any()
        return weights[:, :tokens].astype(np.int64), found

    def check(self, kernel: ctypes.CDLL) -> None:
        d = self.query.shape[1] // self.heads
        for head in range(self.heads):
            own = slice(head * d, head * d + d)
            weights, found = self.mixed(kernel, head)
            scores = self.query[:, own] @ self.key[:, own].T * (self.grids[0] * self.grids[1])
            powers = np.exp(scores - scores.max(axis=1, keepdims=True))
            steps = powers / powers.sum(axis=1, keepdims=True) / self.grids[2]
            assert np.abs(weights - np.minimum(steps, 127)).max() <= 0.501
            assert weights.min() >= 0
            scale = np.float32(self.grids[2]) * np.float32(self.grids[3])
            sums = weights @ self.value[:, own]
            np.testing.assert_array_equal(found[:, own], sums.astype(np.float32) * scale)
            others = np.delete(found, np.r_[own], axis=1)
            assert not others.any()


def case(rows: int, tokens: int, heads: int, d: int, seed: int, softmax: float = 0.003) -> Case:
    rng = np.random.default_rng(seed)
    sides = (rng.integers(-128, 128, (n, heads * d)) for n in (rows, tokens, tokens))
    return Case(*sides, heads, (0.01, 0.005, softmax, 0.25))


@given(
    st.integers(1, 20),
    st.integers(1, 300),
    st.integers(1, 3),
    st.integers(1, 20).map(lambda half: 2 * half),
    st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_products_are_exact(kernel, rows: int, tokens: int, heads: int, d: int, seed: int) -> None:
    case(rows, tokens, heads, d, seed).check(kernel)


@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 5, 64, 1023, 1025, 2050])
def test_any_number_of_keys(kernel, tokens: int) -> None:
    """More than one pass is deep, and such as fill no lane."""
    case(7, tokens, 2, 32, tokens).check(kernel)


@pytest.mark.parametrize("value", [-128, -127, 127])
@pytest.mark.parametrize("tokens", [31, 4096])
def test_the_largest_sums_are_exact(kernel, tokens: int, value: int) -> None:
    """All weights at the end of their grid: two of them times -128 stay within int16."""
    few = case(6, tokens, 1, 32, 0, softmax=0.5 / 127 / tokens)
    same = np.zeros_like(few.query)
    whole = Case(same, few.key, np.full_like(few.value, value), 1, few.grids)
    weights, _ = whole.mixed(kernel, 0)
    assert (weights == 127).all()
    whole.check(kernel)


@pytest.mark.parametrize("softmax", [2.0**-24, 1e-3, 0.008, 1.0, 65504.0])
def test_any_grid_of_the_softmax(kernel, softmax: float) -> None:
    case(9, 70, 2, 16, 4, softmax).check(kernel)


@pytest.mark.parametrize("a", [-128, 127])
@pytest.mark.parametrize("b", [-128, 127])
def test_the_largest_scores_are_exact(kernel, a: int, b: int) -> None:
    depth, columns, panel = 64, 2 * kernel.panel(), kernel.panel()
    left, right = np.full((11, depth), a, np.int16), np.full((depth, columns), b, np.int8)
    packed, found = lanes_from_matrix(right, panel, 2), np.zeros((11, columns), np.float32)
    kernel.scaled(
        *(pointer(left, np.int16), pointer(packed, np.int16)),
        *(ctypes.c_float(0.37), pointer(found), 11, depth, columns),
    )
    np.testing.assert_array_equal(found, np.float32(depth * a * b) * np.float32(0.37))
