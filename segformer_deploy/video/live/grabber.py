"""The border to whatever gives live frames: one connection, read by one thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Protocol

from segformer_deploy.spec import FrameSize
from segformer_deploy.video.frame import Picture

PIXEL_FORMATS = ("bgr24", "rgb24", "bgr0", "rgb0", "gray", "yuv420p", "nv12", "yuyv422")
"""Of raw frames, by FFmpeg's names."""


@dataclass(frozen=True)
class CaptureOptions:
    """How a source is to be opened.

    Attributes:
        size: asked of a camera or the streets; of raw frames, what they have.
        fps: likewise; 0 for the streets: as fast as they are taken.
        pixel_format: of raw frames on stdin, one of `PIXEL_FORMATS`.
        live: drop what is not taken in time; None: as the kind of source suggests.
        loop: start again at the end of a file.
        reconnect: open a live source again when it is lost.
        open_s: how long the first frame may take.
        stall_s: how long a frame may be out before the source counts as stalled.
        ffmpeg: further options for FFmpeg's demuxer, as ``rtsp_transport: udp``.
    """

    size: FrameSize | None = None
    fps: Fraction | None = None
    pixel_format: str = "bgr24"
    live: bool | None = None
    loop: bool = False
    reconnect: bool = True
    open_s: float = 10.0
    stall_s: float = 5.0
    ffmpeg: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Grabbed:
    """A frame as it came in; what nobody takes is never converted.

    Attributes:
        captured_s: when it was there, `time.monotonic()` seconds.
        size: of the picture.
        picture: gives uint8 `[H, W, 3]` BGR, upright, to any one thread.
    """

    captured_s: float
    size: FrameSize
    picture: Callable[[], Picture]


class Grabber(Protocol):
    """One connection to a source; opened by what makes it, closed once, by its reader.

    Attributes:
        fps: the rate that the source declares, or None.
        corrupt: damaged packets and frames so far.
        notes: what the reader ought to know, one sentence each.
    """

    @property
    def fps(self) -> Fraction | None: ...

    @property
    def corrupt(self) -> int: ...

    @property
    def notes(self) -> list[str]: ...

    def read(self) -> Grabbed | None:
        """The next frame; None at the end of what has an end.

        Raises:
            MediaError: the source is lost.
        """

    def interrupt(self) -> None:
        """Have a `read` that waits come back, where that can be done; from any thread."""

    def close(self) -> None:
        """Give the source back. By the thread that reads."""
