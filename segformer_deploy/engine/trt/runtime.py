"""A plan as an engine: `Engine` and `Session` of engine/session.py, on a GPU.

Context memory is ours: one block, as large as the profile in use needs, so that several
contexts of one engine cost what they use, and a small size does not pay for a large one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segformer_deploy.cuda.driver import Driver, Memory, Stream
from segformer_deploy.engine.session import (
    Array,
    Arrays,
    Shape,
    TensorInfo,
    checked_image,
    network_output_shapes,
)
from segformer_deploy.engine.size_range import SizeRange
from segformer_deploy.engine.trt.context import open_context
from segformer_deploy.engine.trt.flavour import Library
from segformer_deploy.engine.trt.journal import Journal, logger_for
from segformer_deploy.errors import BackendError, RunError
from segformer_deploy.spec import FrameSize

if TYPE_CHECKING:
    import tensorrt as trt
    import tensorrt_rtx as rtx

_ALIGNMENT = 256
"""Of context memory, as `set_device_memory` asks."""


class TrtEngine:
    """A deserialised plan, shared by its sessions.

    Args:
        plan: the bytes; the caller has checked whose they are.
        profiles: the sizes of the plan's profiles, in its order; empty asks the plan.
        open_driver: opens the GPU, once per session: CUDA contexts belong to a thread.
        cache: file of what RTX compiles at load, for the next load; None keeps nothing.

    Raises BackendError where the library refuses the plan.
    """

    graphs = True

    def __init__(
        self,
        library: Library,
        plan: bytes,
        profiles: tuple[SizeRange, ...],
        open_driver: Callable[[], Driver],
        cache: Path | None = None,
    ) -> None:
        api = library.api
        self.library, self.cache = library, cache
        self.open_driver = open_driver
        self.journal = Journal()
        # The primary context, which the library will share, is made first.
        self._driver: Driver | None = open_driver()
        self._logger = logger_for(api, self.journal)
        self._runtime: trt.Runtime = api.Runtime(self._logger)
        # False is the default and stays: code inside a plan would run with our rights.
        self._runtime.engine_host_code_allowed = False
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            del self._runtime  # now: the exception's traceback would keep it
            self._driver.close()
            raise self._refused()
        self.engine: trt.ICudaEngine | None = engine
        self.name = f"{library.name} ({self._driver.name})"
        self.inputs, self.outputs = _borders(api, engine)
        self.profiles = profiles or _profiles(engine, self.inputs)

    def _refused(self) -> BackendError:
        said = " ".join("; ".join(self.journal.errors[:2]).split())[:400]
        return BackendError(
            f"{self.library.name} refuses the plan: {said or 'no reason given'}",
            "a plan that was built for this library and GPU",
            "segdeploy build-engine builds it again from the ONNX in the folder",
        )

    def output_shapes(self, input_shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        return network_output_shapes(self.outputs, input_shapes["image"])

    def session(self) -> TrtSession:
        if self.engine is None:
            raise RunError("a closed engine was asked for a session", "an open one")
        return TrtSession(self, self.engine)

    def profile_for(self, shape: Shape) -> int:
        """The narrowest profile that takes `image` of `shape`; RunError where none does."""
        batch, size = shape[0], FrameSize(shape[1], shape[2])
        fitting = [
            (one.max.pixels * one.batch, index)
            for index, one in enumerate(self.profiles)
            if one.holds(size, batch)
        ]
        if fitting:
            return min(fitting)[1]
        raise RunError(
            f"a batch of {batch} at {size}",
            "what this plan was built for: " + "; ".join(map(str, self.profiles)),
            f"segdeploy build-engine --profile {size} --batch {batch}",
        )

    def layers(self) -> str:
        """What the library's inspector tells of the layers, as JSON."""
        if self.engine is None:
            raise RunError("a closed engine was asked for its layers", "an open one")
        api = self.library.api
        inspector: trt.EngineInspector = self.engine.create_engine_inspector()
        return str(inspector.get_engine_information(api.LayerInformationFormat.JSON))

    def close(self) -> None:
        self.engine = None
        if self._driver is not None:
            self._driver.close()
            self._driver = None


