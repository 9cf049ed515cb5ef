"""What an image file says about itself, read before a single pixel is decoded.

OpenCV decodes a cut-off JPEG into a half grey picture without a word, and allocates whatever
a header claims. So the header is read here first: size, EXIF orientation, and whether the
file is complete. JPEG (ITU-T T.81), PNG (W3C), BMP, TIFF 6.0 and BigTIFF, WebP (RFC 9649),
PPM.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_ORIENTATION = 274
_SIZE_OF_TYPE = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 12: 8, 16: 8}
_INTEGER_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}


class HeaderError(ValueError):
    """The bytes are no image that we know, or its header makes no sense."""


@dataclass(frozen=True)
class ImageHeader:
    """Height and width as stored, EXIF orientation (1..8), and what is wrong, if anything.

    Attributes:
        damage: why the file cannot be decoded in full, or None.
        unsupported: why its pixels would come out wrong, or None.
    """

    kind: str
    height: int
    width: int
    orientation: int = 1
    damage: str | None = None
    unsupported: str | None = None


def read_header(data: bytes) -> ImageHeader:
    """The header of an image file's bytes; HeaderError where it is no image we know."""
    for magic, reader in _READERS:
        if re.match(magic, data, re.DOTALL):
            try:
                return reader(data)
            except (struct.error, IndexError, OverflowError) as error:
                raise HeaderError("its header is cut off") from error
    raise HeaderError("its content is none of JPEG, PNG, BMP, TIFF, WebP, PPM")


def _jpeg(data: bytes) -> ImageHeader:
    height = width = 0
    orientation = 1
    position = 2
    while True:
        if data[position] != 0xFF:
            raise HeaderError("its JPEG markers are damaged")
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker == 0xDA:
            break
        length = struct.unpack_from(">H", data, position + 2)[0]
        body = data[position + 4 : position + 2 + length]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", body, 1)
        elif marker == 0xE1 and body[:6] == b"Exif\0\0":
            orientation = _exif_orientation(body[6:])
        position += 2 + length
    # In entropy-coded data a 0xFF is always followed by 0x00 or a restart marker, so the two
    # bytes of "end of image" after the first scan's start can be nothing else.
    complete = data.find(b"\xff\xd9", position) >= 0
    return ImageHeader(
        "JPEG", height, width, orientation, None if complete else "the end of the image is missing"
    )


def _png(data: bytes) -> ImageHeader:
    width, height = struct.unpack_from(">II", data, 16)
    orientation, damage, position = 1, "its last chunk is missing", 8
    while position + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        body = data[position + 8 : position + 8 + length]
        check = data[position + 8 + length : position + 12 + length]
        if len(check) < 4:
            damage = "it is cut off"
            break
        # Lower case names mark chunks that a decoder may do without.
        if name[:1].isupper() and zlib.crc32(name + body) != struct.unpack(">I", check)[0]:
            return ImageHeader("PNG", height, width, orientation, "a checksum does not match")
        if name == b"eXIf":
            orientation = _exif_orientation(body)
        if name == b"IEND":
            return ImageHeader("PNG", height, width, orientation)
        position += 12 + length
    return ImageHeader("PNG", height, width, orientation, damage)


def _bmp(data: bytes) -> ImageHeader:
    file_size, offset, header = struct.unpack_from("<I4xII", data, 2)
    if header == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression = 0
    else:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    rows = abs(height)
    needed = offset + (width * bits + 31) // 32 * 4 * rows if compression in (0, 3) else file_size
    damage = None if len(data) >= needed else f"{needed - len(data)} bytes are missing"
    return ImageHeader("BMP", rows, width, 1, damage)


def _webp(data: bytes) -> ImageHeader:
    needed = 8 + struct.unpack_from("<I", data, 4)[0]
    damage = None if len(data) >= needed else f"{needed - len(data)} bytes are missing"
    height = width = 0
    orientation, position = 1, 12
    while position + 8 <= min(len(data), needed):
        name, length = struct.unpack_from("<4sI", data, position)
        body = data[position + 8 : position + 8 + length]
        if name == b"VP8X":
            width = int.from_bytes(body[4:7], "little") + 1
            height = int.from_bytes(body[7:10], "little") + 1
        elif name == b"VP8 " and not width:
            width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", body, 6))
        elif name == b"VP8L" and not width:
            bits = struct.unpack_from("<I", body, 1)[0]
            width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        elif name == b"EXIF":
            orientation = _exif_orientation(body.removeprefix(b"Exif\0\0"))
        position += 8 + length + length % 2
    return ImageHeader("WebP", height, width, orientation, damage)


