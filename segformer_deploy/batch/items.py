"""What a batch is made of: the videos that a folder, a pattern, a list or a path names."""

from __future__ import annotations

import fnmatch
import glob
import hashlib
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from segformer_deploy.errors import InputError
from segformer_deploy.video.images import is_image, natural_key

VIDEO_ENDINGS = frozenset(
    f".{ending}"
    for group in (
        "mp4 m4v mov mkv webm avi mpg mpeg m2v vob ts mts m2ts wmv flv 3gp ogv mxf nut ivf y4m",
        "h264 264 avc h265 265 hevc mjpeg mjpg",
    )
    for ending in group.split()
)
"""Files of a folder that are taken where no pattern is given."""
LIST_ENDING = ".txt"


@dataclass(frozen=True)
class Item:
    """One video of a batch.

    Attributes:
        name: its path below the source, ``/`` between: also that of its results' folder.
        path: the absolute path.
    """

    name: str
    path: Path

    @property
    def key(self) -> str:
        """A name for one folder, which no other item has."""
        slug = re.sub(r"[^A-Za-z0-9_.-]+", "-", self.name)[-40:].lstrip(".-")
        digest = hashlib.sha256(os.fsencode(self.name)).hexdigest()[:12]
        return f"{slug}-{digest}"


@dataclass(frozen=True)
class Found:
    """The items of a source, in natural order of their names, and what was left out."""

    items: tuple[Item, ...]
    notes: tuple[str, ...] = ()


def find_items(
    source: str, *, output: Path, pattern: str | None = None, recursive: bool = False
) -> Found:
    """The videos that `source` names.

    Args:
        source: a folder; a pattern with ``*``, ``?`` or ``[``; a ``.txt`` file with a path per
            line (from its own folder; ``#`` begins a comment); or one video.
        output: where results go; nothing below it is taken.
        pattern: names of a folder's files to take, instead of those that end as videos do.
        recursive: folders in a folder too.

    Raises:
        InputError: nothing there, no video, or `output` is the source folder itself.
    """
    path = Path(source)
    if path.is_dir():
        return _in_folder(path, output, pattern, recursive)
    if pattern is not None or recursive:
        raise InputError(
            f"--pattern or --recursive for {source}, which is no folder", "a folder as --source"
        )
    if path.suffix.lower() == LIST_ENDING and path.is_file():
        return _in_list(path, output)
    if not os.path.lexists(path) and glob.has_magic(source):
        return _matching(source, output)
    if not os.path.lexists(path):
        raise InputError(
            f"no such file or folder: {source}",
            "a folder of videos, a pattern such as 'clips/*.mp4', a .txt list, or a video",
        )
    return _found(path.absolute().parent, [path], output)


def _in_folder(folder: Path, output: Path, pattern: str | None, recursive: bool) -> Found:
    if folder.resolve() == output.resolve():
        raise InputError(
            f"the output {output} is the source folder itself", "another folder", "--output out"
        )
    videos, pictures = [], 0
    for path in _files(folder, recursive):
        if pattern is not None:
            if fnmatch.fnmatch(path.name, pattern):
                videos.append(path)
        elif path.suffix.lower() in VIDEO_ENDINGS:
            videos.append(path)
        else:
            pictures += is_image(path)
    if not videos and pictures:
        raise InputError(
            f"{folder} holds {pictures} pictures and no video",
            "videos: a batch cuts films into chunks",
            f"segdeploy run --source {folder} --masks masks, which takes a folder of pictures",
        )
    if not videos:
        raise InputError(
            f"no videos in {folder}" + (f" that match {pattern}" if pattern else ""),
            "files ending in mp4, mkv, mov, avi …, or such as --pattern names",
            "" if recursive else "--recursive searches the folders in it too",
        )
    notes = [f"{pictures} pictures in {folder} are left out"] if pictures else []
    found = _found(folder.absolute(), videos, output)
    return Found(found.items, (*notes, *found.notes))


def _files(folder: Path, recursive: bool) -> Iterator[Path]:
    """All files, hidden ones and those in hidden folders left out; links are followed."""
    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True, onerror=_unreadable):
        real = os.path.realpath(place)
        if real in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if recursive and not name.startswith(".")]
        yield from (Path(place, name) for name in names if not name.startswith("."))


def _unreadable(error: OSError) -> None:
    raise InputError(
        f"cannot read {error.filename}: {error.strerror}", "folders that can be read"
    ) from error


def _in_list(path: Path, output: Path) -> Found:
    try:
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", "a list of paths") from error
    named = [line.strip() for line in lines]
    paths = [path.parent / name for name in named if name and not name.startswith("#")]
    if not paths:
        raise InputError(f"the list {path} names nothing", "a path per line")
    return _found(path.absolute().parent, paths, output)


def _matching(pattern: str, output: Path) -> Found:
    # A pattern may be absolute, which pathlib's own does not take.
    paths = [Path(one) for one in glob.glob(pattern, recursive=True)]  # noqa: PTH207
    paths = [path for path in paths if not path.is_dir()]
    if not paths:
        raise InputError(f"nothing matches {pattern}", "a pattern such as 'clips/*.mp4'")
    fixed = itertools.takewhile(lambda part: not glob.has_magic(part), Path(pattern).parts[:-1])
    return _found(Path(*fixed).absolute(), paths, output)


def _found(root: Path, paths: Iterable[Path], output: Path) -> Found:
    """Items named from `root` on; each file once, and none of our own results."""
    items: dict[str, Item] = {}
    own = output.absolute()
    left_out = 0
    for path in paths:
        path = Path(os.path.normpath(path.absolute()))
        if path.is_relative_to(own):
            left_out += 1
            continue
        inside = path.is_relative_to(root)
        # What lies elsewhere keeps its whole path, so that no two share a name.
        name = path.relative_to(root) if inside else path.relative_to(path.anchor)
        items.setdefault(name.as_posix(), Item(name.as_posix(), path))
    if not items:
        raise InputError(f"all videos lie in the output {output}", "videos outside it")
    ordered = sorted(items.values(), key=lambda item: natural_key(item.name))
    notes = [f"{left_out} videos below {output} are left out"] if left_out else []
    return Found(tuple(ordered), tuple(notes))
