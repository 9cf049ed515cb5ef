"""INT8 products: integers and steps as the file has them, checked and packed for the kernels.

A grid is the multiples of a step, -128 to 127 of them, in either spelling: int8 with zero-point
0, or uint8 with zero-point 128. A product's sums are those of integers, so they are exact in
int32; times both steps they are the values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int8]

DEEPEST = (1 << 31) // (128 * 128) - 1
"""Products of two integers that int32 can sum, whatever they are."""
SMALLEST_STEP, LARGEST_STEP = 2.0**-24, 65504.0
"""FP16's, so that neither a step's inverse nor the product of two steps leaves float32."""
_ZERO_POINTS = {np.dtype(np.int8): 0, np.dtype(np.uint8): 128}


@dataclass(frozen=True)
class Steps:
    """An INT8 weight.

    Attributes:
        matrix: [inputs, outputs].
        scale: [outputs]: the step of each output's weights times that of the inputs.
        input_step: of the grid that the inputs are rounded to.
        least: all inputs are above, 0 itself apart, by more than float32 rounds; -infinity where
            nothing is known.
    """

    matrix: Integers
    scale: Floats
    input_step: float
    least: float = -np.inf

    def offset(self, any_pair: bool = False) -> int | None:
        """What makes unsigned bytes of the inputs; None where nothing does.

        Kernels that add two neighbours' products in int16 first need such as fit into it; others
        take `any_pair`.
        """
        offset = int(min(np.rint(-self.least / self.input_step), 128))
        if any_pair:
            return offset if self.matrix.shape[0] % 4 == 0 else None
        pairs = self.matrix.astype(np.int32).reshape(-1, 2, self.matrix.shape[1])
        above = np.maximum(pairs, 0).sum(axis=1).max()
        below = np.minimum(pairs, 0).sum(axis=1).min()
        fits = max(above, -below) * (127 + offset) <= 32767
        return offset if fits and self.matrix.shape[0] % 4 == 0 else None


def step_from_grid(name: str, scale: npt.NDArray[Any], zero_point: npt.NDArray[Any]) -> float:
    """The step of the value `name`'s grid; ValueError where it is no grid of ours."""
    if scale.shape != () or scale.dtype != np.float32:
        raise ValueError(f"{name}.scale of type {scale.dtype} and shape {scale.shape}")
    _check_steps(f"{name}.scale", scale)
    expected = _ZERO_POINTS.get(zero_point.dtype)
    if zero_point.shape != () or expected is None or int(zero_point) != expected:
        raise ValueError(f"{name}.zero_point of type {zero_point.dtype}, {zero_point.tolist()},")
    return float(scale)


def steps_from_weight(
    name: str,
    matrix: npt.NDArray[Any],
    scale: npt.NDArray[Any],
    zero_point: npt.NDArray[Any],
    input_step: float,
    least: float,
) -> Steps:
    """The weight `name`, [inputs, outputs]; ValueError where it is not int8, symmetric, with one
    scale per output."""
    depth, outputs = matrix.shape
    if matrix.dtype != np.int8:
        raise ValueError(f"{name}.quantized of type {matrix.dtype}")
    if depth % 2 or depth > DEEPEST:
        raise ValueError(f"{name} with {depth} inputs, not even or too many for integers,")
    if scale.dtype != np.float32 or scale.shape != (outputs,):
        raise ValueError(f"{name}.scale of type {scale.dtype} and shape {scale.shape}")
    _check_steps(f"{name}.scale", scale)
    if zero_point.dtype != np.int8 or zero_point.shape != (outputs,) or zero_point.any():
        raise ValueError(f"{name}.zero_point, all int8 zeros elsewhere,")
    # Both are FP16 numbers where segdeploy wrote them: their product is exact.
    return Steps(matrix, np.float32(input_step) * scale, input_step, least)


def _check_steps(name: str, steps: npt.NDArray[Any]) -> None:
    # Written so that what is not a number is refused as well.
    if not np.all((steps >= SMALLEST_STEP) & (steps <= LARGEST_STEP)):
        raise ValueError(f"{name}, not between {SMALLEST_STEP} and {LARGEST_STEP},")


def lanes_from_matrix(matrix: Integers, panel: int, size: int) -> npt.NDArray[Any]:
    """[k, n] -> [ceil(n/panel), k/m, panel, m], padded with zeros: m = 4 / size integers of `size`
    bytes each; k is a multiple of m."""
    depth, columns = matrix.shape
    count, together = -(-columns // panel), 4 // size
    padded = np.zeros((depth, count * panel), np.dtype(f"i{size}"))
    padded[:, :columns] = matrix
    split = padded.reshape(depth // together, together, count, panel)
    return np.ascontiguousarray(split.transpose(2, 0, 3, 1))
