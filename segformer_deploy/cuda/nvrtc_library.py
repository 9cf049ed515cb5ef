"""Where NVRTC lies: in a wheel of NVIDIA's, in a CUDA toolkit, or among the system's libraries.

pip's wheels put it where the dynamic linker does not look, JetPack under /usr/local/cuda.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from segformer_deploy.errors import BackendError, MissingDependencyError

Version = tuple[int, int]

VARIABLE = "SEGDEPLOY_NVRTC"
"""A library's file, or a folder to look into before all others."""
_WHEELS = ("nvidia/*/lib/libnvrtc.so.*", "nvidia/*/lib/libnvrtc.so")
_TOOLKITS = (
    "usr/local/cuda*/lib64/libnvrtc.so.*",
    "usr/local/cuda*/targets/*/lib/libnvrtc.so.*",
    "usr/lib/*-linux-gnu/libnvrtc.so.*",
)
_SYSTEM = ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11.2", "libnvrtc.so")


def load_nvrtc(path: Path | None = None) -> tuple[ctypes.CDLL, str]:
    """The library, loaded, and where it was found.

    Raises MissingDependencyError where there is none, BackendError where `path` does not load.
    """
    if path is not None:
        try:
            return _loaded(path), str(path)
        except OSError as error:
            raise BackendError(
                f"NVRTC does not load: {error}",
                "NVIDIA's run-time compiler for this machine's processor",
                "pip install nvidia-cuda-nvrtc, or nvidia-cuda-nvrtc-cu12 under CUDA 12",
            ) from error
    for candidate in find_nvrtc():
        try:
            return _loaded(candidate), str(candidate)
        except OSError:
            continue  # of another processor, or a broken link: the next one may do
    for name in _SYSTEM:
        try:
            return ctypes.CDLL(name), name
        except OSError:
            continue
    raise _missing()


def _missing() -> MissingDependencyError:
    missing = MissingDependencyError("nvidia-cuda-nvrtc", "cuda", "compiling kernels for this GPU")
    missing.found = "NVRTC, NVIDIA's run-time compiler, is not found"
    missing.next_step = (
        "pip install nvidia-cuda-nvrtc-cu12 (CUDA 12) or nvidia-cuda-nvrtc (CUDA 13); "
        f"or name the library with {VARIABLE}"
    )
    return missing


def find_nvrtc(root: Path = Path("/")) -> list[Path]:
    """Libraries here, the newest major release first; what the variable names before all."""
    named = os.environ.get(VARIABLE)
    chosen = list(libraries_under(Path(named))) if named else []
    wheels = {path for folder in sys.path for path in _glob(Path(folder or "."), *_WHEELS)}
    others = wheels | set(_glob(root, *_TOOLKITS))
    return [*chosen, *sorted(others - set(chosen), key=_newest_first)]


def libraries_under(place: Path) -> Iterator[Path]:
    """`place` itself where it is a file; in a folder, the newest first."""
    if place.is_file():
        yield place
    elif place.is_dir():
        yield from sorted(_glob(place, "libnvrtc.so*", *_WHEELS), key=_newest_first)


def _glob(folder: Path, *patterns: str) -> Iterator[Path]:
    for pattern in patterns:
        for path in folder.glob(pattern):
            if "alt" not in path.name and path.is_file():
                yield path


def _newest_first(path: Path) -> tuple[list[int], str]:
    numbers = re.findall(r"\d+", path.name.partition(".so")[2])
    return [-int(number) for number in numbers], str(path)


def _loaded(path: Path) -> ctypes.CDLL:
    # NVRTC opens its builtins by name alone, and the linker does not look beside it. Loaded
    # already, they are found by that name.
    for builtins in path.parent.glob("libnvrtc-builtins.so.*"):
        ctypes.CDLL(str(builtins))
    return ctypes.CDLL(str(path))
