"""Raw frames one after another in a pipe: what a process or a shell hands over."""

from __future__ import annotations

import os
import select
import time
from fractions import Fraction
from functools import partial
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt

from segformer_deploy.errors import MediaError
from segformer_deploy.spec import FrameSize
from segformer_deploy.video.frame import Picture, check_picture_size
from segformer_deploy.video.live.grabber import PIXEL_FORMATS, CaptureOptions, Grabbed

# Bytes of a frame over its pixels; how many rows and columns make a whole; OpenCV's conversion.
_FORMATS: dict[str, tuple[Fraction, int, Any]] = {
    "bgr24": (Fraction(3), 1, None),
    "rgb24": (Fraction(3), 1, cv2.COLOR_RGB2BGR),
    "bgr0": (Fraction(4), 1, cv2.COLOR_BGRA2BGR),
    "rgb0": (Fraction(4), 1, cv2.COLOR_RGBA2BGR),
    "gray": (Fraction(1), 1, cv2.COLOR_GRAY2BGR),
    "yuv420p": (Fraction(3, 2), 2, cv2.COLOR_YUV2BGR_I420),
    "nv12": (Fraction(3, 2), 2, cv2.COLOR_YUV2BGR_NV12),
    "yuyv422": (Fraction(2), 2, cv2.COLOR_YUV2BGR_YUYV),
}
_WAKE_S = 0.1


class RawFrames:
    """Frames of one size and format, read from a file descriptor without a header.

    Args:
        handle: open for reading; stays the caller's.
        size: of each frame.
        pixel_format: one of `PIXEL_FORMATS`.
        what: how it is called in errors.
        stall_s: how long a frame may take to come.

    Raises:
        MediaError: the size does not suit the format, or is too large.
    """

    def __init__(
        self, handle: int, size: FrameSize, pixel_format: str, what: str, stall_s: float
    ) -> None:
        if pixel_format not in _FORMATS:
            raise MediaError(
                f"the pixel format {pixel_format}", f"one of {', '.join(PIXEL_FORMATS)}"
            )
        share, whole, self._conversion = _FORMATS[pixel_format]
        check_picture_size(what, size.height, size.width)
        rows = 1 if pixel_format == "yuyv422" else whole
        if size.width % whole or size.height % rows:
            even = "an even width" if rows == 1 else "even height and width"
            raise MediaError(f"{pixel_format} frames of {size}", even)
        self.size = size
        self.bytes = int(size.height * size.width * share)
        self._shape = _shape(pixel_format, size)
        self._handle, self._what, self._stall_s = handle, what, stall_s
        self.stopped = False
        self._poll = select.poll()
        self._poll.register(handle, select.POLLIN)

    def read(self) -> Grabbed | None:
        """The next frame; None where the pipe was closed between two frames.

        Raises:
            MediaError: the pipe ended within a frame, or nothing came for too long.
        """
        data = np.empty(self.bytes, np.uint8)
        filled = self._fill(data.data)
        if filled == 0:
            return None
        if filled < self.bytes:
            raise MediaError(
                f"{self._what} ended within a frame ({filled} of {self.bytes} bytes)",
                f"whole frames of {self.size}",
                "check --input-size and --input-format",
            )
        picture = partial(_bgr, data.reshape(self._shape), self._conversion)
        return Grabbed(time.monotonic(), self.size, picture)

    def stop(self) -> None:
        """Have a `read` that waits come back with nothing."""
        self.stopped = True

    def drain(self, seconds: float) -> None:
        """Throw away what comes until the pipe is closed, `seconds` at most."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self._something_there(left) and not os.read(self._handle, 1 << 20):
                return

    def _something_there(self, seconds: float) -> bool:
        # Not select(), which knows no descriptor above 1023.
        return bool(self._poll.poll(seconds * 1000))

    def _fill(self, view: memoryview) -> int:
        filled, waited = 0, 0.0
        while filled < len(view) and not self.stopped:
            # In short turns, so that `stop` is seen.
            if not self._something_there(_WAKE_S):
                waited += _WAKE_S
                if waited >= self._stall_s:
                    raise MediaError(
                        f"{self._what}: nothing came for {self._stall_s:g} s", "a frame"
                    )
                continue
            got = os.readv(self._handle, [view[filled:]])
            if got == 0:
                break
            filled, waited = filled + got, 0.0
        return 0 if self.stopped else filled


class StdinGrabber:
    """Raw frames on standard input, as ``ffmpeg -f rawvideo -`` writes them."""

    def __init__(self, options: CaptureOptions, handle: int = 0) -> None:
        if options.size is None:
            raise MediaError(
                "raw frames on stdin, of unknown size",
                "--input-size HxW, and --input-format where they are not bgr24",
                "ffmpeg -i … -f rawvideo -pix_fmt bgr24 - | segdeploy run --source - "
                "--input-size 480x640",
            )
        self.fps = options.fps
        self.corrupt = 0
        self.notes: list[str] = []
        patience = float("inf") if not options.live else options.stall_s
        self._frames = RawFrames(handle, options.size, options.pixel_format, "stdin", patience)

    def read(self) -> Grabbed | None:
        return self._frames.read()

    def interrupt(self) -> None:
        self._frames.stop()

    def close(self) -> None:
        """Standard input stays the process's own."""


def _shape(pixel_format: str, size: FrameSize) -> tuple[int, ...]:
    if pixel_format in ("yuv420p", "nv12"):
        return size.height * 3 // 2, size.width
    channels = {"gray": 1, "yuyv422": 2, "bgr24": 3, "rgb24": 3}.get(pixel_format, 4)
    return size.height, size.width, channels


def _bgr(data: npt.NDArray[np.uint8], conversion: Any) -> Picture:
    return data if conversion is None else cast(Picture, cv2.cvtColor(data, conversion))
