"""A hard memory limit for one child process: a control group of its own, made and removed.

::

    with memory_group(128 << 20) as group:       # Group, or NoGroup with the reason
        child = Popen(group.command([...]))       # the child joins before it is Python
        child.wait()
    group.oom_kills                               # the kernel's own count, not a guess

The group is made **under the group this process is in**, so that every limit above it still
holds. Version 2 of control groups lets only groups without processes hand a controller down, so
there it is made further up; never past a group with a limit, for that would be an escape.
Swap is off in the group (version 2:
``memory.swap.max`` 0; version 1: ``memory.memsw.limit_in_bytes`` at the same limit).

What counts against such a limit: pages the child touched first, of its own and of files. Pages
of libraries that others have read before are charged to them, and clean pages of files can be
dropped and read again, so a process survives limits below its resident peak, if slowly.
Source: Documentation/admin-guide/cgroup-v1/memory.rst and cgroup-v2.rst of Linux.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from segformer_deploy.errors import InputError

ROOT = Path("/")
MIB = 1 << 20
_UNITS = {"": 1, "K": 1 << 10, "M": MIB, "G": 1 << 30}
_NAME = re.compile(r"segdeploy-(\d+)-[0-9a-f]{8}")
_REMOVAL_SECONDS = 5.0
# Version 1 writes "no limit" as the largest multiple of the page size below 2^63.
_NO_LIMIT = 1 << 60
_JOIN = 'echo $$ > "$0" && exec "$@"'
"""The shell joins and then becomes the child: what is charged before a move stays where it was."""


def bytes_from_text(text: str) -> int:
    """``128M``, ``1.5G``, ``262144K`` or plain bytes; units are powers of 1024.

    Raises InputError.
    """
    found = re.fullmatch(r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*([KMG]?)(?:i?B)?\s*", text, re.IGNORECASE)
    size = int(float(found[1]) * _UNITS[found[2].upper()]) if found else 0
    if size < 1:
        raise InputError(f"a memory size of '{text}'", "a size such as 128M or 1.5G")
    return size


@dataclass(frozen=True)
class NoGroup:
    """No limit can be enforced here; `why` tells what stood in the way."""

    why: str

    def command(self, words: Sequence[str]) -> list[str]:
        """The child's command line, as it is."""
        return list(words)


