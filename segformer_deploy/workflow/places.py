"""Where the results of several sources go, and that nothing is written over something else."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from segformer_deploy.errors import InputError
from segformer_deploy.video.address import Address, redacted
from segformer_deploy.video.images import is_image

STDOUT = "-"
_NUMBERED = ("rtsp", "rtmp")
"""Servers that tell streams apart by their path."""


def named_for(output: str, number: int, count: int) -> str:
    """The output of source `number` of `count`: its own name where there are several.

    ``out.mp4`` becomes ``out-1.mp4``, ``out-2.mp4``; of an address the path gets the number.

    Raises:
        InputError: a device, or an address without a path, takes one stream only.
    """
    if count == 1 or output == STDOUT:
        return output
    if "://" in output:
        try:
            parts = urlsplit(output)
        except ValueError:
            return output  # the sink says what is wrong with it
        if parts.scheme not in _NUMBERED or not parts.path.strip("/"):
            raise _for_one(redacted(output), count)
        return parts._replace(path=f"{parts.path.rstrip('/')}-{number + 1}").geturl()
    if output.startswith("/dev/"):
        raise _for_one(output, count)
    path = Path(output)
    return str(path.with_name(f"{path.stem}-{number + 1}{path.suffix}"))


def check_places(sources: Sequence[Address], places: Iterable[str]) -> None:
    """InputError where a result would go over a source, or two into one place.

    Args:
        places: all of the run, numbered; stdout may be among them more than once.
    """
    files = {_real(_file_of(source)): source.name for source in sources if _file_of(source)}
    seen: set[str] = set()
    for place in places:
        if place == STDOUT:
            continue
        real = place if "://" in place else _real(place)
        over = files.get(real) or _picture_in(real, files) or _picture_of(real, files)
        if over:
            raise InputError(
                f"{redacted(place)} would be written over the source {over}",
                "another place",
                "choose another name for the result",
            )
        if real in seen:
            raise InputError(f"two results would both go to {redacted(place)}", "a place for each")
        seen.add(real)


def _picture_in(folder: str, files: Mapping[str, str]) -> str | None:
    """A source picture in that folder: results there have the pictures' own names."""
    pictures = {Path(path): name for path, name in files.items() if is_image(Path(path))}
    return next((name for path, name in pictures.items() if str(path.parent) == folder), None)


def _picture_of(place: str, files: Mapping[str, str]) -> str | None:
    """The source folder whose picture that place is."""
    path = Path(place)
    return files.get(str(path.parent)) if is_image(path) and path.exists() else None


def _file_of(source: Address) -> str:
    if source.kind == "camera":
        return f"/dev/video{source.number}"
    return source.text if source.kind == "file" else ""


def _real(path: str) -> str:
    # As the file system has it: links and dots name the same file.
    return os.path.realpath(path)


def _for_one(place: str, count: int) -> InputError:
    return InputError(
        f"{count} sources for {place}, which takes one stream",
        "a place whose name can be numbered",
        "run each source by itself, or name a file, a folder or rtsp://host/name",
    )
