"""A PNG's own numbers, out of decoders that would rather give colours.

OpenCV, the one picture library of the edge side, replaces the indices of a palette PNG by
their colours. But in the file (PNG specification, section 11.2) the pixels of a palette image
are coded just as the samples of a grey image of the same bit depth: change the colour type in
the header, drop the palette, and the same decoder returns the indices.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from segformer_deploy.errors import MediaError
from segformer_deploy.runtime.plain_png import SIGNATURE, png_chunk, png_chunks

_GREY, _PALETTE = 0, 3
_PIECE = 1 << 20


def index_png(data: bytes, path: Path) -> tuple[bytes, int]:
    """The PNG `data` with palette turned into grey, and the factor its values come with.

    Palette and grey images lose all that could change a value on decoding (palette,
    transparency, colour profile, animation); other colour types are returned as they are.
    Decoders stretch grey of fewer than 8 bits to 0..255: divide by the factor, it is exact.

    Raises MediaError, naming `path`, where the file is cut off or damaged (some decoders fill
    the missing rows with zeros, which would read as class 0), and for grey of fewer than 8
    bits, whose values different programs read differently.
    """
    try:
        chunks = png_chunks(data)
    except ValueError as error:
        raise _damaged(path, str(error)) from None
    if not chunks or chunks[0][0] != b"IHDR" or len(chunks[0][1]) != 13:
        raise _damaged(path, "has no header")
    _check_pixels(b"".join(content for kind, content in chunks if kind == b"IDAT"), path)
    width, height, depth, colour_type, *rest = struct.unpack(">IIBBBBB", chunks[0][1])
    if colour_type not in (_GREY, _PALETTE):
        return data, 1
    if depth not in ((8, 16) if colour_type == _GREY else (1, 2, 4, 8)):
        raise MediaError(
            f"label {path} is a grey PNG of {depth} bit{'s' * (depth > 1)} per pixel, which "
            "some programs read as indices and others stretch to 0..255",
            "8- or 16-bit grey, or a palette",
            "write it as 8-bit grey",
        )
    header = struct.pack(">IIBBBBB", width, height, depth, _GREY, *rest)
    kept = [png_chunk(kind, content) for kind, content in chunks if kind in (b"IDAT", b"IEND")]
    return b"".join([SIGNATURE, png_chunk(b"IHDR", header), *kept]), 255 // (2 ** min(depth, 8) - 1)


def _check_pixels(compressed: bytes, path: Path) -> None:
    unpack = zlib.decompressobj()
    try:
        rest = compressed
        while rest and not unpack.eof:
            unpack.decompress(rest, _PIECE)
            rest = unpack.unconsumed_tail
    except zlib.error as error:
        raise _damaged(path, f"is damaged ({error})") from error
    if not unpack.eof:
        raise _damaged(path, "is cut off")


def _damaged(path: Path, what: str) -> MediaError:
    return MediaError(f"label {path} {what}", "a whole PNG file", "copy it or write it again")
