"""The host-memory CUDA driver of this folder: built, loaded into this process, and steered.

::

    host.capacity = 1000                bytes of device memory
    host.schedule = "early"             "late" (at first), "early", or a seed: see machine.h
    host.fail("cuMemAlloc", code=2)     the next such call; skip=3 lets three go well before
    host.fail(skip=7)                   the eighth call from now, whichever
    host.lose()                         every call fails from now on
    host.held, host.leaked, host.calls  what it counts; `QUESTIONS` names the rest
    host.faults                         what a real GPU would have crashed on, or worse
    host.view(address, size)            device memory, as an array
    host.enqueue(handle, call)          work of another library on a stream
    host.kernels()                      the package's kernels as Python functions
    host.assert_nothing_left()          everything went back, and nothing was wrong
"""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent
KERNELS = Path(__file__).parents[3] / "segformer_deploy" / "cuda" / "kernels"
COMPILER = shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")
# No contraction: a fused multiply-add rounds otherwise than the package's kernels promise.
FLAGS = (
    *("-std=c++17", "-shared", "-fPIC", "-O2", "-ffp-contract=off", "-fvisibility=hidden"),
    *("-Wall", "-Wextra", "-Werror", "-Wno-unused-function", "-pthread"),
)
QUESTIONS = (
    *("held", "host_held", "blocks", "peak", "retained", "streams", "events", "modules"),
    *("graphs", "launches", "bad_frees", "leaked", "pending"),
)
_SETTINGS = ("capacity", "devices", "version", "major", "minor", "integrated")
_WORK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)


def build(cache: Path) -> Path:
    """The library's path; compiled where `cache` does not hold that of these sources."""
    assert COMPILER is not None
    sources = sorted(FOLDER.glob("*.cpp"))
    inputs = [*sources, *sorted(FOLDER.glob("*.*h")), *sorted(KERNELS.iterdir())]
    digest = hashlib.sha256("\0".join(FLAGS).encode())
    for path in inputs:
        if path.is_file():
            digest.update(path.read_bytes())
    target = cache / f"{digest.hexdigest()[:24]}.so"
    if not target.exists():
        part = target.with_suffix(".part")
        command = [COMPILER, *FLAGS, f"-I{FOLDER}", f"-I{KERNELS}", *map(str, sources)]
        subprocess.run([*command, "-Wl,-soname,libcuda.so.1", "-o", str(part)], check=True)
        part.replace(target)
    return target


class HostCuda:
    """See the top of this file."""

    held: int
    host_held: int
    blocks: int
    peak: int
    retained: int
    streams: int
    events: int
    modules: int
    graphs: int
    launches: int
    bad_frees: int
    leaked: int
    pending: int

    def __init__(self, path: Path) -> None:
        self.path = path
        self.library = library = ctypes.CDLL(str(path))
        library.host_cuda_call.restype = library.host_cuda_fault.restype = ctypes.c_char_p
        for name in ("get", "count", "kernel_bytes"):
            getattr(library, f"host_cuda_{name}").restype = ctypes.c_long
        self._kept: list[Any] = []
        self.errors: list[BaseException] = []
        self.reset(0)

    def __getattr__(self, name: str) -> int:
        if name not in QUESTIONS:
            raise AttributeError(name)
        return int(self.library.host_cuda_get(name.encode()))

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _SETTINGS:
            assert self.library.host_cuda_set(name.encode(), ctypes.c_long(value))
        elif name == "schedule":
            word, seed = (value, 0) if isinstance(value, str) else ("random", value)
            assert self.library.host_cuda_set(word.encode(), ctypes.c_long(seed))
        else:
            super().__setattr__(name, value)

    def reset(self, devices: int = 1) -> None:
        """As at first, with so many GPUs; what was open is gone."""
        self.library.host_cuda_reset(ctypes.c_long(devices))
        self._kept.clear()
        self.errors.clear()

    def fail(self, name: str = "", *, skip: int = 0, code: int = 999, once: bool = True) -> None:
        self.library.host_cuda_fail(name.encode(), ctypes.c_long(skip), code, once)

    def lose(self, code: int = 719) -> None:
        self.library.host_cuda_set(b"lost", ctypes.c_long(code))

    def mend(self) -> None:
        """No call fails any more for a test's sake."""
        self.library.host_cuda_mend()

    def count(self, name: str) -> int:
        """How often a call was made."""
        return int(self.library.host_cuda_count(name.encode()))

    @property
    def calls(self) -> list[str]:
        """The names of all calls, in their order."""
        count = self.library.host_cuda_get(b"calls")
        return [self.library.host_cuda_call(ctypes.c_long(i)).decode() for i in range(count)]

    @property
    def faults(self) -> list[str]:
        count = self.library.host_cuda_get(b"faults")
        return [self.library.host_cuda_fault(ctypes.c_long(i)).decode() for i in range(count)]

    def is_device(self, address: int, size: int) -> bool:
        return bool(self.library.host_cuda_is_device(_word(address), _word(size)))

    def is_pinned(self, address: int, size: int) -> bool:
        return bool(self.library.host_cuda_is_pinned(_word(address), _word(size)))

    def view(self, address: int, size: int) -> Any:
        """The bytes at a device address; AssertionError where they are no device memory."""
        if not self.is_device(address, size):
            raise AssertionError(f"{size} bytes at {address:#x} are no device memory")
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def capturing(self, handle: int) -> bool:
        """Whether what is queued on this stream becomes a graph."""
        answer = int(self.library.host_cuda_capturing(_word(handle)))
        assert answer >= 0, f"{handle:#x} is the handle of no open stream"
        return answer == 1

    def enqueue(self, handle: int, work: Callable[[], None]) -> None:
        """Queue `work` on a stream; its exception is kept in `errors`, the stream fails."""

        def guarded(_: Any) -> int:
            try:
                work()
            except BaseException as error:
                self.errors.append(error)
                return 1
            return 0

        callback = _WORK(guarded)
        self._kept.append(callback)
        result = self.library.host_cuda_enqueue(_word(handle), callback, None)
        assert result == 0, f"work on stream {handle:#x}: CUresult {result}"

    def kernel_bytes(self, name: str) -> int:
        """Of the struct that a kernel takes; -1 where there is no such kernel."""
        return int(self.library.host_cuda_kernel_bytes(name.encode()))

    def run(self, name: str, job: Any, grid: tuple[int, int, int], threads: int) -> None:
        """A kernel, now, on whatever memory its struct names."""
        assert ctypes.sizeof(job) == self.kernel_bytes(name), f"{name} takes another struct"
        sizes = (ctypes.c_uint * 3)(*grid)
        assert self.library.host_cuda_run(name.encode(), ctypes.byref(job), sizes, threads) == 0

    def kernels(self, *names: str) -> dict[str, Callable[..., None]]:
        """For `FakeDriver.functions`."""

        def kernel(name: str, grid: Any, block: Any, arguments: Any) -> None:
            (job,) = arguments
            self.run(name, job, grid, block[0] * block[1] * block[2])

        return {name: partial(kernel, name) for name in names}

    def assert_nothing_left(self) -> None:
        left = {name: getattr(self, name) for name in QUESTIONS if name not in ("peak", "launches")}
        assert not any(left.values()), left
        assert self.faults == []


def _word(value: int) -> ctypes.c_size_t:
    return ctypes.c_size_t(value)
