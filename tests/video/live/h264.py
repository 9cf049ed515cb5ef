"""The camera's lens and encoder, and the recorder's decoder, on PyAV."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import av
import numpy as np
from av.video.frame import PictureType

from tests.video.live.rtp import PPS, SPS, START_CODE, nal_type, nal_units
from tests.video.live.time_code import now_ms, stamp

CLOCK = 90_000  # RTP's for video
Image = np.ndarray[Any, Any]
Pictures = list[tuple[int, bytes]]  # (pts, Annex B) in decoding order


@dataclass(frozen=True)
class Coding:
    """How a camera encodes."""

    fps: float
    gop: int
    bframes: int
    crf: int


class Encoder:
    """x264 as a camera would set it: no delay but that of B-frames, headers at each key frame."""

    def __init__(self, size: tuple[int, int], coding: Coding) -> None:
        context: Any = av.CodecContext.create("libx264", "w")
        context.height, context.width = size
        context.pix_fmt = "yuv420p"
        context.time_base = Fraction(1, CLOCK)
        context.framerate = Fraction(coding.fps).limit_denominator(1001)
        context.gop_size, context.max_b_frames = coding.gop, coding.bframes
        context.thread_count = 1
        context.options = {
            "preset": "ultrafast",
            "tune": "zerolatency",
            "crf": str(coding.crf),
            "forced-idr": "1",
            "x264-params": "repeat-headers=1:scenecut=0",
        }
        self._context = context

    def encode(self, image: Image, pts: int, *, key: bool = False) -> Pictures:
        """What is ready now."""
        frame = av.VideoFrame.from_ndarray(image, format="bgr24")
        frame = frame.reformat(format="yuv420p")
        frame.pts, frame.time_base = pts, Fraction(1, CLOCK)
        if key:
            frame.pict_type = PictureType.I
        return [(packet.pts, bytes(packet)) for packet in self._context.encode(frame)]

    def flush(self) -> Pictures:
        """What the encoder still held back; it takes no more pictures."""
        return [(packet.pts, bytes(packet)) for packet in self._context.encode(None)]


class Camera:
    """Makes, stamps and encodes pictures; `size` may change between two of them."""

    def __init__(
        self,
        make_frame: Callable[[int], Image],
        size: tuple[int, int],
        coding: Coding,
        stamp_with: Literal["time", "index"] | None,
    ) -> None:
        self.size = self._encoded_size = size
        self._make_frame, self._coding, self._stamp_with = make_frame, coding, stamp_with
        self._encoder = Encoder(size, coding)

    def restart(self) -> None:
        """Forget what was encoded; indices begin anew."""
        self._encoder, self._encoded_size = Encoder(self.size, self._coding), self.size

    def headers(self) -> tuple[bytes, bytes]:
        """SPS and PPS for the size of now; they do not depend on the pictures."""
        trial = Encoder(self.size, self._coding)
        coded = [*trial.encode(np.zeros((*self.size, 3), np.uint8), 0), *trial.flush()]
        units = {nal_type(unit): unit for unit in nal_units(coded[0][1])}
        return units[SPS], units[PPS]

    def shoot(self, index: int, *, key: bool) -> Pictures:
        """Take picture `index`, and return what the encoder has ready."""
        ready: Pictures = []
        size = self.size
        if size != self._encoded_size:
            ready = self._encoder.flush()
            self._encoder, self._encoded_size = Encoder(size, self._coding), size
        image = np.ascontiguousarray(self._make_frame(index))
        if image.shape[:2] != size:
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            image = frame.reformat(width=size[1], height=size[0]).to_ndarray(format="bgr24")
        if self._stamp_with is not None:
            image = image.copy()
            stamp(image, now_ms() if self._stamp_with == "time" else index)
        return ready + self._encoder.encode(image, self.pts(index), key=key)

    def pts(self, index: int) -> int:
        """When picture `index` is due, in RTP's clock."""
        return round(index * CLOCK / self._coding.fps)


class Decoder:
    """Pictures from H.264; what cannot be decoded is counted."""

    def __init__(self, headers: Sequence[bytes] = ()) -> None:
        self.errors = 0
        self._context: Any = av.CodecContext.create("h264", "r")
        self._context.thread_count = 1
        if headers:
            self._context.extradata = b"".join(START_CODE + unit for unit in headers)

    def decode(self, annex_b: bytes | None) -> list[Image]:
        """uint8 `[H, W, 3]` BGR of the pictures that are ready; None: all that are left."""
        try:
            frames = self._context.decode(None if annex_b is None else av.Packet(annex_b))
        except av.error.FFmpegError:
            self.errors += 1
            return []
        return [frame.to_ndarray(format="bgr24") for frame in frames]
