"""Frames as files, where the way to the server is narrow."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from segformer_deploy.errors import FrameError, InputError

Encoding = Literal["raw", "png", "jpeg"]

LOSSY: tuple[Encoding, ...] = ("jpeg",)
"""The server sees other pixels than the camera gave."""


def check_encoding(encoding: str, quality: int) -> None:
    """InputError where there is no such encoding."""
    if encoding not in get_args(Encoding):
        raise InputError(f"encoding '{encoding}'", "one of " + ", ".join(get_args(Encoding)))
    if not 1 <= quality <= 100:
        raise InputError(f"a JPEG quality of {quality}", "1 to 100")


def encoded(
    frame: npt.NDArray[np.uint8], encoding: Encoding, pixel_format: str, quality: int
) -> npt.NDArray[np.uint8]:
    """The bytes `[N]` of a PNG or JPEG of a frame `[H, W, 3]`; FrameError where there is none."""
    import cv2  # here: raw pixels need none of its 15 MB

    picture = frame if pixel_format == "bgr" else cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
    # PNG's fastest level: the network is the slow part, and sizes differ little.
    options = (
        [cv2.IMWRITE_JPEG_QUALITY, quality]
        if encoding == "jpeg"
        else [cv2.IMWRITE_PNG_COMPRESSION, 1]
    )
    done, data = cv2.imencode(f".{encoding}", np.ascontiguousarray(picture), options)
    if not done:
        raise FrameError(f"a frame of {list(frame.shape)} that does not become {encoding}")
    return data.astype(np.uint8, copy=False)
