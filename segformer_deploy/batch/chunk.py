"""A chunk's own record: what a worker says of it, and the files it consists of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from segformer_deploy.errors import OutputError

META = "chunk.json"
_KEYS = frozenset({"frames", "corrupt", "notes", "class_shares", "files"})


def write_chunk(folder: Path, meta: dict[str, Any]) -> None:
    """Write the record of a chunk whose other files are all there."""
    text = json.dumps({**meta, "files": _sizes(folder)})
    (folder / META).write_text(text, encoding="utf-8")


def read_chunk(folder: Path) -> dict[str, Any]:
    """The record of a finished chunk.

    Raises:
        OutputError: it does not read, or the chunk's files are not those that were written, by
            name and length.
    """
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        if not isinstance(meta, dict) or not meta.keys() >= _KEYS:
            raise ValueError(f"{META} is not whole")
        told, found = meta["files"], _sizes(folder)
        if told != found:
            raise ValueError(_differing(told, found))
    except (OSError, ValueError) as error:
        raise OutputError(
            f"the finished chunk {folder} cannot be read: {error}",
            "chunks that nobody touches while the batch runs",
            "the same command makes it again",
        ) from error
    return meta


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of each file below `folder` by its name from there, without the record itself."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / META
    }


def _differing(told: Any, found: dict[str, int]) -> str:
    if not isinstance(told, dict):
        return f"{META} is not whole"
    for name in {**told, **found}:
        if told.get(name) != found.get(name):
            return f"{name} has {found.get(name, 'no')} bytes, not {told.get(name, 'any')}"
    return f"{META} names other files"
