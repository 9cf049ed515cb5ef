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
OUTSIDE = "outside"
"""The folder, in the output, of what a list names that does not lie below its own folder."""


@dataclass(frozen=True)
class Item:
    """One video of a batch.

    Attributes:
        name: its path below the source, ``/`` between: also that of its results' folder. What
            lies elsewhere has `OUTSIDE` and its whole path.
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
        InputError: nothing there, no video, `output` is the source folder itself, or two videos
            would have one name.
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
    real, own = _real(folder), _real(output)
    if real == own:
        raise InputError(
            f"the output {output} is the source folder itself", "another folder", "--output out"
        )
    if real.is_relative_to(own):
        raise _all_in(output)
    videos, pictures = [], 0
    for path in _files(folder, recursive, {str(own)}):
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
    if recursive and own.is_relative_to(real) and own.is_dir():
        notes.append(f"the output {output} lies in the source: what is in it is left out")
    found = _found(folder.absolute(), videos, output)
    return Found(found.items, (*notes, *found.notes))


def _files(folder: Path, recursive: bool, seen: set[str]) -> Iterator[Path]:
    """All files, hidden ones and those in hidden folders left out; links are followed.

    Folders whose real paths are in `seen` are not gone into.
    """
    for place, folders, names in os.walk(folder, followlinks=True, onerror=_unreadable):
        real = os.path.realpath(place)
        if real in seen:  # our own results, or a link that leads back
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
        lines = path.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
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
    root = _plain(root)
    items: dict[str, Item] = {}
    own = _real(output)
    left_out = 0
    for path in map(_plain, paths):
        in_its_folder = _real(path.parent) / path.name
        if in_its_folder.is_relative_to(own) or _real(path).is_relative_to(own):
            left_out += 1
            continue
        item = Item(_name(path, in_its_folder, root), path)
        other = items.setdefault(item.name, item)
        if _real(other.path) != _real(path):
            raise InputError(
                f"two videos, {other.path} and {path}, would both be called {item.name}",
                "a name for each in the output folder",
                "move one of them, or take it into a batch of its own",
            )
    if not items:
        raise _all_in(output)
    ordered = sorted(items.values(), key=lambda item: natural_key(item.name))
    notes = [f"{left_out} videos below {output} are left out"] if left_out else []
    return Found(tuple(ordered), tuple(notes))


def _name(path: Path, real: Path, root: Path) -> str:
    """Below the source, from there on; elsewhere, the whole path below a folder of its own."""
    for one, folder in ((path, root), (real, _real(root))):
        if one.is_relative_to(folder):
            return one.relative_to(folder).as_posix()
    return f"{OUTSIDE}/{path.relative_to(path.anchor).as_posix()}"


def _plain(path: Path) -> Path:
    """The absolute path without ``..``, as the system goes it: from a link's target upwards."""
    plain = Path("/")
    for part in path.absolute().parts[1:]:
        if part != "..":
            plain /= part
        else:
            plain = (_real(plain) if plain.is_symlink() else plain).parent
    return plain


def _real(path: Path) -> Path:
    """Without links; what is not there, and links in a circle, stay as they are."""
    return Path(os.path.realpath(path))


def _all_in(output: Path) -> InputError:
    return InputError(f"all videos lie in the output {output}", "videos outside it")
