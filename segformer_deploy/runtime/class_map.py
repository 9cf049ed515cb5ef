"""Logits at a quarter of the resolution -> class map at the frame's: exact, and quick.

The answer is that of bilinear upsampling (`interpolation`) followed by argmax, first index
wins ties, without the upsampled logits: see kernels/class_map.c for why most cells of the
logit grid have one candidate, and for the bound on rounding.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from segformer_deploy.runtime import class_map_numpy, native
from segformer_deploy.runtime.interpolation import Axis, axis, band
from segformer_deploy.runtime.strips import run_in_strips
from segformer_deploy.spec import FrameSize

_WORK_WORTH_A_THREAD = 500_000
"""Logits, and pixels at four each: about 0.3 ms, above what handing over a strip costs."""
_PIXELS_PER_CELL_TO_PRUNE = 2
"""With fewer pixels than this per logit, looking for candidates costs more than it saves."""


def class_map_from_logits(
    logits: npt.NDArray[Any], size: FrameSize, *, threads: int | None = None
) -> npt.NDArray[Any]:
    """The winning class of every pixel after exact bilinear upsampling.

    Args:
        logits: float32 or float16 `[C, h, w]`, one frame's.
        size: of the class map, any.
        threads: the most to use; None takes the cores of this process.

    Returns:
        `[H, W]`, uint8 up to 256 classes, int32 above. Ties go to the first class; NaN counts
        as the greatest value (and 0 x infinity is NaN), as in NumPy and PyTorch.

    Raises:
        ValueError: where the logits are not such an array.
    """
    values = _checked(logits)
    classes, height, width = values.shape
    out = np.empty((size.height, size.width), np.uint8 if classes <= 256 else np.int32)
    _fill(values, axis(height, size.height), axis(width, size.width), out, threads)
    return out


def class_map_from_strips(
    strips: Iterable[tuple[int, npt.NDArray[Any]]],
    height: int,
    size: FrameSize,
    *,
    threads: int | None = None,
) -> npt.NDArray[Any]:
    """The same from logits that come strip by strip and are never held as a whole: same bits.

    Args:
        strips: (first row, `[C, rows, w]`) from the top; the last row of one is the first of
            the next. Each is read before the next is asked for.
        height: rows of all logits.
    """
    out = None
    done = 0
    for first, logits in strips:
        values = _checked(logits)
        if out is None:
            out = np.empty((size.height, size.width), np.uint8 if len(values) <= 256 else np.int32)
        begin, rows = band(height, size.height, first, first + values.shape[1])
        if begin != done:
            raise ValueError(f"a strip from row {first}: one that begins where the last ended")
        done = begin + rows.outputs
        columns = axis(values.shape[2], size.width)
        if rows.outputs:
            _fill(values, rows, columns, out[begin:done], threads)
        del logits, values  # or they would lie beside the next strip
    if out is None or done != size.height:
        raise ValueError(f"strips of {done} of {size.height} rows")
    return out


def _fill(
    values: npt.NDArray[np.float32],
    rows: Axis,
    columns: Axis,
    out: npt.NDArray[Any],
    threads: int | None,
) -> None:
    """Write the class map of `values` into `out`, `[rows.outputs, columns.outputs]`."""
    classes, height, width = values.shape
    kernels = native.kernels()
    if kernels is None:
        class_map_numpy.class_map_rows(values, rows, columns, out)
        return
    prune = out.size >= _PIXELS_PER_CELL_TO_PRUNE * height * width
    target = native.address(out)
    targets = (target, None) if out.dtype == np.uint8 else (None, target)

    def work(begin: int, end: int) -> None:
        native.check(
            kernels.class_map(
                *(native.address(values), classes, rows.table, columns.table),
                *(prune, begin, end, *targets),
            )
        )

    per_row = (values.size if prune else classes * out.size) / len(out) + 4 * out.shape[1]
    run_in_strips(work, len(out), threads, _fewest_rows(per_row))


def confidence_from_logits(
    logits: npt.NDArray[Any], class_map: npt.NDArray[Any], *, threads: int | None = None
) -> npt.NDArray[np.float32]:
    """The softmax probability of the class that `class_map` holds, at each pixel.

    Args:
        logits: float32 or float16 `[C, h, w]`.
        class_map: integers `[H, W]`, as `class_map_from_logits` gives them.
        threads: the most to use; None takes the cores of this process.

    Returns:
        float32 `[H, W]`, from the same interpolated logits the class map is decided on; NaN
        where the class's logit is not finite.

    Raises:
        ValueError: where the arrays are not such, or a class is not among the logits.
    """
    values = _checked(logits)
    if class_map.ndim != 2 or class_map.dtype.kind not in "iu" or class_map.size == 0:
        raise ValueError(f"a class map of {class_map.dtype} {class_map.shape}: integers [H, W]")
    if class_map.min() < 0 or class_map.max() >= len(values):
        raise ValueError(f"a class map with classes beyond the logits' {len(values)}")
    chosen = np.ascontiguousarray(class_map, np.uint8 if len(values) <= 256 else np.int32)
    rows = axis(values.shape[1], chosen.shape[0])
    columns = axis(values.shape[2], chosen.shape[1])
    out = np.empty(chosen.shape, np.float32)
    kernels = native.kernels()
    if kernels is None:
        class_map_numpy.confidence_rows(values, rows, columns, chosen, out)
        return out
    source = native.address(chosen)
    sources = (source, None) if chosen.dtype == np.uint8 else (None, source)

    def work(begin: int, end: int) -> None:
        native.check(
            kernels.confidence(
                *(native.address(values), len(values), rows.table, columns.table),
                *(*sources, begin, end, native.address(out)),
            )
        )

    run_in_strips(work, chosen.shape[0], threads, _fewest_rows(len(values) * chosen.shape[1]))
    return out


def _checked(logits: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    if logits.ndim != 3 or logits.size == 0 or logits.dtype not in (np.float32, np.float16):
        raise ValueError(
            f"logits of {logits.dtype} {list(logits.shape)}: float32 or float16 [classes, h, w]"
        )
    return np.ascontiguousarray(logits, np.float32)


def _fewest_rows(work_per_row: float) -> int:
    return max(1, round(_WORK_WORTH_A_THREAD / work_per_row))
