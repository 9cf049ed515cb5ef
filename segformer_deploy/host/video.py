"""Video: cameras, what PyAV can read and write, and GStreamer with a Jetson's own elements."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segformer_deploy.host.facts import (
    ROOT,
    Ask,
    Facts,
    SilentError,
    listed,
    output_of,
    read_text,
    run,
)

# The first start of gst-inspect reads every plugin there is.
_SECONDS = 5.0


@dataclass(frozen=True)
class Camera(Facts):
    """A video device; some cameras have a second one for metadata.

    Attributes:
        readable: whether this user may open it.
    """

    path: str
    name: str | None
    readable: bool


@dataclass(frozen=True)
class Codecs(Facts):
    """What PyAV brings along; None throughout where it does not load.

    Attributes:
        decode_h264, decode_hevc, encode_h264: reading H.264, reading H.265, writing with libx264.
        rtsp: reading network cameras.
    """

    version: str | None
    decode_h264: bool | None
    decode_hevc: bool | None
    encode_h264: bool | None
    rtsp: bool | None
    unknown: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class GStreamer(Facts):
    """GStreamer's tools and two elements that only a Jetson has.

    Attributes:
        nvarguscamerasrc: the source for cameras on the CSI connector.
        nvv4l2decoder: the hardware decoder.
    """

    version: str | None
    nvarguscamerasrc: bool | None
    nvv4l2decoder: bool | None
    unknown: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Video(Facts):
    """Where frames come from and go to."""

    cameras: tuple[Camera, ...]
    codecs: Codecs
    gstreamer: GStreamer


def video_facts(root: Path = ROOT) -> Video:
    """Of /dev and sysfs, of PyAV and of GStreamer's tools."""
    return Video(_cameras(root), _codecs(), _gstreamer())


def _cameras(root: Path) -> tuple[Camera, ...]:
    found = []
    for path in sorted(listed(root / "dev", "video[0-9]*"), key=_number):
        name = Ask()("name", _reader(root / "sys/class/video4linux" / path.name / "name"))
        shown = "/" + path.relative_to(root).as_posix()
        found.append(Camera(shown, name, os.access(path, os.R_OK | os.W_OK)))
    return tuple(found)


def _reader(path: Path) -> Any:
    return lambda: read_text(path)


def _number(path: Path) -> int:
    digits = path.name.removeprefix("video")
    return int(digits) if digits.isdigit() else 0


def _codecs() -> Codecs:
    try:
        import av
        import av.format
    except Exception as error:
        # A library whose parts do not fit raises whatever it likes.
        why = f"PyAV does not load ({type(error).__name__}: {error})"
        names = ("version", "decode_h264", "decode_hevc", "encode_h264", "rtsp")
        return Codecs(None, None, None, None, None, dict.fromkeys(names, why))
    return Codecs(
        version=str(av.__version__),
        decode_h264=_has_codec(av, "h264", "r"),
        decode_hevc=_has_codec(av, "hevc", "r"),
        encode_h264=_has_codec(av, "libx264", "w"),
        rtsp="rtsp" in av.format.formats_available,
    )


def _has_codec(av: Any, name: str, mode: str) -> bool:
    try:
        av.codec.Codec(name, mode)
    except ValueError:  # UnknownCodecError
        return False
    return True


def _gstreamer() -> GStreamer:
    ask = Ask()
    return GStreamer(
        ask("version", _gstreamer_version),
        ask("nvarguscamerasrc", lambda: _has_element("nvarguscamerasrc")),
        ask("nvv4l2decoder", lambda: _has_element("nvv4l2decoder")),
        ask.unknown,
    )


def _gstreamer_version() -> str:
    """From ``gst-launch-1.0 version 1.20.3``, the first line."""
    words = output_of("gst-launch-1.0", "--version", timeout=_SECONDS).split()
    if "version" not in words[:-1]:
        raise SilentError("gst-launch-1.0 --version prints otherwise than expected")
    return words[words.index("version") + 1]


def _has_element(name: str) -> bool:
    code = run("gst-inspect-1.0", "--exists", name, timeout=_SECONDS).returncode
    # 1 is its answer "no"; anything else is a tool in trouble, such as one killed by a signal.
    if code not in (0, 1):
        raise SilentError(f"gst-inspect-1.0 failed with exit code {code}")
    return code == 0
