"""A copy of this Python, with the packages a run needs, whose pages nobody else has read.

A control group is charged for the pages that its processes are the first to touch. Python and
the libraries of an ordinary child have been read before, by the parent at least: they are
charged elsewhere, or to nobody, and the child looks smaller than it is. The files of a copy
are dropped from the page cache before each run, so its first reader, the child, is charged for
every page of them. The dynamic linker of the system is no part of a copy.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

_NOT_COPIED = ("site-packages", "test", "tests", "idlelib", "tkinter", "ensurepip", "config-*")


@dataclass(frozen=True)
class FreshCopy:
    """A Python under `folder`, which lies on a disk, not in memory.

    Attributes:
        python: its interpreter.
        environment: of a process that is to run it.
    """

    folder: Path
    python: Path
    environment: dict[str, str]

    def evict(self, *others: Path) -> None:
        """Drop the pages of the copy's files, and of `others`, from the page cache.

        Pages that a running process has mapped stay.
        """
        for file in (*self.folder.rglob("*"), *others):
            if file.is_file():
                descriptor = os.open(file, os.O_RDONLY)
                try:
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                finally:
                    os.close(descriptor)

    def sync(self) -> None:
        """Write the files out: pages that the disk does not have yet cannot be dropped."""
        for file in self.folder.rglob("*"):
            if file.is_file():
                descriptor = os.open(file, os.O_RDONLY)
                os.fsync(descriptor)
                os.close(descriptor)


def copy_python(folder: Path, packages: Sequence[str], libraries: Sequence[Path]) -> FreshCopy:
    """Copy this interpreter, its standard library, `packages` and shared `libraries`.

    Args:
        packages: names to import; a folder beside one, such as ``numpy.libs``, goes along.
        libraries: files that the process maps from elsewhere, found before its own.
    """
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    library = folder / "lib" / name
    ignore = shutil.ignore_patterns(*_NOT_COPIED)
    shutil.copytree(sysconfig.get_path("stdlib"), library, ignore=ignore)
    python = folder / "bin" / name
    python.parent.mkdir()
    shutil.copy2(Path(sys.executable).resolve(), python)
    site = library / "site-packages"
    for package in packages:
        _copy_package(package, site)
    for file in libraries:
        # Found by the name of a link to it: libz.so.1 is libz.so.1.2.13.
        for link in file.parent.glob(file.name.partition(".so")[0] + ".so*"):
            if link.resolve() == file.resolve():
                shutil.copy2(file, folder / "lib" / link.name)
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "LD_LIBRARY_PATH": str(folder / "lib"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    copy = FreshCopy(folder, python, environment)
    copy.sync()
    return copy


def _copy_package(name: str, site: Path) -> None:
    spec = find_spec(name)
    if spec is None:
        raise ModuleNotFoundError(name)
    # An editable install has its sources in one place and what is compiled in another.
    for place in map(Path, [*(spec.submodule_search_locations or ())]):
        ignore = shutil.ignore_patterns("tests")
        shutil.copytree(place, site / name, dirs_exist_ok=True, ignore=ignore)
        beside = place.parent / f"{name}.libs"
        if beside.is_dir():
            shutil.copytree(beside, site / beside.name, dirs_exist_ok=True)
