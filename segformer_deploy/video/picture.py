"""From a decoded video frame, in whatever pixel format, to the BGR picture a viewer sees."""

from __future__ import annotations

import struct
from fractions import Fraction
from typing import Any, cast

import av
import cv2
import numpy as np

from segformer_deploy.video.frame import Picture, check_picture_size

_BT709, _UNSPECIFIED = 1, 2  # AVColorSpace (ITU-T H.273)
_LIMITED, _FULL = 1, 2  # AVColorRange
_HD_HEIGHT = 720
_WIDEST_PIXEL = Fraction(4)

# The display matrix [[a, b], [c, d]] maps stored (x, y) to shown (ax + cy, bx + dy), y down.
# Signs of (a, b, c, d) -> transpose first?, then OpenCV's flip code.
_TURNS: dict[tuple[int, int, int, int], tuple[bool, int | None]] = {
    (1, 0, 0, 1): (False, None),
    (-1, 0, 0, 1): (False, 1),
    (1, 0, 0, -1): (False, 0),
    (-1, 0, 0, -1): (False, -1),
    (0, 1, 1, 0): (True, None),
    (0, 1, -1, 0): (True, 1),
    (0, -1, 1, 0): (True, 0),
    (0, -1, -1, 0): (True, -1),
}


def picture_from_video_frame(frame: av.VideoFrame, pixel_shape: Fraction | None) -> Picture:
    """uint8 `[H, W, 3]` BGR: upright, square pixels, the colours that the file's tags mean.

    Colours follow the frame's matrix and range; where a YUV frame names no matrix, BT.709 is
    taken from 720 lines up and BT.601 below, as players do. More than 8 bits are rounded to
    8; HDR is not tone-mapped. Pixels that are not square are stretched in the direction that
    loses none.

    Args:
        frame: as decoded.
        pixel_shape: width of a pixel over its height; None where the file does not say.
    """
    width, height = _square_pixel_size(frame.width, frame.height, pixel_shape)
    check_picture_size("a frame of the video", height, width)
    picture = cast(
        Picture,
        frame.to_ndarray(format="bgr24", width=width, height=height, **_colours(frame)),
    )
    transpose, flip = turn_of(frame) or (False, None)
    if transpose:
        picture = cast(Picture, cv2.transpose(picture))
    if flip is not None:
        picture = cast(Picture, cv2.flip(picture, flip))
    # Frames that are cropped while decoding come out with gaps between their rows.
    return np.ascontiguousarray(picture)


def turn_of(frame: av.VideoFrame) -> tuple[bool, int | None] | None:
    """How to turn the picture for display: transpose first?, then OpenCV's flip code or None.

    None instead of a pair where the file asks for an angle that is no multiple of 90 degrees.
    """
    side_data: Any = frame.side_data
    matrix = side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, None
    a, b, _, c, d = struct.unpack("=9i", bytes(matrix))[:5]
    scale = max(abs(value) for value in (a, b, c, d)) or 1
    exact = [value / scale for value in (a, b, c, d)]
    turn = tuple(round(value) for value in exact)
    if any(abs(value - whole) > 0.01 for value, whole in zip(exact, turn, strict=True)):
        return None
    return _TURNS.get(cast("tuple[int, int, int, int]", turn))


def _square_pixel_size(width: int, height: int, shape: Fraction | None) -> tuple[int, int]:
    if not shape or shape == 1 or not 1 / _WIDEST_PIXEL <= shape <= _WIDEST_PIXEL:
        return width, height  # unknown, square, or so extreme that the tag must be wrong
    if shape > 1:
        return round(width * shape), height
    return width, round(height / shape)


def _colours(frame: av.VideoFrame) -> dict[str, Any]:
    """What PyAV's conversion must be told so that every release of it gives the same colours."""
    if frame.format.is_rgb:
        return {}
    name = frame.format.name
    full = (
        frame.color_range == _FULL
        or name.startswith("yuvj")
        or (name.startswith("gray") and frame.color_range != _LIMITED)
    )
    hd = frame.colorspace == _BT709 or (
        frame.colorspace == _UNSPECIFIED and frame.height >= _HD_HEIGHT
    )
    return {
        "src_colorspace": "ITU709" if hd else None,
        # The target is RGB, where this changes no pixel; but PyAV before 14 hands matrix and
        # range to the converter only where the two sides differ.
        "dst_colorspace": "ITU601" if hd else "ITU709",
        "src_color_range": "JPEG" if full else "MPEG",
        "dst_color_range": "JPEG",
    }
