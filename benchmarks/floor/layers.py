"""Kernels on a chunk of tokens. Each writes into arrays it is given and allocates none of size.

Chunks hold 4-byte numbers: integers of 8-bit grids and their exact sums, or reals on the way
through LayerNorm, softmax and GELU. None of them depends on how tokens were cut into chunks: sums
are exact, and what is not (LayerNorm's) runs over one token's channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from floor.prepare import Linear, ReadyNorm

Floats = npt.NDArray[np.float32]
Stored = npt.NDArray[Any]
_ERF = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)
_ERF_P = 0.3275911
"""Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: |error| <= 1.5e-7."""


def chunks(count: int, step: int) -> Iterator[tuple[int, int]]:
    for begin in range(0, count, step):
        yield begin, min(begin + step, count)


def scale_and_shift(values: Floats, factor: Floats, term: Floats) -> None:
    """values * factor + term, in place; [T, C] by [C]."""
    np.multiply(values, factor, out=values)
    np.add(values, term, out=values)


def product(values: Floats, linear: Linear, out: Floats) -> None:
    """out = values @ weight in the unit of the output's grid, not yet rounded."""
    np.matmul(values, linear.weight, out=out)
    scale_and_shift(out, linear.factor, linear.term)


def layer_norm(state: Floats, work: Floats, stat: Floats, norm: ReadyNorm) -> None:
    """`work` = LayerNorm of `state` [T, C], which holds stored or real numbers and is used up.

    stat: [T, 1].
    """
    width = state.shape[1]
    scale_and_shift(state, norm.scale, norm.offset)
    np.add.reduce(state, axis=1, keepdims=True, out=stat)
    np.divide(stat, np.float32(width), out=stat)
    np.subtract(state, stat, out=state)
    np.multiply(state, state, out=work)
    np.add.reduce(work, axis=1, keepdims=True, out=stat)
    np.divide(stat, np.float32(width), out=stat)
    np.add(stat, np.float32(norm.eps), out=stat)
    np.sqrt(stat, out=stat)
    np.divide(state, stat, out=work)
    scale_and_shift(work, norm.gain, norm.bias)


def softmax(scores: Floats, factor: np.float32, stat: Floats, sums: Floats, whole: bool) -> None:
    """scores [T, N'] -> exp(factor * (score - the row's largest)), in place; `sums` [T, 1].

    Not divided by its sum yet: the largest weight of a row is always 1, so that 8 bits (0 to
    255, where `whole`) serve rows of any length, and the division comes after the values.
    """
    np.maximum.reduce(scores, axis=1, keepdims=True, out=stat)
    np.subtract(scores, stat, out=scores)
    np.multiply(scores, factor, out=scores)
    np.exp(scores, out=scores)
    if whole:
        np.multiply(scores, np.float32(255), out=scores)
        np.rint(scores, out=scores)
    np.add.reduce(scores, axis=1, keepdims=True, out=sums)


def gelu(x: Floats, one: Floats, two: Floats, three: Floats) -> None:
    """Exact (erf) GELU in place: max(x, 0) - |x| erfc(|x| / sqrt(2)) / 2; three work arrays."""
    np.abs(x, out=one)
    np.multiply(one, np.float32(0.5**0.5), out=two)
    np.multiply(two, np.float32(_ERF_P), out=three)
    np.add(three, np.float32(1), out=three)
    np.divide(np.float32(1), three, out=three)
    np.multiply(two, two, out=two)
    np.negative(two, out=two)
    np.exp(two, out=two)
    np.multiply(one, two, out=one)  # |x| exp(-x^2 / 2)
    np.multiply(three, np.float32(_ERF[0]), out=two)
    for coefficient in _ERF[1:]:
        np.add(two, np.float32(coefficient), out=two)
        np.multiply(two, three, out=two)
    np.multiply(one, two, out=one)
    np.multiply(one, np.float32(0.5), out=one)
    np.maximum(x, np.float32(0), out=x)
    np.subtract(x, one, out=x)


def depthwise(tile: Stored, weight: Floats, out: Floats, work: Floats) -> None:
    """out [n, G] = the 3x3 depthwise sums over `tile` [3, n + 2, G]; weight [3, 3, G]."""
    count = out.shape[0]
    out.fill(0)
    for row in range(3):
        for column in range(3):
            np.copyto(work, tile[row, column : column + count])
            np.multiply(work, weight[row, column], out=work)
            np.add(out, work, out=out)


def store(values: Floats, row: Stored) -> None:
    """Settled numbers into their 8-bit (or float) place."""
    np.copyto(row, values, casting="unsafe")
