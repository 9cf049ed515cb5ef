"""Small media files for tests, and readers that share no code with the package."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

RATE = 48000


BITS = 6


def picture(index: int, height: int = 64, width: int = 96) -> np.ndarray[Any, Any]:
    """uint8 `[H, W, 3]` BGR: six bars spell the index; the corners tell which way is up."""
    image = np.full((height, width, 3), 120, np.uint8)
    image[: height // 4, : width // 4] = (0, 0, 220)  # red, upper left
    image[-(height // 4) :, : width // 4] = (0, 200, 0)  # green, lower left
    for bit, (band, columns) in enumerate(_bars(height, width)):
        image[band, columns] = 220 if index >> bit & 1 else 30
    return image


def index_of(image: np.ndarray[Any, Any]) -> int:
    """Which `picture` a lossy copy of it shows."""
    means = [image[band, columns].mean() for band, columns in _bars(*image.shape[:2])]
    assert all(mean < 80 or mean > 170 for mean in means), f"neither black nor white: {means}"
    return sum((mean > 125) << bit for bit, mean in enumerate(means))


def _bars(height: int, width: int) -> list[tuple[slice, slice]]:
    left, step = width // 4, (width - width // 4) // BITS
    band = slice(height // 3, height * 2 // 3)
    return [(band, slice(left + bit * step, left + (bit + 1) * step)) for bit in range(BITS)]


def make_video(
    path: Path,
    frames: int = 12,
    *,
    size: tuple[int, int] = (64, 96),
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    time_base: Fraction = Fraction(1, 25),
    pts: Sequence[int] | None = None,
    sound: str | None = None,
    sound_start_s: float = 0.0,
    sound_layout: str = "stereo",
    sound_gap_s: tuple[float, float] = (0.0, 0.0),
    options: dict[str, str] | None = None,
    pixel_shape: Fraction | None = None,
    mux_options: dict[str, str] | None = None,
) -> Path:
    """A video of `picture(0)`, `picture(1)` …, with a sine as sound where a codec is named."""
    with av.open(str(path), "w", options=mux_options or {}) as file:
        stream: Any = file.add_stream(codec, rate=25)
        stream.height, stream.width = size
        stream.pix_fmt = pix_fmt
        stream.codec_context.time_base = time_base
        stream.options = {"crf": "10", **(options or {})} if codec == "libx264" else options or {}
        if pixel_shape is not None:
            stream.codec_context.sample_aspect_ratio = pixel_shape
        audio: Any = None
        if sound is not None:
            audio = file.add_stream(sound, rate=RATE)
            audio.codec_context.layout = sound_layout
        images = []
        for index in range(frames):
            # As the encoder wants it here, without a word on which matrix was used.
            frame = av.VideoFrame.from_ndarray(picture(index, *size), format="bgr24")
            frame = frame.reformat(format=pix_fmt)
            frame.pts = index if pts is None else pts[index]
            frame.time_base = time_base
            images.append(frame)
        last_s = float(images[-1].pts * time_base) + 0.04
        packets: list[Any] = []
        for frame in images:
            packets += stream.encode(frame)
        packets += stream.encode(None)
        if audio is not None:
            if sound == "vorbis":  # FFmpeg's own encoder calls itself experimental
                audio.options = {"strict": "experimental"}
            for piece in _sine(audio, sound_start_s, last_s):
                if not sound_gap_s[0] <= piece.pts / RATE < sound_gap_s[1]:
                    packets += audio.encode(piece)
            packets += audio.encode(None)
        for packet in sorted(packets, key=lambda p: p.dts * p.time_base):
            file.mux(packet)
    return path


def _sine(stream: Any, start_s: float, end_s: float) -> Iterator[Any]:
    """220 Hz, in frames of 1024 samples."""
    channels = len(stream.codec_context.layout.channels)
    first, last = round(start_s * RATE), round(end_s * RATE)
    for start in range(first, last, 1024):
        times = np.arange(start, min(start + 1024, last)) / RATE
        wave = (0.4 * np.sin(times * 2 * np.pi * 220)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(np.tile(wave, (channels, 1))),
            format="fltp",
            layout=stream.codec_context.layout.name,
        )
        frame.sample_rate = RATE
        frame.time_base = Fraction(1, RATE)
        frame.pts = start
        yield frame


def read_times(path: Path) -> list[Fraction]:
    """The times of the pictures in display order, straight from PyAV."""
    with av.open(str(path)) as file:
        return [Fraction(f.pts) * f.time_base for f in file.decode(video=0)]


def read_pictures(path: Path) -> list[np.ndarray[Any, Any]]:
    """The pictures as PyAV converts them: uint8 BGR."""
    with av.open(str(path)) as file:
        return [f.to_ndarray(format="bgr24") for f in file.decode(video=0)]


def read_packets(path: Path) -> list[tuple[bytes, Fraction]]:
    """The packets of the first sound track: their bytes and times."""
    with av.open(str(path)) as file:
        return [
            (bytes(p), Fraction(p.pts) * p.time_base) for p in file.demux(audio=0) if p.size > 0
        ]


def read_sound(path: Path) -> tuple[np.ndarray[Any, Any], Fraction]:
    """The first channel of the decoded sound in -1..1, and the time of its first sample."""
    with av.open(str(path)) as file:
        frames = list(file.decode(audio=0))
    parts = []
    for frame in frames:
        samples = frame.to_ndarray()
        channels = len(frame.layout.channels)
        first = samples[0] if frame.format.is_planar else samples[0, ::channels]
        parts.append(first / 32768 if first.dtype == np.int16 else first.astype(np.float64))
    return np.concatenate(parts), Fraction(frames[0].pts) * frames[0].time_base
