"""Which NVIDIA GPUs are here: asked of the driver itself, through ctypes.

The driver's library is on every machine that can use the GPU, on a Jetson as on a server,
where nvidia-smi, cuda-python or torch need not be. Nothing here makes a CUDA context: that
would cost some hundred megabytes of a small board's memory and seconds of its time, for a
question that the driver answers without one.

CUDA_VISIBLE_DEVICES is the driver's own business: what it hides is not here.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# CUdevice_attribute and CUresult of cuda.h: part of the driver's ABI, they never change.
_MULTIPROCESSORS = 16
_INTEGRATED = 18
_COMPUTE_MAJOR = 75
_COMPUTE_MINOR = 76
_SUCCESS = 0
_MEANINGS = {
    2: "the driver is out of memory",
    3: "the driver was not initialised",
    34: "this libcuda.so.1 is the toolkit's stub for linking, not the driver",
    46: "another program holds the GPU",
    100: "the driver sees no GPU",
    101: "CUDA_VISIBLE_DEVICES names a GPU that is not there",
    304: "the operating system refused (are the /dev/nvidia* files there and readable?)",
    802: "the GPUs are not ready yet (is the fabric manager running?)",
    803: "the kernel's part of the driver and libcuda.so.1 are of different versions: reboot",
    804: "libcuda.so.1 is of the forward compatibility package, which this GPU cannot use",
    999: "the driver does not say more; the kernel's log (dmesg) may",
}
_NAME_BYTES = 256
NO_DRIVER = "there is no NVIDIA driver"
"""How `why_none` begins where the library is not there."""


@dataclass(frozen=True)
class Gpu:
    """One GPU, as the driver describes it.

    Attributes:
        index: the driver's number, after CUDA_VISIBLE_DEVICES.
        memory_bytes: all of it; where `integrated`, the memory that the CPU uses too.
        integrated: it shares the CPU's memory, as on a Jetson.
    """

    index: int
    name: str
    compute_capability: tuple[int, int]
    memory_bytes: int
    integrated: bool
    multiprocessors: int

    @property
    def sm(self) -> str:
        """The compute capability as people write it: "8.7" is a Jetson Orin."""
        return "{}.{}".format(*self.compute_capability)

    def to_dict(self) -> dict[str, Any]:
        return {
            "index": self.index,
            "name": self.name,
            "compute_capability": self.sm,
            "memory_bytes": self.memory_bytes,
            "integrated": self.integrated,
            "multiprocessors": self.multiprocessors,
        }


@dataclass(frozen=True)
class GpuReport:
    """The GPUs here, or why there is none.

    Attributes:
        cuda_version: the highest CUDA that the driver serves.
        driver_version: the driver's own, such as "560.35.03"; None where it does not say.
        why_none: one sentence where `gpus` is empty, else None.
    """

    gpus: tuple[Gpu, ...]
    cuda_version: tuple[int, int] | None = None
    driver_version: str | None = None
    why_none: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "gpus": [gpu.to_dict() for gpu in self.gpus],
            "cuda_version": "{}.{}".format(*self.cuda_version) if self.cuda_version else None,
            "driver_version": self.driver_version,
            "why_none": self.why_none,
        }


def cuda_library() -> str:
    """The driver's library, as the dynamic linker finds it."""
    return "libcuda.so.1"


def management_library() -> str:
    """NVML, the driver's library that knows the driver's version."""
    return "libnvidia-ml.so.1"


def find_gpus() -> GpuReport:
    """The GPUs that the driver sees; a missing or unwilling driver is an answer, no error."""
    name = cuda_library()
    try:
        library = ctypes.CDLL(name)
    except OSError as error:
        return GpuReport((), why_none=_why_not_loaded(name, error))
    driver = _Driver(library)
    cuda_version: tuple[int, int] | None = None
    try:
        # Answers before cuInit, so that a refusing driver still tells how old it is.
        cuda_version = driver.cuda_version()
        driver.call("cuInit", 0)
        gpus = tuple(driver.gpu(index) for index in range(driver.count()))
    except _DriverRefusalError as refusal:
        return GpuReport((), cuda_version, _driver_version(), str(refusal))
    why = None if gpus else "the driver is there and sees no GPU"
    return GpuReport(gpus, cuda_version, _driver_version(), why)


