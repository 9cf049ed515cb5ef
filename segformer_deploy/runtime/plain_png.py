"""PNG without a picture library, for the pictures that an engine folder carries.

A process that only segments frames needs no OpenCV, and OpenCV takes 15 MB: more than all
activations of B0 at 256x256. So golden frames are written with every row unfiltered, and such
files are read here; others go to OpenCV. Source: PNG specification (third edition),
sections 5 (chunks), 7 (rows) and 9 (filters).
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[Any]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB = 0, 2
_HEADER = ">IIBBBBB"


def png_from_picture(picture: Picture) -> bytes:
    """A PNG of uint8 `[H, W, 3]` (BGR), uint8 `[H, W]` or uint16 `[H, W]`, rows unfiltered.

    Raises ValueError for other arrays.
    """
    colour = picture.ndim == 3 and picture.shape[2] == 3 and picture.dtype == np.uint8
    grey = picture.ndim == 2 and picture.dtype in (np.uint8, np.uint16)
    if not (colour or grey) or picture.size == 0:
        raise ValueError(f"a picture of {picture.dtype} {picture.shape}")
    height, width = picture.shape[:2]
    samples = picture[..., ::-1] if colour else picture.astype(picture.dtype.newbyteorder(">"))
    row_bytes = np.ascontiguousarray(samples).view(np.uint8).reshape(height, -1)
    packer = zlib.compressobj(6)
    # Row by row: the picture is never there a second time.
    data = b"".join(
        [*(packer.compress(b"\0" + row.tobytes()) for row in row_bytes), packer.flush()]
    )
    depth = 8 * picture.dtype.itemsize
    header = struct.pack(_HEADER, width, height, depth, _RGB if colour else _GREY, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    return SIGNATURE + b"".join(png_chunk(kind, content) for kind, content in chunks)


def picture_from_png(data: bytes) -> Picture | None:
    """The picture in a PNG as `png_from_picture` writes it; None where it is another PNG, or none.

    Whole: a damaged check sum or missing rows give None too.
    """
    try:
        chunks = png_chunks(data) if data.startswith(SIGNATURE) else []
    except ValueError:
        return None
    if not chunks or chunks[0][0] != b"IHDR" or len(chunks[0][1]) != 13:
        return None
    width, height, depth, colour, *rest = struct.unpack(_HEADER, chunks[0][1])
    if (depth, colour) not in ((8, _RGB), (8, _GREY), (16, _GREY)) or any(rest):
        return None
    if any(kind not in (b"IHDR", b"IDAT", b"IEND") for kind, _ in chunks):
        return None  # a palette, transparency, a profile: what it shows is for a library to say
    row = width * (3 if colour == _RGB else depth // 8)
    rows = _rows(b"".join(content for kind, content in chunks if kind == b"IDAT"), height, row)
    if rows is None:
        return None
    if colour == _RGB:
        return np.ascontiguousarray(rows.reshape(height, width, 3)[..., ::-1])
    if depth == 8:
        return rows
    return np.ascontiguousarray(rows).view(">u2").astype(np.uint16)


def _rows(packed: bytes, height: int, row: int) -> npt.NDArray[np.uint8] | None:
    """The unfiltered rows `[height, row]`; None where one is filtered or missing."""
    unpacker = zlib.decompressobj()
    try:
        # One byte more than belongs there would tell a wrong header, or a bomb.
        data = unpacker.decompress(packed, height * (1 + row) + 1)
    except zlib.error:
        return None
    if len(data) != height * (1 + row) or not unpacker.eof:
        return None
    lines = np.frombuffer(data, np.uint8).reshape(height, 1 + row)
    return None if lines[:, 0].any() else lines[:, 1:].copy()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk as it stands in a file: length, kind, content, check sum."""
    checked = kind + content
    return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Kind and content of each chunk up to IEND, whatever the eight bytes before them are.

    Raises ValueError, with what is wrong in words, where a check sum does not match or the file
    ends before IEND.
    """
    found, place = [], len(SIGNATURE)
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        body, end = data[place + 4 : place + 8 + length], place + 12 + length
        if end > len(data):
            break
        if zlib.crc32(body) != struct.unpack_from(">I", data, end - 4)[0]:
            raise ValueError("is damaged: a check sum does not match")
        found.append((body[:4], body[4:]))
        if body[:4] == b"IEND":
            return found
        place = end
    raise ValueError("is cut off")