@dataclass(frozen=True)
class Group:
    """A control group with a hard limit.

    Attributes:
        version: 1 or 2.
        limit: in bytes, as asked for.
        notes: what is not as it should be, such as swap that cannot be switched off.
    """

    folder: Path
    version: int
    limit: int
    notes: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether the kernel has the limit still: asked at the end, before it is called enforced.

        Version 2 drops the limits below a group that stops handing the controller down.
        """
        text = _read(self.folder / _limit_file(self.version)).strip()
        # The kernel rounds down to whole pages.
        return text.isdigit() and int(text) <= self.limit

    def command(self, words: Sequence[str]) -> list[str]:
        """A command line that joins the group and then becomes `words`."""
        return ["/bin/sh", "-c", _JOIN, str(self.folder / "cgroup.procs"), *words]

    @property
    def oom_kills(self) -> int | None:
        """Processes of the group that the kernel killed for the limit; None where it hides it."""
        file = "memory.events" if self.version == 2 else "memory.oom_control"
        for line in _read(self.folder / file).splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill" and value.strip().isdigit():
                return int(value)
        return None

    @property
    def peak_bytes(self) -> int | None:
        """The most that was charged to the group; None before Linux 5.19 with version 2."""
        file = "memory.peak" if self.version == 2 else "memory.max_usage_in_bytes"
        text = _read(self.folder / file).strip()
        return int(text) if text.isdigit() else None


@contextmanager
def memory_group(
    limit: int,
    root: Path = ROOT,
    make: Callable[[Path], None] = Path.mkdir,
    remove: Callable[[Path], None] = Path.rmdir,
) -> Iterator[Group | NoGroup]:
    """A group limited to `limit` bytes, removed at the end with whatever still runs in it.

    Args:
        root: the file system's, another one in tests.
        make, remove: a group's folder; the kernel fills it when it is made.
    """
    group, undo = _made(limit, root, make, remove)
    try:
        yield group
    finally:
        if isinstance(group, Group):
            _empty_and_remove(group.folder, remove)
        undo()


def _made(
    limit: int, root: Path, make: Callable[[Path], None], remove: Callable[[Path], None]
) -> tuple[Group | NoGroup, Callable[[], None]]:
    reasons = []
    for version, parent in places(root):
        _clear_leftovers(parent, remove)
        folder = parent / f"segdeploy-{os.getpid()}-{secrets.token_hex(4)}"
        undo = _nothing
        try:
            make(folder)
        except OSError as error:
            reasons.append(f"{parent}: {error.strerror or error}")
            continue
        try:
            if version == 2 and not (folder / "memory.max").exists():
                undo = _hand_down(parent)
            return Group(folder, version, limit, _set_limit(folder, version, limit)), undo
        except OSError as error:
            with suppress(OSError):
                remove(folder)
            undo()
            reasons.append(f"{error.filename or parent}: {error.strerror or error}")
        except BaseException:
            _empty_and_remove(folder, remove)
            raise
    return NoGroup("; ".join(reasons) or _no_place(root)), _nothing


def _nothing() -> None:
    """Nothing to undo."""


def _no_place(root: Path) -> str:
    if not (root / "sys/fs/cgroup").is_dir():
        return "there are no control groups under /sys/fs/cgroup"
    return "no control group with a memory controller is open to this process"


def places(root: Path = ROOT) -> list[tuple[int, Path]]:
    """(version, folder) in which a group may be made, best first; whether it can is tried."""
    found = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            for mount in (root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified"):
                if "memory" in _read(mount / "cgroup.controllers").split():
                    found += [(2, place) for place in _own_then_up(mount, path, "memory.max")]
        elif "memory" in controllers.split(","):
            mount = root / "sys/fs/cgroup/memory"
            if mount.is_dir():
                # Groups of version 1 may have both processes and children: no need to go up.
                found.append((1, _own_then_up(mount, path, "memory.limit_in_bytes")[0]))
    return found


def _own_then_up(mount: Path, path: str, limit_file: str) -> list[Path]:
    """This process's group and those above it, as far up as no limit of its own is left."""
    folder = mount / path.lstrip("/")
    # A container may see the host's path and have only its own part mounted.
    if not folder.is_dir():
        return [mount]
    found = [folder]
    while folder != mount and not _limit_in(folder / limit_file):
        folder = folder.parent
        found.append(folder)
    return found


def _limit_in(file: Path) -> bool:
    text = _read(file).strip()
    return text.isdigit() and int(text) < _NO_LIMIT


def _hand_down(parent: Path) -> Callable[[], None]:
    control = parent / "cgroup.subtree_control"
    control.write_text("+memory")

    def undo() -> None:
        # Another run's group may stand here by now: without the controller it had no limit.
        with suppress(OSError):
            if not any(_NAME.fullmatch(one.name) for one in parent.iterdir()):
                control.write_text("-memory")

    return undo


def _set_limit(folder: Path, version: int, limit: int) -> tuple[str, ...]:
    """Write the limit; OSError where it does not hold."""
    _write(folder / _limit_file(version), str(limit))
    swap = folder / ("memory.swap.max" if version == 2 else "memory.memsw.limit_in_bytes")
    try:
        _write(swap, "0" if version == 2 else str(limit))
    except OSError:
        return ("the kernel counts no swap here: pages that were swapped out escape the limit",)
    return ()


def _limit_file(version: int) -> str:
    return "memory.max" if version == 2 else "memory.limit_in_bytes"


def _write(file: Path, text: str) -> None:
    # Never creates: a file that is not there means that the kernel has no such knob.
    with file.open("r+", encoding="ascii") as knob:
        knob.write(text)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _empty_and_remove(folder: Path, remove: Callable[[Path], None]) -> None:
    """Kill what is left in the group and remove it; the kernel may need a moment for both."""
    until = time.monotonic() + _REMOVAL_SECONDS
    while True:
        for text in _read(folder / "cgroup.procs").split():
            # 0 is a process of another namespace, and as a target our own process group.
            if text.isdigit() and int(text) not in (0, os.getpid()):
                with suppress(OSError):
                    os.kill(int(text), signal.SIGKILL)
        try:
            remove(folder)
            return
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > until:
                return  # the next group made here clears it away
            time.sleep(0.02)


def _clear_leftovers(parent: Path, remove: Callable[[Path], None]) -> None:
    """Remove groups of processes that were killed before they could."""
    with suppress(OSError):
        for folder in parent.iterdir():
            found = _NAME.fullmatch(folder.name)
            if found and not Path(f"/proc/{found[1]}").exists():
                with suppress(OSError):
                    remove(folder)