def _why_not_loaded(name: str, error: OSError) -> str:
    text = str(error)
    # dlopen says "no such file" also of a library that this one needs; then its name leads.
    if text.startswith(f"{name}:") and "No such file" in text:
        return f"{NO_DRIVER} ({name} is not found)"
    return f"the NVIDIA driver's library does not load ({text})"


class _DriverRefusalError(Exception):
    """What the driver said no to; never leaves this file."""


class _Driver:
    """The few calls of the driver that need no context."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def call(self, name: str, *arguments: Any) -> None:
        """Raises _DriverRefusalError where the driver lacks the function or refuses it."""
        code = self._function(name)(*arguments)
        if code != _SUCCESS:
            meaning = f": {_MEANINGS[code]}" if code in _MEANINGS else ""
            raise _DriverRefusalError(f"{name} failed: {self._error_name(code)} ({code}){meaning}")

    def _function(self, name: str) -> Callable[..., int]:
        try:
            function: Callable[..., int] = getattr(self._library, name)
        except AttributeError:
            raise _DriverRefusalError(
                f"the NVIDIA driver's library has no function {name}: it is too old, or no driver"
            ) from None
        return function

    def _error_name(self, code: int) -> str:
        text = ctypes.c_char_p()
        try:
            known = self._function("cuGetErrorName")(code, ctypes.byref(text)) == _SUCCESS
        except _DriverRefusalError:
            known = False
        return text.value.decode(errors="replace") if known and text.value else "error"

    def cuda_version(self) -> tuple[int, int] | None:
        """None where the driver gives 0, as it does before it knows."""
        version = self._integer("cuDriverGetVersion")
        # cuda.h: 1000 * major + 10 * minor.
        return (version // 1000, version % 1000 // 10) if version > 0 else None

    def count(self) -> int:
        return self._integer("cuDeviceGetCount")

    def gpu(self, index: int) -> Gpu:
        device = ctypes.c_int()
        self.call("cuDeviceGet", ctypes.byref(device), index)
        name = ctypes.create_string_buffer(_NAME_BYTES)
        self.call("cuDeviceGetName", name, _NAME_BYTES, device)
        memory = ctypes.c_size_t()
        self.call("cuDeviceTotalMem_v2", ctypes.byref(memory), device)
        return Gpu(
            index=index,
            name=name.value.decode(errors="replace"),
            compute_capability=(
                self._attribute(_COMPUTE_MAJOR, device),
                self._attribute(_COMPUTE_MINOR, device),
            ),
            memory_bytes=memory.value,
            integrated=bool(self._attribute(_INTEGRATED, device)),
            multiprocessors=self._attribute(_MULTIPROCESSORS, device),
        )

    def _integer(self, name: str, *more: Any) -> int:
        value = ctypes.c_int()
        self.call(name, ctypes.byref(value), *more)
        return value.value

    def _attribute(self, attribute: int, device: ctypes.c_int) -> int:
        return self._integer("cuDeviceGetAttribute", attribute, device)


def _driver_version() -> str | None:
    """NVML's answer; None where it is not there, as on a Jetson of JetPack 5."""
    try:
        library = ctypes.CDLL(management_library())
        start, ask, stop = (
            library.nvmlInit_v2,
            library.nvmlSystemGetDriverVersion,
            library.nvmlShutdown,
        )
    except (OSError, AttributeError):
        return None
    if start() != _SUCCESS:
        return None
    try:
        text = ctypes.create_string_buffer(_NAME_BYTES)
        known = ask(text, ctypes.c_uint(_NAME_BYTES)) == _SUCCESS
        return text.value.decode(errors="replace") if known else None
    finally:
        stop()
