"""Writing so that nothing is lost: aside first, renamed when complete.

A reader of the final path sees the old content or the new, never half of it, whatever
interrupts us: before a rename, what it makes visible is on the disk, so that a power loss leaves
no empty file either. Operating-system errors become `OutputError` with a next step.
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
# The shortest that a common file system takes (eCryptfs); most take 255 bytes.
_NAME_BYTES = 143
# For more files one syncfs is faster than an fsync each: for 250, 4 ms instead of 40 (ext4).
_SYNCED_ONE_BY_ONE = 8
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
    advice = _ADVICE.get(error.errno or 0, "choose another place with --output")
    found = f"cannot write {path}: {error.strerror or error}"
    return OutputError(found, "a place that can be written", advice)


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
    stem, suffix = _short(path)
    return path.with_name(f".{stem}.{secrets.token_hex(4)}.{kind}{suffix}")


def _short(path: Path) -> tuple[str, str]:
    """Stem and ending for names beside `path`: its own, or a hash where nothing can be added."""
    if len(os.fsencode(path.name)) <= _NAME_BYTES - len("..01234567.partial"):
        return path.stem, path.suffix
    ending = path.suffix if len(os.fsencode(path.suffix)) <= 16 else ""
    return hashlib.sha256(os.fsencode(path.name)).hexdigest()[:32], ending


def _lock(path: Path) -> Path:
    return path.with_name(f".{''.join(_short(path))}.lock")


@contextmanager
def atomic_file(
    path: Path, *, keep_on_interrupt: bool = False, durable: bool = True
) -> Iterator[Path]:
    """Give a temporary path to write to; rename it to `path` when the block ends well.

    With `keep_on_interrupt` a KeyboardInterrupt keeps what was written (the writer has
    closed it properly by then) and is raised again; any other exception removes it.
    Without `durable` a power loss within the next seconds may leave an empty file.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _aside(path)
        try:
            yield temporary
            _put(temporary, path, durable)
        except KeyboardInterrupt:
            if keep_on_interrupt and temporary.exists():
                _put(temporary, path, durable)
            raise
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def _put(temporary: Path, path: Path, durable: bool) -> None:
    if durable:
        _sync(temporary)
    temporary.replace(path)


def _sync(path: Path) -> None:
    """Return when the file, or the folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):  # nothing to sync there
            raise
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Return when all that lies in `folder` is on the disk; OSError where it does not get there."""
    below = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    if len(below) > _SYNCED_ONE_BY_ONE and _sync_all(folder):
        return
    for path in (*below, *(path for path in folder.rglob("*") if path.is_dir()), folder):
        _sync(path)


def _sync_all(folder: Path) -> bool:
    """Linux's syncfs: the whole file system of `folder`; False where system or disk refuses."""
    call = getattr(ctypes.CDLL(None), "syncfs", None)
    handle = os.open(folder, os.O_RDONLY)
    try:
        return call is not None and bool(call(handle) == 0)
    finally:
        os.close(handle)


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
                sync_folder(temporary)
                _swap_folder(temporary, path, aside)
                with suppress(OSError):  # it is whole; only its new name might be lost
                    _sync(path.parent)
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
    if _left(path, "old") or _left(path, "partial") or _lock(path).exists():
        with writing(path), only_writer(path):
            _clear_leftovers(path, path)


@contextmanager
def only_writer(path: Path, aside: Path | None = None) -> Iterator[None]:
    """Hold the lock of the folder `path`; the system gives it back even of a killed process.

    The lock is a file beside `path`, or beside `aside` where that is given.
    """
    lock = _lock(aside or path)
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _take(handle, path)
            if _inode(lock) == os.fstat(handle).st_ino:
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
    with suppress(FileNotFoundError):
        return path.stat().st_ino
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
    stem, suffix = map(glob.escape, _short(path))
    pattern = f".{stem}.{'[0-9a-f]' * 8}.{kind}{suffix}"
    return sorted(path.parent.glob(pattern), key=lambda one: one.stat().st_mtime)


def _swap_folder(new: Path, path: Path, aside: Path) -> None:
    """Put `new` where `path` is, in one step where the system can exchange two names."""
    if not path.exists():
        new.rename(path)
    elif not _exchange(new, path):  # else the older one has the temporary name, and goes with it
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
    with suppress(RuntimeError):
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "segdeploy"
    return None


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically, not `durable`: the pictures of a run are written so."""
    with atomic_file(path, durable=False) as temporary:
        temporary.write_bytes(data)


def sha256_of_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
