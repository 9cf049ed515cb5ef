"""`pycuda.driver` as far as the package uses it: memory, copies, streams, kernels."""

from __future__ import annotations

import ctypes
import enum
import struct
from typing import Any

import numpy as np

from pycuda.core import (
    Context,
    Device,
    Error,
    LaunchError,
    LogicError,
    MemoryError,
    Owned,
    RuntimeError,
    call,
    init,
    word,
)

__all__ = ["Context", "Device", "Error", "LaunchError", "LogicError", "MemoryError"]
__all__ += ["RuntimeError", "init"]


class DeviceAllocation(Owned):
    def __init__(self, size: int) -> None:
        super().__init__()
        self._address: Any = ctypes.c_size_t()
        call("cuMemAlloc", ctypes.byref(self._address), word(size))

    def __int__(self) -> int:
        return int(self._address.value)

    def free(self) -> None:
        if self._address is None:
            raise LogicError("device_allocation::free failed: invalid resource handle")
        address, self._address = self._address, None
        self._destroy("cuMemFree", address)

    def __del__(self) -> None:
        if getattr(self, "_address", None):
            self.free()


def mem_alloc(size: int) -> DeviceAllocation:
    return DeviceAllocation(size)


class PagelockedHostAllocation(Owned):
    def __init__(self, size: int) -> None:
        super().__init__()
        self._address: Any = ctypes.c_size_t()
        call("cuMemHostAlloc", ctypes.byref(self._address), word(size), 0)
        self.__array_interface__ = {
            "version": 3,
            "shape": (size,),
            "typestr": "|u1",
            "data": (self._address.value, False),
        }

    def free(self) -> None:
        address, self._address = self._address, None
        self._destroy("cuMemFreeHost", address)

    def __del__(self) -> None:
        if getattr(self, "_address", None):
            self.free()


def pagelocked_empty(shape: int, dtype: Any, order: str = "C", mem_flags: int = 0) -> Any:
    assert np.dtype(dtype) == np.uint8
    return np.asarray(PagelockedHostAllocation(shape))


class event_flags(enum.IntEnum):  # noqa: N801
    DEFAULT = 0
    BLOCKING_SYNC = 1
    DISABLE_TIMING = 2


class Stream(Owned):
    def __init__(self, flags: int = 0) -> None:
        super().__init__()
        self._handle = ctypes.c_void_p()
        call("cuStreamCreate", ctypes.byref(self._handle), flags)

    @property
    def handle(self) -> int:
        return int(self._handle.value or 0)

    def synchronize(self) -> None:
        call("cuStreamSynchronize", self._handle)

    def wait_for_event(self, event: Event) -> None:
        call("cuStreamWaitEvent", self._handle, event._handle, 0)

    def __del__(self) -> None:
        if self._handle:
            self._destroy("cuStreamDestroy", self._handle)


class Event(Owned):
    def __init__(self, flags: int = 0) -> None:
        super().__init__()
        self._handle = ctypes.c_void_p()
        call("cuEventCreate", ctypes.byref(self._handle), int(flags))

    def record(self, stream: Stream | None = None) -> Event:
        call("cuEventRecord", self._handle, _handle(stream))
        return self

    def synchronize(self) -> Event:
        call("cuEventSynchronize", self._handle)
        return self

    def time_since(self, start: Event) -> float:
        value = ctypes.c_float()
        call("cuEventElapsedTime", ctypes.byref(value), start._handle, self._handle)
        return value.value

    def __del__(self) -> None:
        if self._handle:
            self._destroy("cuEventDestroy", self._handle)


def _handle(stream: Stream | None) -> Any:
    assert stream is None or isinstance(stream, Stream)
    return stream._handle if stream is not None else None


def _buffer(of: Any, writable: bool) -> Any:
    view = memoryview(of)
    assert view.contiguous
    assert not (writable and view.readonly)
    return ctypes.c_void_p(np.asarray(of).ctypes.data), ctypes.c_size_t(view.nbytes)


def memcpy_htod_async(dest: int, src: Any, stream: Stream | None = None) -> None:
    call("cuMemcpyHtoDAsync", word(dest), *_buffer(src, False), _handle(stream))


def memcpy_dtoh_async(dest: Any, src: int, stream: Stream | None = None) -> None:
    where, size = _buffer(dest, True)
    call("cuMemcpyDtoHAsync", where, word(src), size, _handle(stream))


def memcpy_dtod_async(dest: int, src: int, size: int, stream: Stream | None = None) -> None:
    call("cuMemcpyDtoDAsync", word(dest), word(src), word(size), _handle(stream))


class Memcpy2D:
    def __init__(self) -> None:
        self.src_pitch = self.dst_pitch = self.width_in_bytes = self.height = 0
        self._from = self._to = 0

    def set_src_device(self, address: int) -> None:
        self._from = address

    def set_dst_device(self, address: int) -> None:
        self._to = address

    def __call__(self, stream: Stream) -> None:
        # CUDA_MEMCPY2D: x, y, memory type, host, device, array, pitch of each side; width, height.
        sides = (
            struct.pack("QQIxxxxQQQQ", 0, 0, 2, 0, address, 0, pitch)
            for address, pitch in ((self._from, self.src_pitch), (self._to, self.dst_pitch))
        )
        data = b"".join(sides) + struct.pack("QQ", self.width_in_bytes, self.height)
        call("cuMemcpy2DAsync", ctypes.create_string_buffer(data, len(data)), _handle(stream))


def module_from_buffer(buffer: bytes) -> Module:
    return Module(buffer)


class Module(Owned):
    def __init__(self, image: bytes) -> None:
        super().__init__()
        self._handle = ctypes.c_void_p()
        call("cuModuleLoadDataEx", ctypes.byref(self._handle), image, 0, None, None)

    def get_function(self, name: str) -> Function:
        return Function(self, name)

    def __del__(self) -> None:
        if self._handle:
            self._destroy("cuModuleUnload", self._handle)


class Function:
    def __init__(self, module: Module, name: str) -> None:
        self._module = module  # which lives as long as its functions
        self._handle, self.arg_format = ctypes.c_void_p(), ""
        call("cuModuleGetFunction", ctypes.byref(self._handle), module._handle, name.encode())

    def prepare(self, arg_types: list[str]) -> Function:
        self.arg_format = "".join(arg_types)
        return self

    def prepared_async_call(
        self, grid: Any, block: Any, stream: Stream, *args: Any, shared_size: int = 0
    ) -> None:
        data = struct.pack(self.arg_format, *args)
        buffer, size = ctypes.create_string_buffer(data, len(data)), ctypes.c_size_t(len(data))
        pointer, length, end = 1, 2, 0
        extra = (ctypes.c_void_p * 5)(
            pointer, ctypes.addressof(buffer), length, ctypes.addressof(size), end
        )
        sizes = [ctypes.c_uint(one) for one in (*grid, *block, shared_size)]
        call("cuLaunchKernel", self._handle, *sizes, _handle(stream), None, extra)


def mem_get_info() -> tuple[int, int]:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    call("cuMemGetInfo", ctypes.byref(free), ctypes.byref(total))
    return free.value, total.value
