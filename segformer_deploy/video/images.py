"""Stills: reading them as the eye would see them, writing them whole."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt

from segformer_deploy import files
from segformer_deploy.errors import MediaError, OutputError
from segformer_deploy.spec import FrameSize
from segformer_deploy.video.frame import Picture, check_picture_size
from segformer_deploy.video.image_header import (
    HeaderError,
    ImageHeader,
    read_header,
    without_orientation,
)

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm")
_LARGEST_FILE = 1 << 30
_TRANSPOSED = {5, 6, 7, 8}


def is_image(path: Path) -> bool:
    """Whether the ending is one of `IMAGE_ENDINGS`, in upper or lower case."""
    return path.suffix.lower() in IMAGE_ENDINGS


def natural_key(name: str) -> tuple[tuple[tuple[int, int, str], ...], str]:
    """A sort key by which ``frame2`` comes before ``frame10``; equal numbers sort as text."""
    pieces = re.split(r"([0-9]+)", name)
    parts = tuple(
        (0, int(piece), "") if piece.isdecimal() else (1, 0, piece.casefold()) for piece in pieces
    )
    return parts, name


def list_images(folder: Path) -> list[Path]:
    """The images directly in `folder`, in natural order; MediaError where there is none.

    Hidden files (a leading dot) are left out: file managers put their own beside pictures.
    """
    if not folder.is_dir():
        raise MediaError(f"{folder} is not a folder", "a folder of images")
    try:
        found = [
            path
            for path in folder.iterdir()
            if is_image(path) and not path.name.startswith(".") and path.is_file()
        ]
    except OSError as error:
        raise MediaError(f"cannot read {folder}: {error.strerror}", "a readable folder") from error
    if not found:
        raise MediaError(
            f"no images in {folder}",
            "files ending in " + " ".join(ending[1:] for ending in IMAGE_ENDINGS),
            "name the folder that holds the images itself; folders inside it are not searched",
        )
    return sorted(found, key=lambda path: natural_key(path.name))


def image_size(path: Path) -> FrameSize:
    """The size that `read_image` would give, from the header alone; MediaError as there."""
    header = _checked_header(_read_bytes(path), str(path))
    if header.orientation in _TRANSPOSED:
        return FrameSize(header.width, header.height)
    return FrameSize(header.height, header.width)


def read_image(path: Path) -> Picture:
    """The still picture at `path`: uint8 `[H, W, 3]`, BGR, upright.

    EXIF orientation is applied, grey becomes three equal channels, 16 bits become 8 by
    dropping the lower 8, and transparency is ignored: the colours come out as they are
    stored, nothing is laid underneath.

    Raises:
        MediaError: no such file, not an image, cut off, or above 100 million pixels (that is
            read from the header, before anything is decoded).
    """
    return picture_from_bytes(_read_bytes(path), str(path))


def picture_from_bytes(data: bytes, name: str) -> Picture:
    """What `read_image` gives, of a whole file in memory; `name` is for its messages."""
    header = _checked_header(data, name)
    if header.kind == "TIFF" and header.orientation != 1:
        data = without_orientation(data)
    try:
        stored: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise _unreadable(name, f"its {header.kind} data does not decode") from error
    if stored is None:
        raise _unreadable(name, f"its {header.kind} data does not decode")
    if stored.dtype == np.uint16:
        stored = (stored >> 8).astype(np.uint8)
    if stored.dtype != np.uint8:
        raise _unreadable(name, f"its pixels are {stored.dtype}, not 8 or 16 bit integers")
    return _upright(_three_channels(stored), header.orientation)


def write_image(path: Path, picture: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> None:
    """Write a picture (`[H, W]` or `[H, W, 3]` BGR) atomically, in the format of the ending.

    Raises:
        OutputError: it cannot be written, or the ending names no format for it.
    """
    options = [cv2.IMWRITE_JPEG_QUALITY, 95] if path.suffix.lower() in (".jpg", ".jpeg") else []
    try:
        ok, encoded = cv2.imencode(path.suffix, picture, options)
    except cv2.error:
        ok = False
    if not ok:
        raise OutputError(
            f"a picture of {picture.shape} cannot be written as {path.name}", "a .png or .jpg file"
        )
    files.write_bytes(path, encoded.tobytes())


def _checked_header(data: bytes, name: str) -> ImageHeader:
    try:
        header = read_header(data)
    except HeaderError as error:
        raise _unreadable(name, str(error)) from error
    check_picture_size(name, header.height, header.width)
    if header.unsupported:
        raise MediaError(
            f"{name} cannot be read: {header.unsupported}",
            "an opaque picture of 8 or 16 bits",
            "save it as PNG or JPEG",
        )
    if header.damage:
        raise MediaError(
            f"{name} is damaged: {header.damage}", "a complete image", "copy or save it again"
        )
    return header


def _read_bytes(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > _LARGEST_FILE:
            raise MediaError(f"{path} is {size / 1e9:.1f} GB long", "an image of at most 1 GB")
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise MediaError(f"no such file: {path}", "an image file") from error
    except OSError as error:
        raise MediaError(f"cannot read {path}: {error.strerror}", "a readable file") from error
    if not data:
        raise MediaError(f"{path} is empty", "an image", "copy or save it again")
    return data


def _unreadable(name: str, reason: str) -> MediaError:
    return MediaError(
        f"{name} cannot be read as an image: {reason}", "a JPEG, PNG, BMP, TIFF, WebP or PPM file"
    )


def _three_channels(stored: Picture) -> Picture:
    if stored.ndim == 2:
        return cast(Picture, cv2.cvtColor(stored, cv2.COLOR_GRAY2BGR))
    if stored.shape[2] == 4:
        return cast(Picture, cv2.cvtColor(stored, cv2.COLOR_BGRA2BGR))
    return stored


def _upright(picture: Picture, orientation: int) -> Picture:
    """Undo what EXIF's tag 274 says was done: 2 mirrored, 3 upside down, 6 lying on its left …"""
    if orientation in _TRANSPOSED:
        picture = cast(Picture, cv2.transpose(picture))
    # cv2.flip: 1 swaps left and right, 0 top and bottom, -1 both.
    flip = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(orientation)
    return picture if flip is None else cast(Picture, cv2.flip(picture, flip))
