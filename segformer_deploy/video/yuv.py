"""Pictures as an encoder wants them: brightness and colour apart, and of one size."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from segformer_deploy.spec import FrameSize
from segformer_deploy.video.frame import Picture

_KR, _KB = 0.2126, 0.0722  # ITU-R BT.709: the parts of red and blue in luma
_KG = 1 - _KR - _KB


def _bt709_matrix() -> npt.NDArray[np.float64]:
    """B, G, R of 0..255 -> Y', Cb, Cr in limited range (BT.709, items 3.3 to 3.5), 8 bits."""
    luma = np.array([_KB, _KG, _KR])
    blue = (np.array([1.0, 0.0, 0.0]) - luma) / (2 * (1 - _KB))
    red = (np.array([0.0, 0.0, 1.0]) - luma) / (2 * (1 - _KR))
    scale = np.array([219.0, 224.0, 224.0]) / 255
    rows = np.stack([luma, blue, red]) * scale[:, None]
    return np.hstack([rows, [[16.0], [128.0], [128.0]]])


_MATRIX = _bt709_matrix()


def yuv_from_bgr(picture: Picture) -> Picture:
    """yuv420p of a picture with even sides: uint8 `[H * 3/2, W]`, planes Y, U, V one by one.

    Twice as fast as FFmpeg's conversion, which also rounds down: half a level too dark.
    """
    height, width = picture.shape[:2]
    luma, *chroma = cv2.split(cv2.transform(picture, _MATRIX))
    packed = np.empty((height * 3 // 2, width), np.uint8)
    packed[:height] = luma
    halves = packed[height:].reshape(2, height // 2, width // 2)
    for half, plane in zip(halves, chroma, strict=True):
        cv2.resize(plane, (width // 2, height // 2), dst=half, interpolation=cv2.INTER_AREA)
    return packed


def fitted(picture: Picture, size: FrameSize) -> Picture:
    """The whole picture, enlarged or reduced to fit into `size`, on black where it leaves room."""
    height, width = picture.shape[:2]
    scale = min(size.height / height, size.width / width)
    new_height = max(1, min(size.height, round(height * scale)))
    new_width = max(1, min(size.width, round(width * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    canvas = np.zeros((size.height, size.width, 3), np.uint8)
    top, left = (size.height - new_height) // 2, (size.width - new_width) // 2
    canvas[top : top + new_height, left : left + new_width] = cv2.resize(
        picture, (new_width, new_height), interpolation=method
    )
    return canvas