def _ppm(data: bytes) -> ImageHeader:
    # Magic, width, height, largest value; comments run from # to the end of the line.
    gap = rb"(?:\s|#[^\n]*\n)+"
    found = re.match(rb"P([2356])" + (gap + rb"(\d{1,9})") * 3 + rb"\s", data)
    if not found:
        raise HeaderError("its PPM header makes no sense")
    width, height, largest = (int(found[i]) for i in (2, 3, 4))
    channels = 3 if found[1] in (b"3", b"6") else 1
    if found[1] in (b"2", b"3"):
        missing = width * height * channels - len(data[found.end() :].split())
    else:
        values = width * height * channels
        missing = values * (2 if largest > 255 else 1) - (len(data) - found.end())
    return ImageHeader(
        "PPM",
        height,
        width,
        1,
        f"{missing} values are missing" if missing > 0 else None,
        None if largest in (255, 65535) else f"its largest value is {largest}, not 255 or 65535",
    )


def _tiff(data: bytes) -> ImageHeader:
    tags = dict(_tiff_tags(data))
    width, height = tags.get(256, (0,))[0], tags.get(257, (0,))[0]
    offsets = tags.get(273) or tags.get(324) or ()
    lengths = tags.get(279) or tags.get(325) or ()
    ends = [start + length for start, length in zip(offsets, lengths, strict=False)]
    missing = max(ends, default=0) - len(data)
    damage = f"{missing} bytes are missing" if missing > 0 else None
    if not offsets or len(offsets) != len(lengths):
        damage = "its table of strips is missing"
    # libtiff multiplies such pixels by their transparency while it decodes.
    veiled = 2 in tags.get(338, ())
    return ImageHeader(
        "TIFF",
        height,
        width,
        _checked_orientation(tags.get(_ORIENTATION, (1,))[0]),
        damage,
        "a TIFF with transparency" if veiled else None,
    )


def without_orientation(data: bytes) -> bytes:
    """A TIFF file's bytes with its orientation tag set to 1, upright.

    OpenCV turns TIFF files by itself, other formats only where it is asked to; with the tag
    out of the way one rule serves all.
    """
    order = "<" if data[:2] == b"II" else ">"
    for tag, _, where in _tiff_entries(data):
        if tag == _ORIENTATION:
            return data[:where] + struct.pack(order + "H", 1) + data[where + 2 :]
    return data


def _tiff_tags(data: bytes) -> Iterator[tuple[int, tuple[int, ...]]]:
    """The integer tags of the first directory of a TIFF, which is also what EXIF data is."""
    for tag, values, _ in _tiff_entries(data):
        yield tag, values


def _tiff_entries(data: bytes) -> Iterator[tuple[int, tuple[int, ...], int]]:
    """Tag, values, and where the values lie."""
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    word, count_type, entry, inline = ("Q", "Q", 20, 8) if big else ("I", "H", 12, 4)
    position = struct.unpack_from(order + word, data, 8 if big else 4)[0]
    entries = struct.unpack_from(order + count_type, data, position)[0]
    position += struct.calcsize(order + count_type)
    for _ in range(min(entries, 4096)):
        tag, kind, count = struct.unpack_from(order + "HH" + word, data, position)
        letter = _INTEGER_TYPES.get(kind)
        if letter is not None:
            where = position + entry - inline
            if count * _SIZE_OF_TYPE[kind] > inline:
                where = struct.unpack_from(order + word, data, where)[0]
            if where + count * _SIZE_OF_TYPE[kind] > len(data):
                raise HeaderError("its table of tags is cut off")
            yield tag, struct.unpack_from(f"{order}{count}{letter}", data, where), where
        position += entry


def _exif_orientation(block: bytes) -> int:
    """The orientation in an EXIF block; 1 (upright) where it states none or is damaged."""
    try:
        tags = dict(_tiff_tags(block)) if block[:2] in (b"II", b"MM") else {}
    except (struct.error, IndexError, OverflowError, HeaderError):
        return 1  # a damaged EXIF block does not make the picture unreadable
    return _checked_orientation(tags.get(_ORIENTATION, (1,))[0])


def _checked_orientation(value: int) -> int:
    return value if 1 <= value <= 8 else 1


_READERS: tuple[tuple[bytes, Callable[[bytes], ImageHeader]], ...] = (
    (rb"\xff\xd8\xff", _jpeg),
    (rb"\x89PNG\r\n\x1a\n", _png),
    (rb"BM", _bmp),
    (rb"II[\x2a\x2b]\0|MM\0[\x2a\x2b]", _tiff),
    (rb"RIFF....WEBP", _webp),
    (rb"P[2356]\s", _ppm),
)
