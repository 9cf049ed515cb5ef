"""How long a video file claims to be: what tells a cut-off copy from a complete one.

A demuxer reports the end of a cut-off file as if it were the end of the film. The sizes in
the outermost boxes (ISO/IEC 14496-12) or elements (RFC 8794, Matroska) do not lie.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

_EBML = b"\x1a\x45\xdf\xa3"
_BOXES = {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"styp", b"pnot"}


def missing_bytes(path: Path) -> int:
    """Bytes that the file's own sizes promise beyond its end; 0 where complete or unknown."""
    length = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(16)
        if start[4:8] in _BOXES:
            end = _end_of_boxes(file, length)
        elif start[:4] == _EBML:
            end = _end_of_elements(file, length)
        elif start[:4] == b"RIFF" and start[8:12] == b"AVI ":
            end = 8 + int(struct.unpack("<I", start[4:8])[0])
        else:
            end = 0
    return max(0, end - length)


def _end_of_boxes(file: BinaryIO, length: int) -> int:
    position = 0
    while position + 8 <= length:
        file.seek(position)
        head = file.read(16)
        size = int.from_bytes(head[:4], "big")
        if size == 0:  # to the end of the file
            return length
        if size == 1:
            size = int.from_bytes(head[8:16], "big")
        if size < 8:
            return length  # something else behind the film: not ours to judge
        position += size
    return position


def _end_of_elements(file: BinaryIO, length: int) -> int:
    position = 0
    while position + 2 <= length:
        file.seek(position)
        head = file.read(16)
        id_length = _vint_length(head[0])
        size_length = _vint_length(head[id_length]) if id_length < 5 else 9
        if size_length > 8:
            return length
        value = int.from_bytes(head[id_length : id_length + size_length], "big")
        unknown = (1 << 7 * size_length) - 1
        value &= unknown
        if value == unknown:  # a live recording: the size was never filled in
            return length
        position += id_length + size_length + value
    return position


def _vint_length(first: int) -> int:
    return 9 - first.bit_length()
