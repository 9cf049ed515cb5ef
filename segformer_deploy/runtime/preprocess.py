"""Frame -> the network's input, with the resize the model was trained with.

The ModelSpec names the resize. Pillow's filters are computed by our own kernel, bit for bit;
``opencv-bilinear`` (mmsegmentation) by OpenCV itself. Normalisation happens in the graph.
"""

from __future__ import annotations

from typing import Literal, cast, get_args

import numpy as np
import numpy.typing as npt

from segformer_deploy.errors import FrameError
from segformer_deploy.runtime.resample import Filter, resize
from segformer_deploy.spec import FrameSize, ResizeRule

Frame = npt.NDArray[np.uint8]
PixelFormat = Literal["bgr", "rgb"]

SMALLEST_FRAME_SIDE = 32


def prepare(
    frame: Frame,
    rule: ResizeRule,
    *,
    pixel_format: PixelFormat = "bgr",
    out: Frame | None = None,
    threads: int | None = None,
) -> Frame:
    """Resize a frame by `rule` and give it in RGB.

    Args:
        frame: uint8 `[H, W, 3]`, at least 32x32; a view need not be contiguous.
        rule: of the ModelSpec.
        pixel_format: channel order of the frame.
        out: where to put the result, uint8 `[h, w, 3]`, C-contiguous, not the frame itself.
        threads: the most to use; None takes the cores of this process.

    Returns:
        uint8 `[h, w, 3]` RGB, h x w being ``rule.network_size(frame)``: `out`, or a new array.

    Raises:
        FrameError: where the frame is not such an array, is too small, or `out` does not fit.
    """
    if pixel_format not in get_args(PixelFormat):
        raise FrameError(f"pixel format {pixel_format!r}", "'bgr' or 'rgb'")
    source = np.ascontiguousarray(_checked(frame))
    size = rule.network_size(FrameSize(*source.shape[:2]))
    if out is None:
        out = np.empty((size.height, size.width, 3), np.uint8)
    else:
        _check_out(out, source, size)
    swap = pixel_format == "bgr"
    library, _, name = rule.filter.partition("-")
    if library == "opencv" and source.shape[:2] != out.shape[:2]:
        import cv2  # here: other rules need none of its 15 MB

        cv2.resize(source, (size.width, size.height), out, interpolation=cv2.INTER_LINEAR)
        if swap:
            cv2.cvtColor(out, cv2.COLOR_BGR2RGB, dst=out)
        return out
    return resize(
        *(source, size.height, size.width, cast(Filter, name)),
        swap=swap,
        out=out,
        threads=threads,
    )


def _checked(frame: Frame) -> Frame:
    expected = "a NumPy array, uint8 [height, width, 3]"
    if not isinstance(frame, np.ndarray):
        raise FrameError(f"a frame of type {type(frame).__name__}", expected)
    if frame.dtype != np.uint8:
        raise FrameError(
            f"a frame of dtype {frame.dtype}",
            expected,
            "give pixel values of 0 to 255, not normalised: the graph normalises",
        )
    if frame.ndim != 3 or frame.shape[2] != 3:
        hint = "cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR)" if frame.ndim == 2 else ""
        raise FrameError(f"a frame of shape {list(frame.shape)}", expected, hint)
    _check_sides(frame.shape[0], frame.shape[1])
    return frame


def checked_size(size: FrameSize) -> FrameSize:
    """`size`, where a frame may have it; FrameError where it is too small."""
    _check_sides(size.height, size.width)
    return size


def _check_sides(height: int, width: int) -> None:
    # Numbers, for a frame may have none of a side, which a FrameSize may not.
    if min(height, width) < SMALLEST_FRAME_SIDE:
        least = f"{SMALLEST_FRAME_SIDE}x{SMALLEST_FRAME_SIDE}"
        raise FrameError(f"a frame of {height}x{width}", f"at least {least}")


def _check_out(out: Frame, source: Frame, size: FrameSize) -> None:
    if (
        not isinstance(out, np.ndarray)
        or out.dtype != np.uint8
        or out.shape != (size.height, size.width, 3)
        or not (out.flags.c_contiguous and out.flags.writeable)
        or np.may_share_memory(out, source)
    ):
        raise FrameError(
            f"an out of {getattr(out, 'dtype', type(out).__name__)} "
            f"{list(getattr(out, 'shape', []))} for a frame of {source.shape[0]}x{source.shape[1]}",
            f"writable, C-contiguous uint8 [{size.height}, {size.width}, 3] of its own memory",
        )
