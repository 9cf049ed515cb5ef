"""The package's own GPU kernels, compiled by NVRTC: CUDA C in, a cubin or PTX out.

NVRTC is a library that needs neither a GPU nor a toolkit, called here through ctypes. Releases
carry what it made (`compiled`), so that a device needs no compiler; this is how that was made,
and what `modules` falls back on where a driver takes nothing that was shipped.
"""

from __future__ import annotations

import ctypes
import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from segformer_deploy.cuda.nvrtc_library import Version, load_nvrtc
from segformer_deploy.errors import BackendError

Kind = Literal["cubin", "ptx"]

KERNELS = Path(__file__).with_name("kernels")
MAIN = "kernels.cu"
OPTIONS = (
    # A fused multiply-add rounds once where a CPU rounds twice: the masks would differ.
    "--fmad=false",
    "--ftz=false",
    "--prec-div=true",
    "--prec-sqrt=true",
    "--std=c++17",
)
_SUCCESS = 0
_UNKNOWN_OPTION = 5  # NVRTC_ERROR_INVALID_OPTION: also for an architecture that it does not know
_SUMMARY = re.compile(
    r"Compiling entry function '(?P<name>\w+)'"
    r".*?(?P<stack>\d+) bytes stack frame, (?P<spill_stores>\d+) bytes spill stores, "
    r"(?P<spill_loads>\d+) bytes spill loads"
    r".*?Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)
_SHARED = re.compile(r"(\d+) bytes smem")
_BUILD = re.compile(rb"Cuda compilation tools, release [\d.]+, V([\d.]+)")


@dataclass(frozen=True)
class KernelUse:
    """What one kernel takes of a multiprocessor, as ptxas says.

    Attributes:
        registers: per thread.
        shared: bytes per block.
        stack, spill_stores, spill_loads: bytes per thread in local memory; 0 is what we want.
    """

    registers: int
    shared: int
    stack: int
    spill_stores: int
    spill_loads: int

    def to_dict(self) -> dict[str, int]:
        return asdict(self)


@dataclass(frozen=True)
class Compiled:
    """One image of all kernels.

    Attributes:
        architecture: as NVRTC calls it: "sm_87" of a cubin, "compute_75" of PTX.
        compiler: NVRTC's full version, such as "12.6.85".
        kernels: by name; empty for PTX, whose registers the driver gives out.
    """

    data: bytes
    kind: Kind
    architecture: str
    compiler: str
    kernels: Mapping[str, KernelUse]


def sources() -> dict[str, str]:
    """File name -> text of kernels.cu and its headers, in the order of their names."""
    return {path.name: path.read_text("utf-8") for path in sorted(KERNELS.glob("*.[ch]u*"))} | {
        path.name: path.read_text("utf-8") for path in sorted(KERNELS.glob("*.h"))
    }


def sources_hash() -> str:
    """SHA-256 over the sources and the options that decide what they mean."""
    digest = hashlib.sha256("\0".join(OPTIONS).encode())
    for name, text in sorted(sources().items()):
        digest.update(f"\0{name}\0{text}".encode())
    return digest.hexdigest()


class Nvrtc:
    """NVRTC, opened.

    Args:
        library: the library's file; None takes the newest that is found here.

    Raises MissingDependencyError where there is none, BackendError where it does not load.
    """

    def __init__(self, library: Path | None = None) -> None:
        self._library, self.path = load_nvrtc(library)
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        self.version: Version = (major.value, minor.value)

    def compile(
        self, architecture: str, kind: Kind = "cubin", files: Mapping[str, str] | None = None
    ) -> Compiled:
        """All kernels for one architecture ("sm_87"; "compute_75" for PTX alone).

        Args:
            files: other sources than the package's, by name, `kernels.cu` among them.

        Raises:
            BackendError: with the first error of the compiler's log, or an architecture that
                this NVRTC does not know.
        """
        program = self._program(dict(files or sources()))
        try:
            options = [f"--gpu-architecture={architecture}", *OPTIONS, "--ptxas-options=-v"]
            texts = (ctypes.c_char_p * len(options))(*[one.encode() for one in options])
            status = self._function("nvrtcCompileProgram")(program, len(options), texts)
            log = self._text("ProgramLog", program).decode(errors="replace")
            if status != _SUCCESS:
                raise self._refused(status, architecture, log)
            ptx = self._text("PTX", program)
            data = ptx if kind == "ptx" else self._bytes("CUBIN", program)
        finally:
            self._function("nvrtcDestroyProgram")(ctypes.byref(program))
        build = _BUILD.search(ptx)
        compiler = build[1].decode() if build else "{}.{}".format(*self.version)
        used = {} if kind == "ptx" else uses_from_log(log)
        return Compiled(data, kind, architecture, compiler, used)

    def _program(self, files: dict[str, str]) -> ctypes.c_void_p:
        main = files.pop(MAIN)
        count = len(files)
        texts = (ctypes.c_char_p * count)(*[text.encode() for text in files.values()])
        names = (ctypes.c_char_p * count)(*[name.encode() for name in files])
        program = ctypes.c_void_p()
        self._call(
            "nvrtcCreateProgram",
            *(ctypes.byref(program), main.encode(), MAIN.encode(), count, texts, names),
        )
        return program

    def _refused(self, status: int, architecture: str, log: str) -> BackendError:
        mine = "NVRTC {}.{}".format(*self.version)
        if status == _UNKNOWN_OPTION:
            return BackendError(
                f"{mine} does not compile for {architecture}: {first_error(log)}",
                "a compiler that knows this GPU",
                "pip install nvidia-cuda-nvrtc, or nvidia-cuda-nvrtc-cu12 under CUDA 12",
            )
        return BackendError(
            f"{mine} did not compile the GPU's kernels: {first_error(log)} "
            f"({self._meaning(status)})",
            "the kernels of this package, as they were shipped",
            "if `pip install --force-reinstall segformer-deploy` does not help, report it: "
            "segdeploy doctor says what belongs into the report",
        )

    def _text(self, what: str, program: ctypes.c_void_p) -> bytes:
        return self._bytes(what, program).rstrip(b"\0")

    def _bytes(self, what: str, program: ctypes.c_void_p) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        data = ctypes.create_string_buffer(size.value)
        self._call(f"nvrtcGet{what}", program, data)
        return data.raw

    def _call(self, name: str, *arguments: Any) -> None:
        status = self._function(name)(*arguments)
        if status != _SUCCESS:
            raise BackendError(
                f"{name} failed: {self._meaning(status)}",
                "a working NVRTC",
                f"install the one at {self.path} again",
            )

    def _meaning(self, status: int) -> str:
        say = self._function("nvrtcGetErrorString")
        say.restype = ctypes.c_char_p
        text: bytes = say(status)
        return f"{text.decode()} ({status})"

    def _function(self, name: str) -> Any:
        try:
            return getattr(self._library, name)
        except AttributeError:
            raise BackendError(
                f"{self.path} has no function {name}",
                "NVRTC 11.1 or newer",
                "pip install nvidia-cuda-nvrtc, or nvidia-cuda-nvrtc-cu12 under CUDA 12",
            ) from None


def first_error(log: str) -> str:
    """The line that names the first error; the log's first line where none does."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    named = [line for line in lines if re.search(r"\berror\b", line, re.IGNORECASE)]
    return next(iter(named or lines), "its log is empty")


def uses_from_log(log: str) -> dict[str, KernelUse]:
    """What ptxas says of each kernel, under --ptxas-options=-v."""
    found = {}
    for one in _SUMMARY.finditer(log):
        shared = _SHARED.search(one["rest"])
        numbers = {name: int(one[name]) for name in ("stack", "spill_stores", "spill_loads")}
        found[one["name"]] = KernelUse(
            int(one["registers"]), int(shared[1]) if shared else 0, **numbers
        )
    return found
