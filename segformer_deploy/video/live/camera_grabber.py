"""USB cameras and whatever else Linux shows as /dev/videoN, through OpenCV."""

from __future__ import annotations

import math
import os
import time
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import cv2

from segformer_deploy.errors import MediaError
from segformer_deploy.spec import FrameSize
from segformer_deploy.video.frame import Picture
from segformer_deploy.video.live.grabber import CaptureOptions, Grabbed

_DEVICES = Path("/dev")


class CameraGrabber:
    """A V4L2 camera by its number.

    Raises:
        MediaError: no such camera, no permission, used by another program, or unplugged.
    """

    def __init__(self, number: int, options: CaptureOptions) -> None:
        self._device = _DEVICES / f"video{number}"
        self.corrupt = 0
        self.notes: list[str] = []
        self._check()
        self._camera: Any = cv2.VideoCapture(number, cv2.CAP_V4L2)
        if not self._camera.isOpened():
            self._camera.release()
            raise MediaError(
                f"{self._device} does not open as a camera",
                "a camera that no other program uses",
                f"fuser -v {self._device} names who uses it; a camera often has two devices, of "
                "which one gives pictures: try the other",
            )
        try:
            self._ask_for(options)
            self.fps = _rate(float(self._camera.get(cv2.CAP_PROP_FPS)))
        except BaseException:
            self._camera.release()
            raise

    def read(self) -> Grabbed | None:
        got, picture = self._camera.read()
        now = time.monotonic()
        if not got or picture is None:
            gone = "was unplugged" if not self._device.exists() else "gives no more frames"
            raise MediaError(
                f"{self._device} {gone}", "a camera that stays", "check cable and power"
            )
        image = cast(Picture, picture)
        return Grabbed(now, FrameSize(*image.shape[:2]), lambda: image)

    def interrupt(self) -> None:
        """The driver comes back by itself, after ten seconds at most."""

    def close(self) -> None:
        self._camera.release()

    def _check(self) -> None:
        if not self._device.exists():
            others = sorted(str(path) for path in _DEVICES.glob("video*"))
            raise MediaError(
                f"there is no camera {self._device}",
                f"one of {', '.join(others)}" if others else "a camera that the system sees",
                "" if others else "plug it in; ls /dev/video* lists cameras, dmesg tells why not",
            )
        if not os.access(self._device, os.R_OK | os.W_OK):
            raise MediaError(
                f"{self._device} may not be used by this user",
                "a member of the group video",
                'sudo usermod -aG video "$USER", then log in again',
            )

    def _ask_for(self, options: CaptureOptions) -> None:
        camera, size = self._camera, options.size
        # What the driver keeps back grows old.
        camera.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        if size is not None or options.fps:
            # Uncompressed, USB 2 carries no more than about 640x480 at 30 frames/s.
            camera.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
        if size is not None:
            camera.set(cv2.CAP_PROP_FRAME_WIDTH, size.width)
            camera.set(cv2.CAP_PROP_FRAME_HEIGHT, size.height)
            given = FrameSize(
                int(camera.get(cv2.CAP_PROP_FRAME_HEIGHT)),
                int(camera.get(cv2.CAP_PROP_FRAME_WIDTH)),
            )
            if given != size:
                self.notes.append(f"{self._device} gives {given}, not {size}")
        if options.fps:
            camera.set(cv2.CAP_PROP_FPS, float(options.fps))


def _rate(fps: float) -> Fraction | None:
    """A driver that does not know its rate says 0, which OpenCV may divide by."""
    if not math.isfinite(fps) or fps <= 0:
        return None
    return Fraction(fps).limit_denominator(1001)
