"""Writing so that nothing is lost: aside first, renamed when complete.

A reader of the final path sees the old content or the new, never half of it, whatever
interrupts us. Operating-system errors become `OutputError` with a next step.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import glob
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from segformer_deploy.errors import OutputError

# linux/fcntl.h and linux/fs.h: AT_FDCWD and RENAME_EXCHANGE.
_HERE, _EXCHANGE = -100, 2
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


def _aside(path: Path, kind: str = "partial") -> Path:
    path = path.absolute()  # "." and ".." have no name of their own
    # In the same folder, so that the rename never crosses a file system; the ending stays
    # last, because video and image writers choose their format by it.
    return path.with_name(f".{path.stem}.{secrets.token_hex(4)}.{kind}{path.suffix}")


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
def atomic_folder(path: Path, aside: Path | None = None) -> Iterator[Path]:
    """Give a temporary folder to fill; swap it in for `path` when the block ends well.

    An older folder at `path` stays untouched until the new one is complete. Whether it may be
    replaced at all is the caller's to decide: everything in it goes. What a killed process left
    behind is cleared away first; a second process that wants the same folder is refused.

    With `aside`, a path on the same file system, what is unfinished lies beside that instead.
    """
    path = Path(os.path.realpath(path))  # a link stays one: what it leads to is replaced
    aside = path if aside is None else aside.absolute()
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with only_writer(path, aside):
            _clear_leftovers(path, aside)
            temporary = _aside(aside)
            temporary.mkdir()
            try:
                yield temporary
                _swap_folder(temporary, path, aside)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)


def recover_folder(path: Path) -> None:
    """Bring back a folder that a build had moved aside when it was killed between two renames.

    Only where the system cannot exchange two names at once is there such a moment.
    """
    path = Path(os.path.realpath(path))
    if path.exists() or not _left(path, "old"):
        return
    with writing(path), only_writer(path):
        _clear_leftovers(path, path)


def clear_leftovers(path: Path) -> None:
    """Remove what killed builds of the folder `path` left beside it."""
    path = Path(os.path.realpath(path))
    lock = path.with_name(f".{path.name}.lock")
    if _left(path, "old") or _left(path, "partial") or lock.exists():
        with writing(path), only_writer(path):
            _clear_leftovers(path, path)


@contextmanager
def only_writer(path: Path, aside: Path | None = None) -> Iterator[None]:
    """Hold the lock of the folder `path`; the system gives it back even of a killed process.

    The lock is a file beside `path`, or beside `aside` where that is given.
    """
    aside = aside or path
    lock = aside.with_name(f".{aside.name}.lock")
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _take(handle, path)
            held = os.fstat(handle).st_ino
            if _inode(lock) == held:
                break
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # its last holder removed it between our two calls
    try:
        os.ftruncate(handle, 0)
        os.write(handle, str(os.getpid()).encode())
        yield
    finally:
        with suppress(OSError):
            lock.unlink()
        os.close(handle)


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def _take(handle: int, path: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(handle, 32, 0).decode(errors="replace") or "unknown"
        raise OutputError(
            f"{path} is being built by another process (number {owner})",
            "one build of a folder at a time",
            "wait for it to end, or choose another folder with --output",
        ) from None
    except OSError as error:
        # A file system without locks: the rename at the end is whole all the same.
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise


def _clear_leftovers(path: Path, aside: Path) -> None:
    """Remove what a killed build of `path` left; bring back a folder that it had moved away."""
    old, unfinished = _left(aside, "old"), _left(aside, "partial")
    if old and not path.exists():
        old.pop().rename(path)
    for left in (*old, *unfinished):
        shutil.rmtree(left, ignore_errors=True)


def _left(path: Path, kind: str) -> list[Path]:
    """Earlier results of `_aside`, oldest first."""
    pattern = f".{glob.escape(path.stem)}.{'[0-9a-f]' * 8}.{kind}{glob.escape(path.suffix)}"
    return sorted(path.parent.glob(pattern), key=lambda one: one.stat().st_mtime)


def _swap_folder(new: Path, path: Path, aside: Path) -> None:
    """Put `new` where `path` is, in one step where the system can exchange two names."""
    if not path.exists():
        new.rename(path)
        return
    if _exchange(new, path):
        return  # the older one now has the temporary name, and goes with it
    old = _aside(aside, "old")
    path.rename(old)
    try:
        new.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Linux's renameat2 with RENAME_EXCHANGE; False where system or file system lacks it."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    return bool(call(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0)


def user_cache() -> Path | None:
    """This user's folder for what can be made again; None where there is no home to keep it in."""
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None
    return root / "segdeploy"


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
