"""Device memory, copies and streams: one small protocol, its cuda-python binding, its fake.

Every allocation has an owner that error messages name; closing twice is safe. The fake keeps
"device" memory in host memory, so that what is built on the protocol runs anywhere.
"""

from __future__ import annotations

import ctypes
import threading
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from segformer_deploy.errors import BackendError, MissingDependencyError, RunError

Array = npt.NDArray[Any]


class Memory(Protocol):
    """A piece of device memory."""

    @property
    def address(self) -> int: ...

    @property
    def size(self) -> int:
        """In bytes."""

    def close(self) -> None:
        """Give it back; safe to call twice."""


@dataclass(frozen=True)
class Rows:
    """A copy of `rows` rows of `width` bytes, between two pitches, all on the device."""

    source: int
    source_pitch: int
    target: int
    target_pitch: int
    width: int
    rows: int


class Driver(Protocol):
    """What a session needs of a GPU; used by one thread at a time."""

    @property
    def name(self) -> str: ...

    @property
    def stream(self) -> int:
        """The handle of the stream that all work below is queued on."""

    def allocate(self, size: int, owner: str) -> Memory:
        """`size` bytes; RunError names `owner` where there are not so many."""

    def copy_in(self, target: int, source: Array) -> None:
        """Host array (in one piece) -> device address; may be read until `synchronise`."""

    def copy_out(self, target: Array, source: int) -> None:
        """Device address -> host array (in one piece); filled after `synchronise`."""

    def copy_rows(self, copy: Rows) -> None:
        """A strided copy on the device."""

    def synchronise(self) -> None:
        """Wait for everything queued; RunError where any of it failed."""

    def close(self) -> None:
        """Give back the stream and the context; safe to call twice."""


class CudaDriver:
    """The protocol by cuda-python on a GPU's primary context, which other libraries share.

    Raises MissingDependencyError without cuda-python, BackendError without a usable GPU.
    """

    def __init__(self, device: int = 0) -> None:
        try:
            from cuda.bindings import driver
        except ImportError as error:
            raise MissingDependencyError("cuda.bindings", "cuda", "device memory") from error
        self._cuda = driver
        self._device: Any = None
        self._stream: Any = None
        self._here = threading.local()
        self._held: set[int] = set()
        try:
            self._open(device)
        except (RunError, RuntimeError) as error:
            # RuntimeError: cuda-python found no libcuda.so.1 at all.
            self.close()
            raise BackendError(
                f"the GPU cannot be used: {getattr(error, 'found', error)}",
                "an NVIDIA GPU with its driver",
                "segdeploy doctor says what is here",
            ) from error

    def _open(self, device: int) -> None:
        cuda = self._cuda
        self._call("cuInit", 0)
        found = self._call("cuDeviceGet", device)
        self._context = self._call("cuDevicePrimaryCtxRetain", found)
        self._device = found
        flags = cuda.CUstream_flags.CU_STREAM_NON_BLOCKING
        self._stream = self._call("cuStreamCreate", int(flags))
        text = self._call("cuDeviceGetName", 256, found)
        self.name = bytes(text).split(b"\0")[0].decode()

    @property
    def stream(self) -> int:
        return int(self._stream)

    def allocate(self, size: int, owner: str) -> Memory:
        try:
            address = self._call("cuMemAlloc", size)
        except RunError as error:
            raise RunError(
                f"{size / 1e6:.1f} MB of device memory for {owner}: {error.found}",
                "that much free memory",
                "build for a smaller size or batch, or close what else uses the GPU",
            ) from error
        self._held.add(int(address))
        return _CudaMemory(self, int(address), size)

    def copy_in(self, target: int, source: Array) -> None:
        self._call("cuMemcpyHtoDAsync", target, source.ctypes.data, source.nbytes, self._stream)

    def copy_out(self, target: Array, source: int) -> None:
        self._call("cuMemcpyDtoHAsync", target.ctypes.data, source, target.nbytes, self._stream)

    def copy_rows(self, copy: Rows) -> None:
        cuda = self._cuda
        order = cuda.CUDA_MEMCPY2D()
        order.srcMemoryType = order.dstMemoryType = cuda.CUmemorytype.CU_MEMORYTYPE_DEVICE
        order.srcDevice, order.srcPitch = cuda.CUdeviceptr(copy.source), copy.source_pitch
        order.dstDevice, order.dstPitch = cuda.CUdeviceptr(copy.target), copy.target_pitch
        order.WidthInBytes, order.Height = copy.width, copy.rows
        self._call("cuMemcpy2DAsync", order, self._stream)

    def synchronise(self) -> None:
        self._call("cuStreamSynchronize", self._stream)

    def close(self) -> None:
        if self._device is None:
            return
        try:
            # The context lives on where another driver shares it: what is held goes back now.
            for address in list(self._held):
                self.free(address)
            if self._stream is not None:
                self._call("cuStreamDestroy", self._stream)
        finally:
            device, self._device = self._device, None
            self._call("cuDevicePrimaryCtxRelease", device)

    def free(self, address: int) -> None:
        """Give back what `allocate` gave; its memory calls this."""
        if address in self._held:
            self._held.remove(address)
            self._call("cuMemFree", address)

    def _call(self, name: str, *arguments: Any) -> Any:
        cuda = self._cuda
        if self._device is not None and not getattr(self._here, "current", False):
            # A context is current in one thread; a session may move to another between runs.
            self._here.current = True
            self._call("cuCtxSetCurrent", self._context)
        status, *answer = getattr(cuda, name)(*arguments)
        if status != cuda.CUresult.CUDA_SUCCESS:
            raise RunError(
                f"{name} failed: {status.name} ({int(status)})",
                "CUDA_SUCCESS",
                "segdeploy doctor says which driver and GPU are here",
            )
        return answer[0] if answer else None


