"""Videos of many kinds, to be cut: with what each of them is difficult."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from tests.video.makers import make_video

FRAMES = 60


def noisy_picture(index: int, height: int, width: int) -> np.ndarray[Any, Any]:
    """A ramp that moves, under noise: so that every frame refers to others, and none is alike."""
    rng = np.random.default_rng(index)
    rows, columns = np.mgrid[:height, :width]
    ramp = ((rows * 3 + columns * 2 + index * 5) % 256)[..., None]
    noise = rng.integers(-20, 20, (height, width, 3))
    return np.clip(ramp + noise, 0, 255).astype(np.uint8)


def film(
    path: Path,
    frames: int = FRAMES,
    *,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    pts: Sequence[int] | None = None,
    size: tuple[int, int] = (64, 96),
    gop: int = 8,
    pix_fmt: str = "yuv420p",
) -> Path:
    """A video whose frames refer to each other, with a key frame about every `gop`."""
    base = Fraction(1, 1000) if pts is not None else Fraction(1, 25)
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = *size, pix_fmt
        stream.codec_context.time_base = base
        stream.codec_context.gop_size = gop
        stream.options = {**({"crf": "23"} if codec == "libx264" else {}), **(options or {})}
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(noisy_picture(index, *size), format="bgr24")
            frame = frame.reformat(format=pix_fmt)
            frame.pts = index if pts is None else pts[index]
            frame.time_base = base
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def irregular_times(frames: int = FRAMES) -> list[int]:
    """Milliseconds, by no rule: between 3 and 180 apart, from 700 on."""
    steps = np.random.default_rng(3).integers(3, 180, frames)
    return [700 + int(time) for time in np.cumsum(steps)]


def turned(path: Path) -> Path:
    """A video with a rotation tag of 90 degrees: the matrix in its track header is rewritten."""
    film(path)
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 40
    one = 1 << 16
    matrix = struct.pack(">9i", 0, one, 0, -one, 0, 0, 0, 0, 1 << 30)
    data[place : place + 36] = matrix
    path.write_bytes(bytes(data))
    return path


def _x264(ending: str, **params: Any) -> Callable[[Path], Path]:
    text = ":".join(f"{name.replace('_', '-')}={value}" for name, value in params.items())
    return lambda folder: film(folder / f"film{ending}", options={"x264-params": text})


FILMS: dict[str, Callable[[Path], Path]] = {
    "closed groups": lambda folder: film(folder / "film.mp4"),
    "open groups with pyramids": _x264(
        ".mp4", open_gop=1, bframes=4, b_pyramid="normal", keyint=8, min_keyint=4, ref=4
    ),
    "open groups in Matroska": _x264(".mkv", open_gop=1, bframes=3, keyint=8, min_keyint=4),
    "open groups in a transport stream": _x264(
        ".ts", open_gop=1, bframes=3, keyint=8, min_keyint=4
    ),
    "a picture that is refreshed by columns": _x264(".mp4", intra_refresh=1, keyint=10, bframes=0),
    "no B-frames": _x264(".mp4", bframes=0, keyint=8),
    "every frame a key frame": _x264(".mp4", keyint=1),
    "irregular times": lambda folder: film(folder / "film.mp4", pts=irregular_times()),
    "irregular times in Matroska": lambda folder: film(folder / "film.mkv", pts=irregular_times()),
    "a rotation tag": lambda folder: turned(folder / "film.mp4"),
    "MPEG-2 in a program stream": lambda folder: film(
        folder / "film.mpg", codec="mpeg2video", options={"bf": "2"}
    ),
    "MPEG-2 in a transport stream": lambda folder: film(
        folder / "film.ts", codec="mpeg2video", options={"bf": "2"}
    ),
    "MPEG-4 with B-frames in AVI": lambda folder: film(
        folder / "film.avi", codec="mpeg4", options={"bf": "2"}
    ),
    "Motion JPEG in AVI": lambda folder: film(
        folder / "film.avi", codec="mjpeg", pix_fmt="yuvj420p"
    ),
    "no container": lambda folder: film(folder / "film.h264"),
    "one frame": lambda folder: film(folder / "film.mp4", 1),
    "two frames": lambda folder: film(folder / "film.mp4", 2, gop=1),
    "sound that begins before": lambda folder: make_video(
        folder / "film.mp4",
        FRAMES,
        sound="aac",
        options={"g": "8"},
        pts=[20 + number for number in range(FRAMES)],
    ),
}


def optional_films() -> dict[str, Callable[[Path], Path]]:
    """Those whose encoders not every build of FFmpeg has."""
    more = {
        "libx265": ("open-gop=1:keyint=8:min-keyint=4:log-level=none", "x265-params", ".mp4"),
        "libvpx-vp9": ("1", "auto-alt-ref", ".webm"),
        "libvpx": ("1", "auto-alt-ref", ".webm"),
    }
    return {
        f"{codec}": (
            lambda folder, codec=codec, value=value, name=name, ending=ending: film(
                folder / f"film{ending}", codec=codec, options={name: value}
            )
        )
        for codec, (value, name, ending) in more.items()
        if codec in av.codecs_available
    }
