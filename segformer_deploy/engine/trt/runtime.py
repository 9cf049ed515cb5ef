"""A plan as an engine: `Engine` and `Session` of engine/session.py, on a GPU.

Context memory is ours: one block, as large as the profile in use needs, so that several
contexts of one engine cost what they use, and a small size does not pay for a large one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segformer_deploy.cuda.driver import Driver, Memory
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
    """One execution context with its own stream, context memory and buffers."""

    def __init__(self, engine: TrtEngine, cuda_engine: trt.ICudaEngine) -> None:
        self._engine, self._cuda_engine = engine, cuda_engine
        self._driver: Driver | None = engine.open_driver()
        self._opened = open_context(engine.library, cuda_engine, engine.cache)
        context: trt.IExecutionContext | None = self._opened.execution
        if context is None:
            self._driver.close()
            raise engine._refused()
        self._context = context
        self._memory: dict[str, Memory] = {}
        self._buffers: dict[str, Array] = {}
        self._shape: Shape | None = None
        self._profile: int | None = None

    def run(self, arrays: Arrays) -> dict[str, Array]:
        if self._driver is None:
            raise RunError("a closed session was run", "an open one")
        image = checked_image(arrays)
        if image.shape != self._shape:
            self._shape = None  # half-bound until all of it is right
            self._bind(self._driver, image)
            self._shape = image.shape
        self._driver.copy_in(self._memory["image"].address, image)
        if not self._context.execute_async_v3(self._driver.stream):
            raise self._failed(f"a run on {'x'.join(map(str, image.shape))} did not start")
        for name, buffer in self._buffers.items():
            self._driver.copy_out(buffer, self._memory[name].address)
        self._driver.synchronise()
        return self._buffers

    def _bind(self, driver: Driver, image: Array) -> None:
        self._choose_profile(driver, self._engine.profile_for(image.shape))
        if not self._context.set_input_shape("image", image.shape):
            raise self._failed(f"the shape {image.shape} is refused")
        missing = self._context.infer_shapes()
        if missing:
            raise self._failed(f"no shape for {', '.join(missing)}")
        shapes = self._engine.output_shapes({"image": image.shape})
        self._buffers = {
            output.name: np.empty(shapes[output.name], output.dtype)
            for output in self._engine.outputs
        }
        for name, array in {"image": image, **self._buffers}.items():
            address = self._at_least(driver, name, array.nbytes).address
            if not self._context.set_tensor_address(name, address):
                raise self._failed(f"the buffer of '{name}' is refused")

    def _choose_profile(self, driver: Driver, profile: int) -> None:
        if profile == self._profile:
            return
        self._profile = None
        if not self._context.set_optimization_profile_async(profile, driver.stream):
            raise self._failed(f"profile {profile} is refused")
        driver.synchronise()
        size = self._cuda_engine.get_device_memory_size_for_profile_v2(profile)
        memory = self._at_least(driver, "activations", size + _ALIGNMENT)
        self._context.set_device_memory(-(-memory.address // _ALIGNMENT) * _ALIGNMENT, size)
        self._profile = profile

    def _at_least(self, driver: Driver, name: str, size: int) -> Memory:
        """A block of at least `size` bytes; kept where it is large enough."""
        block = self._memory.get(name)
        if block is not None and block.size >= size:
            return block
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
        self._buffers = {}
        self._opened.keep()
        # Before the driver's context goes: their memory lies in it.
        del self._context, self._opened, self._cuda_engine
        for block in self._memory.values():
            block.close()
        self._memory = {}
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
