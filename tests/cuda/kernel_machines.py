"""Two machines that run our kernels without a GPU, behind one protocol.

`HostBuild` runs the same sources as C++, `InterpretedPtx` what NVRTC made of them.
"""

from __future__ import annotations

import ctypes
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from segformer_deploy.cuda.compile import KERNELS
from tests.cuda.ptx import Program
from tests.cuda.ptx_memory import Memory
from tests.cuda.ptx_text import kernels_of

Array = Any
Grid = tuple[int, int, int]

_HOST = """
#include "kernels.cu"
thread_local HostIndex host_block;
thread_local int host_threads;
extern "C" void run(void (*kernel)(const void *), const void *job, int columns, int rows,
                    int layers, int threads) {
    host_threads = threads;
    for (host_block.z = 0; host_block.z < layers; host_block.z++)
        for (host_block.y = 0; host_block.y < rows; host_block.y++)
            for (host_block.x = 0; host_block.x < columns; host_block.x++) kernel(job);
}
"""


class Arrays(Protocol):
    """The arrays of one launch."""

    def give(self, data: Array, name: str) -> int:
        """The address of an array that is read."""

    def take(self, data: Array, name: str) -> int:
        """The address of an array that is filled."""


class Machine(Protocol):
    name: str

    def arrays(self) -> Any:
        """A context that gives `Arrays`; what was taken is filled when it ends."""

    def launch(self, kernel: str, job: ctypes.Structure, grid: Grid, threads: int) -> None: ...


class _HostArrays:
    def __init__(self) -> None:
        self._held: list[Array] = []

    def give(self, data: Array, name: str) -> int:
        self._held.append(data)  # as long as its address is used
        return int(data.ctypes.data)

    def take(self, data: Array, name: str) -> int:
        return self.give(data, name)


class HostBuild:
    """The kernels as C++, one block after the other."""

    name = "C++"

    def __init__(self, folder: Path, compiler: str, *flags: str) -> None:
        source, library = folder / "host.cpp", folder / "host.so"
        source.write_text(_HOST)
        command = [compiler, "-std=c++17", "-O2", "-ffp-contract=off", "-shared", "-fPIC"]
        warnings = ["-Wall", "-Wextra", "-Werror"]
        places = [f"-I{KERNELS}", str(source), "-o", str(library)]
        subprocess.run([*command, *warnings, *flags, *places], check=True)
        self._library = ctypes.CDLL(str(library))

    @contextmanager
    def arrays(self) -> Iterator[Arrays]:
        yield _HostArrays()

    def launch(self, kernel: str, job: ctypes.Structure, grid: Grid, threads: int) -> None:
        function = getattr(self._library, f"{kernel}_host")
        self._library.run(function, ctypes.byref(job), *grid, threads)


class InterpretedPtx:
    """The kernels as NVRTC compiled them; `edit` changes the text first, and must."""

    def __init__(
        self, ptx: str, name: str = "PTX", edit: Callable[[str], str] | None = None
    ) -> None:
        self.name = name
        text = edit(ptx) if edit else ptx
        assert edit is None or text != ptx
        self._programs = {name: Program(kernel) for name, kernel in kernels_of(text).items()}
        self._memory = Memory()

    @property
    def loads(self) -> Counter[str]:
        """Elements that the last launch's threads read, by array."""
        return self._memory.loads

    @contextmanager
    def arrays(self) -> Iterator[Arrays]:
        self._memory = Memory()  # `loads` counts from here
        yield self._memory
        self._memory.close()

    def launch(self, kernel: str, job: ctypes.Structure, grid: Grid, threads: int) -> None:
        self._programs[kernel].run(grid, threads, bytes(job), self._memory)
