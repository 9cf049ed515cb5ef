"""What goes to a viewer: frames for the page, parts of an MJPEG stream, states.

A message is a 4-byte length (big end first), that many bytes of JSON, a JPEG of the picture and
a PNG of the class map, whose lengths the JSON tells (both 0: no picture). The browser composes
them; opacity, mode and switches cost the server nothing.
"""

from __future__ import annotations

import json
import struct
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt

from segformer_deploy.video.frame import Picture
from segformer_deploy.video.overlay import ClassMap, Overlay
from segformer_deploy.video.shown import Shown

BOUNDARY = "segdeploy-frame"
_QUALITY = 82
_PNG = [
    cv2.IMWRITE_PNG_COMPRESSION,
    1,
    # Class maps are long runs of equal bytes: the previous row as prediction, runs alone.
    cv2.IMWRITE_PNG_STRATEGY,
    cv2.IMWRITE_PNG_STRATEGY_RLE,
]


def message(header: dict[str, Any], jpeg: bytes = b"", png: bytes = b"") -> bytes:
    """The bytes of one message."""
    text = json.dumps({**header, "jpeg": len(jpeg), "png": len(png)}, allow_nan=False).encode()
    return b"".join((struct.pack(">I", len(text)), text, jpeg, png))


def page_message(shown: Shown, width: int) -> bytes:
    """A frame as the page takes it, scaled down to at most `width` pixels wide.

    The class map is grey: 8 bits up to 256 classes (``bits`` 8). Above, a canvas could not read
    16 bits, so the low bytes stand left and the high bytes right in a picture twice as wide
    (``bits`` 16); what is no class is 65535.
    """
    picture, class_map = scaled(shown.frame.image, shown.class_map, width)
    planes = planes_from_class_map(class_map)
    header = {
        "kind": "frame",
        "source": shown.stream,
        "index": shown.frame.index,
        "time_s": shown.frame.time_s,
        "size": str(shown.frame.size),
        "width": picture.shape[1],
        "height": picture.shape[0],
        "bits": 8 if planes.shape[1] == picture.shape[1] else 16,
        "latency_ms": None if shown.latency_ms is None else round(shown.latency_ms, 2),
        "shares": [round(float(share), 5) for share in shown.shares],
    }
    return message(header, jpeg_from_picture(picture), _encoded(".png", planes, _PNG))


def mjpeg_part(shown: Shown, overlay: Overlay, width: int, opacity: float) -> bytes:
    """One part of a multipart stream: the drawn overlay as JPEG."""
    picture, class_map = scaled(shown.frame.image, shown.class_map, width)
    drawn = overlay.draw(picture, class_map, opacity=opacity, shares=shown.shares)
    jpeg = jpeg_from_picture(drawn)
    head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
    return b"".join((head.encode(), jpeg, b"\r\n"))


def scaled(picture: Picture, class_map: ClassMap, width: int) -> tuple[Picture, ClassMap]:
    """Both at most `width` pixels wide, never enlarged; the class map by its nearest pixels.

    Reduced by a whole number, which takes a third of the time that 4:3 does.
    """
    rows, columns = class_map.shape
    if picture.shape[:2] != class_map.shape:
        raise ValueError(f"a class map of {class_map.shape} for a picture of {picture.shape[:2]}")
    if columns <= width:
        return picture, class_map
    factor = -(-columns // width)
    size = (max(1, columns // factor), max(1, rows // factor))
    small = cast(Picture, cv2.resize(picture, size, interpolation=cv2.INTER_AREA))
    # By index, since OpenCV's nearest does not take every integer type; the middles of pixels.
    across = ((np.arange(size[0]) + 0.5) * (columns / size[0])).astype(np.intp)
    down = ((np.arange(size[1]) + 0.5) * (rows / size[1])).astype(np.intp)
    return small, class_map[down][:, across]


def planes_from_class_map(class_map: ClassMap) -> npt.NDArray[np.uint8]:
    """The class map as 8-bit grey: `[H, W]`, or `[H, 2 W]` (low bytes, high bytes) where wider."""
    if class_map.dtype == np.uint8:
        return np.ascontiguousarray(class_map)
    outside = (class_map < 0) | (class_map > 65535)
    values = np.where(outside, 65535, class_map).astype(np.uint16)
    return np.hstack([(values & 255).astype(np.uint8), (values >> 8).astype(np.uint8)])


def jpeg_from_picture(picture: Picture) -> bytes:
    """A JPEG of good quality for looking at."""
    return _encoded(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])


def _encoded(ending: str, picture: npt.NDArray[np.uint8], options: list[int]) -> bytes:
    ok, data = cv2.imencode(ending, picture, options)
    if not ok:
        raise ValueError(f"OpenCV cannot write {picture.shape} as {ending}")
    return cast("npt.NDArray[np.uint8]", data).tobytes()
