"""Writing so that nothing is lost: aside first, renamed when complete.

A reader of the final path sees the old content or the new, never half of it, whatever
interrupts us. Operating-system errors become `OutputError` with a next step.
"""

from __future__ import annotations

import errno
import hashlib
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from segformer_deploy.errors import OutputError

_ADVICE = {
    errno.ENOSPC: "free some space on that disk, or choose another place with --output",
    errno.EDQUOT: "free some of your quota, or choose another place with --output",
    errno.EACCES: "choose a folder that you may write to with --output, or change its permissions",
    errno.EPERM: "choose a folder that you may write to with --output, or change its permissions",
    errno.EROFS: "the file system is read-only: choose another place with --output",
    errno.ENOTDIR: "a file stands where a folder is needed: choose another place with --output",
}


def output_error(path: Path, error: OSError) -> OutputError:
    """The `OutputError` that tells what stopped us from writing `path`."""
    reason = error.strerror or str(error)
    advice = _ADVICE.get(error.errno or 0, "choose another place with --output")
    return OutputError(f"cannot write {path}: {reason}", "a place that can be written", advice)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn operating-system errors inside the block into an `OutputError` naming `path`."""
    try:
        yield
    except OSError as error:
        raise output_error(path, error) from error


def _aside(path: Path) -> Path:
    path = path.absolute()  # "." and ".." have no name of their own
    # In the same folder, so that the rename never crosses a file system; the ending stays
    # last, because video and image writers choose their format by it.
    return path.with_name(f".{path.stem}.{secrets.token_hex(4)}.partial{path.suffix}")


@contextmanager
def atomic_file(path: Path, *, keep_on_interrupt: bool = False) -> Iterator[Path]:
    """Give a temporary path to write to; rename it to `path` when the block ends well.

    With `keep_on_interrupt` a KeyboardInterrupt keeps what was written (the writer has
    closed it properly by then) and is raised again; any other exception removes it.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _aside(path)
        try:
            yield temporary
            temporary.replace(path)
        except KeyboardInterrupt:
            if keep_on_interrupt and temporary.exists():
                temporary.replace(path)
            raise
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder to fill; swap it in for `path` when the block ends well.

    An older folder at `path` stays untouched until the new one is complete. Whether it may be
    replaced at all is the caller's to decide: everything in it goes.
    """
    path = path.absolute()
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _aside(path)
        temporary.mkdir()
        try:
            yield temporary
            _swap_folder(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _swap_folder(new: Path, path: Path) -> None:
    """Put `new` where `path` is; a folder cannot be replaced in one call while it is full."""
    old = _aside(path).with_suffix(".old")
    had_old = path.exists()
    if had_old:
        path.rename(old)
    try:
        new.rename(path)
    except OSError:
        if had_old:
            old.rename(path)
        raise
    if had_old:
        shutil.rmtree(old, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(data)


def sha256_of_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