@dataclass
class _CudaMemory:
    driver: CudaDriver
    address: int
    size: int
    _open: bool = True

    def close(self) -> None:
        if self._open:
            self._open = False
            self.driver.free(self.address)


@dataclass
class FakeDriver:
    """The protocol on host memory, for tests: counts, checks bounds, runs out where told.

    Attributes:
        capacity: bytes that may be held at once; None for no limit.
        held, peak: bytes now, and the most at any moment.
    """

    capacity: int | None = None
    name: str = "fake device"
    stream: int = 1
    held: int = 0
    peak: int = 0
    closed: bool = False
    _blocks: dict[int, Array] = field(default_factory=dict)

    def allocate(self, size: int, owner: str) -> Memory:
        if self.capacity is not None and self.held + size > self.capacity:
            raise RunError(
                f"{size / 1e6:.1f} MB of device memory for {owner}: the device has "
                f"{self.capacity / 1e6:.1f} MB, {self.held / 1e6:.1f} are in use",
                "that much free memory",
            )
        block = np.full(size, 0xA5, np.uint8)  # nothing may rely on zeros
        address = int(block.ctypes.data)
        self._blocks[address] = block
        self.held += size
        self.peak = max(self.peak, self.held)
        return _FakeMemory(self, address, size)

    def free(self, address: int) -> None:
        self.held -= self._blocks.pop(address).size

    def view(self, address: int, size: int) -> Array:
        """The bytes at a device address; RunError where they lie outside every allocation."""
        for start, block in self._blocks.items():
            if start <= address and address + size <= start + block.size:
                return block[address - start : address - start + size]
        raise RunError(f"{size} bytes at {address:#x} are no device memory", "an allocation")

    def copy_in(self, target: int, source: Array) -> None:
        self.view(target, source.nbytes)[...] = source.reshape(-1).view(np.uint8)

    def copy_out(self, target: Array, source: int) -> None:
        ctypes.memmove(
            target.ctypes.data, self.view(source, target.nbytes).ctypes.data, target.nbytes
        )

    def copy_rows(self, copy: Rows) -> None:
        for row in range(copy.rows):
            source = self.view(copy.source + row * copy.source_pitch, copy.width)
            self.view(copy.target + row * copy.target_pitch, copy.width)[...] = source

    def synchronise(self) -> None: ...

    def close(self) -> None:
        self.closed = True


@dataclass
class _FakeMemory:
    driver: FakeDriver
    address: int
    size: int
    _open: bool = True

    def close(self) -> None:
        if self._open:
            self._open = False
            self.driver.free(self.address)
