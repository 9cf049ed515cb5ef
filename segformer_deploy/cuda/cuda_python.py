"""`Driver` by cuda-python (`cuda.bindings`), on a GPU's primary context."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from segformer_deploy.cuda.driver import (
    Arguments,
    Array,
    Event,
    Function,
    Graph,
    HostMemory,
    Memory,
    Module,
    Rows,
    Size3,
    Stream,
    check_source,
    check_target,
)
from segformer_deploy.cuda.held import (
    HeldEvent,
    HeldFunction,
    HeldHandle,
    HeldHostMemory,
    HeldMemory,
    HeldStream,
    Ledger,
    run_all,
)
from segformer_deploy.cuda.results import (
    about,
    cannot_be_used,
    does_not_load,
    error_from_result,
)
from segformer_deploy.errors import BackendError, MissingDependencyError, RunError

_HERE = threading.local()
"""`.user`: the driver whose context this thread made current last."""


class CudaPythonDriver:
    """The primary context of GPU number `device`, which TensorRT and other libraries share.

    Raises MissingDependencyError without cuda-python, BackendError without a usable GPU.
    """

    graphs = True
    chosen = "cuda-python"

    def __init__(self, device: int = 0) -> None:
        try:
            from cuda.bindings import driver
        except ModuleNotFoundError as error:
            raise MissingDependencyError("cuda.bindings", "cuda", "device memory") from error
        except ImportError as error:
            raise does_not_load("cuda.bindings", "cuda", error) from error
        self._cuda = driver
        self._device: Any = None
        self._ledger = Ledger()
        # Not the driver itself: a thread's memory must not keep it alive.
        self._user = object()
        try:
            self._open(device)
        except (RunError, BackendError) as error:
            self.close()
            raise cannot_be_used(error) from error
        except BaseException:
            self.close()
            raise

    def _open(self, device: int) -> None:
        cuda = self._cuda
        self._call("cuInit", 0)
        found = self._call("cuDeviceGet", device)
        self._context = self._call("cuDevicePrimaryCtxRetain", found)
        self._device = found
        text = self._call("cuDeviceGetName", 256, found)
        self.name = bytes(text).split(b"\0")[0].decode(errors="replace")
        wanted = cuda.CUdevice_attribute
        self.capability: tuple[int, int] = (
            self._call(
                "cuDeviceGetAttribute",
                wanted.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                found,
            ),
            self._call(
                "cuDeviceGetAttribute",
                wanted.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
                found,
            ),
        )

    def attach(self) -> None:
        _HERE.user = None  # the next call makes our context current

    def allocate(self, size: int, owner: str) -> Memory:
        with about(f"{size / 1e6:.1f} MB of device memory for {owner}"):
            address = self._call("cuMemAlloc", size)
        return HeldMemory(
            self._ledger, partial(self._call, "cuMemFree", address), int(address), size
        )

    def allocate_host(self, size: int, owner: str) -> HostMemory:
        with about(f"{size / 1e6:.1f} MB of pinned host memory for {owner}"):
            address = self._call("cuMemHostAlloc", size, 0)
        array = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(int(address)))
        return HeldHostMemory(self._ledger, partial(self._call, "cuMemFreeHost", address), array)

    def open_stream(self) -> Stream:
        flags = self._cuda.CUstream_flags.CU_STREAM_NON_BLOCKING
        raw = self._call("cuStreamCreate", int(flags))
        return HeldStream(self._ledger, partial(self._close_stream, raw), raw, int(raw))

    def _close_stream(self, raw: Any) -> None:
        run_all(
            partial(self._call, "cuStreamSynchronize", raw),
            partial(self._call, "cuStreamDestroy", raw),
        )

    def open_event(self, timing: bool = False) -> Event:
        kinds = self._cuda.CUevent_flags
        flags = kinds.CU_EVENT_DEFAULT if timing else kinds.CU_EVENT_DISABLE_TIMING
        raw = self._call("cuEventCreate", int(flags))
        return HeldEvent(self._ledger, partial(self._call, "cuEventDestroy", raw), raw, int(raw))

    def copy_in(self, target: int, source: Array, stream: Stream) -> None:
        check_source(source)
        self._call("cuMemcpyHtoDAsync", target, source.ctypes.data, source.nbytes, stream.handle)

    def copy_out(self, target: Array, source: int, stream: Stream) -> None:
        check_target(target)
        self._call("cuMemcpyDtoHAsync", target.ctypes.data, source, target.nbytes, stream.handle)

    def copy(self, target: int, source: int, size: int, stream: Stream) -> None:
        self._call("cuMemcpyDtoDAsync", target, source, size, stream.handle)

    def copy_rows(self, copy: Rows, stream: Stream) -> None:
        cuda = self._cuda
        order = cuda.CUDA_MEMCPY2D()
        order.srcMemoryType = order.dstMemoryType = cuda.CUmemorytype.CU_MEMORYTYPE_DEVICE
        order.srcDevice, order.srcPitch = cuda.CUdeviceptr(copy.source), copy.source_pitch
        order.dstDevice, order.dstPitch = cuda.CUdeviceptr(copy.target), copy.target_pitch
        order.WidthInBytes, order.Height = copy.width, copy.rows
        self._call("cuMemcpy2DAsync", order, stream.handle)

    def record(self, event: Event, stream: Stream) -> None:
        self._call("cuEventRecord", event.handle, stream.handle)

    def wait(self, stream: Stream, event: Event) -> None:
        self._call("cuStreamWaitEvent", stream.handle, event.handle, 0)

    def synchronise(self, stream: Stream) -> None:
        self._call("cuStreamSynchronize", stream.handle)

    def synchronise_event(self, event: Event) -> None:
        self._call("cuEventSynchronize", event.handle)

    def elapsed_ms(self, start: Event, end: Event) -> float:
        return float(self._call("cuEventElapsedTime", start.handle, end.handle))

    def load_module(self, image: bytes) -> Module:
        # PTX must end with a zero; a cubin knows its own length.
        raw = self._call("cuModuleLoadData", image + b"\0")
        return _Module(self._ledger, self._call, raw)

    def launch(
        self,
        function: Function,
        grid: Size3,
        block: Size3,
        arguments: Arguments,
        stream: Stream,
        shared: int = 0,
    ) -> None:
        assert isinstance(function, HeldFunction)
        addresses = [ctypes.addressof(one) for one in arguments]
        pointers = (ctypes.c_void_p * len(addresses))(*addresses)
        where = ctypes.addressof(pointers)
        self._call("cuLaunchKernel", function.raw, *grid, *block, shared, stream.handle, where, 0)

    def capture(self, stream: Stream, work: Callable[[], None]) -> Graph:
        # Of this thread: others may allocate meanwhile.
        mode = self._cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        try:
            self._call("cuStreamBeginCapture", stream.handle, mode)
            work()
        except BaseException:
            status, graph = self._cuda.cuStreamEndCapture(stream.handle)
            if status == self._cuda.CUresult.CUDA_SUCCESS:
                self._cuda.cuGraphDestroy(graph)
            raise
        graph = self._call("cuStreamEndCapture", stream.handle)
        try:
            raw = self._call("cuGraphInstantiate", graph, 0)
            return _Graph(self._ledger, self._call, raw)
        finally:
            self._call("cuGraphDestroy", graph)

    def memory_info(self) -> tuple[int, int]:
        free, total = self._call("cuMemGetInfo")
        return int(free), int(total)

    def close(self) -> None:
        if self._device is None:
            return
        self.attach()
        # The context lives on where others share it: what is held goes back now, and first of all
        # the streams, which wait for work that uses the rest.
        run_all(partial(self._ledger.close, HeldStream), self._leave)

    def _leave(self) -> None:
        device, self._device = self._device, None
        self._call("cuDevicePrimaryCtxRelease", device)

    def _call(self, name: str, *arguments: Any) -> Any:
        cuda = self._cuda
        try:
            if self._device is not None and getattr(_HERE, "user", None) is not self._user:
                # A context is current in one thread, until another driver's call there.
                _HERE.user = self._user
                self._checked("cuCtxSetCurrent", cuda.cuCtxSetCurrent(self._context))
            return self._checked(name, getattr(cuda, name)(*arguments))
        except RuntimeError as error:
            # cuda-python found no libcuda.so.1, or not this function in it.
            raise BackendError(
                f"{name} cannot be called: {error}",
                "an NVIDIA driver that is not older than CUDA 12",
            ) from error

    def _checked(self, name: str, answer: tuple[Any, ...]) -> Any:
        status, *values = answer
        if status != self._cuda.CUresult.CUDA_SUCCESS:
            if name == "cuCtxSetCurrent":
                _HERE.user = None
            raise error_from_result(name, int(status), getattr(status, "name", ""))
        return tuple(values) if len(values) > 1 else values[0] if values else None


class _Module(HeldHandle):
    kind = "module"

    def __init__(self, ledger: Ledger, call: Callable[..., Any], raw: Any) -> None:
        super().__init__(ledger, partial(call, "cuModuleUnload", raw), raw)
        self._call = call

    def function(self, name: str) -> Function:
        with about(f"the kernel '{name}'"):
            raw = self._call("cuModuleGetFunction", self.raw, name.encode())
        return HeldFunction(self, name, raw)


class _Graph(HeldHandle):
    kind = "graph"

    def __init__(self, ledger: Ledger, call: Callable[..., Any], raw: Any) -> None:
        super().__init__(ledger, partial(call, "cuGraphExecDestroy", raw), raw)
        self._call = call

    def launch(self, stream: Stream) -> None:
        self._call("cuGraphLaunch", self.raw, stream.handle)