class TrtSession:
    """One execution context with its own context memory, and for `run` a stream and buffers."""

    def __init__(self, engine: TrtEngine, cuda_engine: trt.ICudaEngine) -> None:
        self._engine, self._cuda_engine = engine, cuda_engine
        self._driver: Driver | None = engine.open_driver()
        try:
            self._stream = self._driver.open_stream()
            self._opened = open_context(engine.library, cuda_engine, engine.cache)
            if self._opened.execution is None:
                raise engine._refused()
        except BaseException:
            self._driver.close()
            raise
        self._context: trt.IExecutionContext = self._opened.execution
        self._memory: dict[str, Memory] = {}
        self._buffers: dict[str, Array] = {}
        self._shape: Shape | None = None
        self._profile: int | None = None
        self._bound: tuple[Shape, dict[str, int]] | None = None

    def run(self, arrays: Arrays) -> dict[str, Array]:
        driver, image = self._open_driver(), checked_image(arrays)
        driver.attach()
        if image.shape != self._shape:
            self._shape = None  # half-prepared until all of it is right
            self._choose_profile(driver, image.shape, self._stream)
            self._prepare_buffers(driver, image)
            self._shape = image.shape
        addresses = {name: self._memory[name].address for name in ("image", *self._buffers)}
        try:
            driver.copy_in(addresses["image"], image, self._stream)
            self.enqueue(self._stream, addresses, image.shape)
            for name, buffer in self._buffers.items():
                driver.copy_out(buffer, addresses[name], self._stream)
        except BaseException:
            # The copies that are queued name the caller's memory.
            with suppress(RunError, BackendError):
                driver.synchronise(self._stream)
            raise
        driver.synchronise(self._stream)
        return self._buffers

    def enqueue(self, stream: Stream, addresses: Mapping[str, int], shape: Shape) -> None:
        """Queue one run on the caller's stream and device buffers; waits for nothing.

        Args:
            addresses: of `image` and of each output, of the engine's dtypes and of
                `output_shapes`; the caller orders what fills and reads them by the stream.
            shape: of `image`.

        Context memory is this session's, so its runs must not overlap: one stream, or events.
        Inside a capture, queue the same shape and addresses once before it. Such a graph is
        void once the session ran at a size of another profile, or closed.
        """
        driver = self._open_driver()
        wanted = shape, dict(addresses)
        if wanted != self._bound:
            self._bound = None  # half-bound until all of it is right
            self._choose_profile(driver, shape, stream)
            self._bind(shape, addresses)
            self._bound = wanted
        if not self._context.execute_async_v3(stream.handle):
            raise self._failed(f"a run on {'x'.join(map(str, shape))} did not start")

    def capturable(self, stream: Stream) -> bool:
        """Whether the run that was enqueued last may be captured on `stream` if repeated."""
        self._open_driver()
        if not self._engine.library.flavour.states_capture:
            return True
        if self._bound is None:  # nothing to ask about
            return False
        context: rtx.IExecutionContext = self._context
        return bool(context.is_stream_capturable(stream.handle))

    def _open_driver(self) -> Driver:
        if self._driver is None:
            raise RunError("a closed session was run", "an open one")
        return self._driver

    def _prepare_buffers(self, driver: Driver, image: Array) -> None:
        shapes = self._engine.output_shapes({"image": image.shape})
        self._buffers = {
            output.name: np.empty(shapes[output.name], output.dtype)
            for output in self._engine.outputs
        }
        for name, array in {"image": image, **self._buffers}.items():
            self._at_least(driver, name, array.nbytes)

    def _bind(self, shape: Shape, addresses: Mapping[str, int]) -> None:
        if not self._context.set_input_shape("image", shape):
            raise self._failed(f"the shape {shape} is refused")
        missing = self._context.infer_shapes()
        if missing:
            raise self._failed(f"no shape for {', '.join(missing)}")
        for one in (*self._engine.inputs, *self._engine.outputs):
            if one.name not in addresses:
                raise RunError(
                    f"a run of {self._engine.name} without a buffer for '{one.name}'",
                    "an address for each input and output",
                )
            if not self._context.set_tensor_address(one.name, addresses[one.name]):
                raise self._failed(f"the buffer of '{one.name}' is refused")

    def _choose_profile(self, driver: Driver, shape: Shape, stream: Stream) -> None:
        profile = self._engine.profile_for(shape)
        if profile == self._profile:
            return
        self._profile = None
        if not self._context.set_optimization_profile_async(profile, stream.handle):
            raise self._failed(f"profile {profile} is refused")
        # Also for what still runs in the memory that is about to change.
        driver.synchronise(stream)
        size = self._cuda_engine.get_device_memory_size_for_profile_v2(profile)
        memory = self._at_least(driver, "activations", size + _ALIGNMENT)
        self._context.set_device_memory(-(-memory.address // _ALIGNMENT) * _ALIGNMENT, size)
        self._profile = profile

    def _at_least(self, driver: Driver, name: str, size: int) -> Memory:
        """A block of at least `size` bytes; kept where it is large enough."""
        block = self._memory.get(name)
        if block is not None and block.size >= size:
            return block
        self._bound = None
        if block is not None:
            del self._memory[name]
            block.close()
        self._memory[name] = driver.allocate(size, f"'{name}' of {self._engine.library.name}")
        return self._memory[name]

    def _failed(self, what: str) -> RunError:
        errors = self._engine.journal.forget_errors()
        said = " ".join("; ".join(errors[:2]).split())[:400]
        return RunError(
            f"{self._engine.library.name}: {what}" + (f" ({said})" if said else ""),
            "a run without error",
            "segdeploy doctor; build the engine again on this device where it persists",
        )

    def close(self) -> None:
        if self._driver is None:
            return
        driver, self._driver = self._driver, None
        self._buffers, self._memory = {}, {}
        try:
            self._opened.keep()
        finally:
            # Before the driver takes back the memory and the context that they work in.
            del self._context, self._opened, self._cuda_engine
            driver.close()


def _profiles(engine: trt.ICudaEngine, inputs: tuple[TensorInfo, ...]) -> tuple[SizeRange, ...]:
    """The sizes of `image` that the plan itself states; none where it has no such input."""
    if not any(one.name == "image" and len(one.shape) == 4 for one in inputs):
        return ()
    found = []
    for index in range(engine.num_optimization_profiles):
        shapes = [tuple(one) for one in engine.get_tensor_profile_shape("image", index)]
        sizes = [FrameSize(shape[1], shape[2]) for shape in shapes]
        found.append(SizeRange(sizes[0], sizes[1], sizes[2], shapes[2][0]))
    return tuple(found)


def _dtype_name(api: Any, dtype: trt.DataType) -> str:
    try:
        return str(np.dtype(api.nptype(dtype)).name)
    except TypeError:  # BF16, FP8: never at our borders, but a stranger's plan may have them
        return str(dtype.name).lower()


def _borders(
    api: Any, engine: trt.ICudaEngine
) -> tuple[tuple[TensorInfo, ...], tuple[TensorInfo, ...]]:
    inputs: list[TensorInfo] = []
    outputs: list[TensorInfo] = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        shape = tuple(None if size < 0 else int(size) for size in engine.get_tensor_shape(name))
        dtype = _dtype_name(api, engine.get_tensor_dtype(name))
        is_input = engine.get_tensor_mode(name) == api.TensorIOMode.INPUT
        (inputs if is_input else outputs).append(TensorInfo(name, dtype, shape))
    return tuple(inputs), tuple(outputs)
