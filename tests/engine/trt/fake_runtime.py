"""The running half of the fake TensorRT: a plan's graph, by ONNX Runtime, on fake device memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from tests.engine.trt.fake_builder import (
    HEADER,
    HOST_CODE,
    MAGIC,
    NO_DRIVER,
    VERSION_COMPATIBLE,
    activation_bytes,
    graph_of,
)
from tests.engine.trt.fake_network import _TYPES
from tests.engine.trt.fake_trt import (
    AllocationStrategy,
    DataType,
    Diagnostics,
    ILogger,
    MisuseError,
    Severity,
    TensorIOMode,
    World,
    checked,
    nptype,
)

_ALIGNMENT = 256


class Runtime:
    __slots__ = ("engine_host_code_allowed", "logger")
    world: World
    api: Any

    def __init__(self, logger: ILogger) -> None:
        self.logger = checked(logger, ILogger)
        self.engine_host_code_allowed = False

    def _diagnose(self, plan: bytes) -> tuple[int, str]:
        """Bits of `EngineInvalidityDiagnostics`, and the reason in words."""
        world, api = self.world, self.api
        if not world.gpu:
            return int(Diagnostics.CUDA_ERROR), NO_DRIVER
        if len(plan) < HEADER.size or plan[:8] != MAGIC:
            return int(Diagnostics.MALFORMED_ENGINE), "magicTag == kEXPECTED_MAGIC_TAG failed"
        _, module, version, places, bits = HEADER.unpack_from(plan)
        if module.rstrip(b"\0").decode() != api.__name__:
            return int(Diagnostics.MALFORMED_ENGINE), "a plan of another library"
        if not self._is_release(version.rstrip(b"\0").decode(), bits):
            return (
                int(Diagnostics.VERSION_MISMATCH),
                "The engine plan file is not compatible with this version of TensorRT",
            )
        if not any(self._is_place(one) for one in places.rstrip(b"\0").decode().split(",")):
            return (
                int(Diagnostics.UNSUPPORTED_CC),
                "The engine plan file is generated on an incompatible device",
            )
        return 0, ""

    def _is_release(self, built: str, bits: int) -> bool:
        old, here = ([int(n) for n in text.split(".")] for text in (built, self.api.__version__))
        return old == here or (
            bool(bits & VERSION_COMPATIBLE) and old[0] == here[0] and old <= here
        )

    def _is_place(self, place: str) -> bool:
        def number(text: str) -> list[int]:
            return [int(n) for n in text.split(".")]

        if place.endswith("+"):
            return number(self.world.cc) >= number(place[:-1])
        return place == self.world.cc

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        plan = bytes(serialized_engine)
        bits, why = self._diagnose(plan)
        host_code = not bits and HEADER.unpack_from(plan)[-1] & HOST_CODE
        if host_code and not self.engine_host_code_allowed:
            bits, why = 1, "The plan holds host code, and engine_host_code_allowed is not set"
        if not bits:
            try:
                return self._load(plan)
            except Exception as error:  # cut off behind the header
                why = f"Serialization assertion failed: {error}"
        self.logger.log(Severity.ERROR, f"IRuntime::deserializeCudaEngine: Error Code 1: {why}")
        return None

    def _load(self, plan: bytes) -> ICudaEngine:
        return ICudaEngine(self.world, self.logger, plan)


class ICudaEngine:
    def __init__(self, world: World, logger: ILogger, plan: bytes) -> None:
        self._world, self._logger = world, logger
        self._profiles, self._model = graph_of(plan)
        graph = self._model.graph
        self._borders = {
            **{value.name: (value, TensorIOMode.INPUT) for value in graph.input},
            **{value.name: (value, TensorIOMode.OUTPUT) for value in graph.output},
        }

    @cached_property
    def session(self) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        return onnxruntime.InferenceSession(
            self._model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    @property
    def num_io_tensors(self) -> int:
        return len(self._borders)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._profiles)

    def get_tensor_name(self, index: int) -> str:
        return list(self._borders)[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        dims = self._borders[name][0].type.tensor_type.shape.dim
        return tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in dims)

    def get_tensor_dtype(self, name: str) -> Any:
        return DataType[_TYPES[self._borders[name][0].type.tensor_type.elem_type]]

    def get_tensor_mode(self, name: str) -> Any:
        return self._borders[name][1]

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        return [tuple(shape) for shape in self._profiles[profile_index][name]]

    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int:
        return activation_bytes(self._profiles[profile_index])

    def create_execution_context(
        self, strategy: Any = AllocationStrategy.STATIC
    ) -> IExecutionContext | None:
        if "create_execution_context" in self._world.refuse:
            self._logger.log(Severity.ERROR, "create_execution_context: refused by the test")
            return None
        if strategy != AllocationStrategy.USER_MANAGED:
            raise MisuseError(f"context memory of the library's own: {strategy}")
        return self._context()

    def _context(self) -> IExecutionContext:
        return IExecutionContext(self, self._world, self._logger)

    def create_engine_inspector(self) -> EngineInspector:
        return EngineInspector(self)


class EngineInspector:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine

    def get_engine_information(self, format: Any) -> str:
        if format.name != "JSON":
            raise MisuseError("layers in one line each")
        names = [node.name for node in self._engine._model.graph.node]
        return json.dumps({"Layers": [{"Name": name} for name in names]})


class IExecutionContext:
    """Remembers what it was given, and looks at all of it before it runs."""

    def __init__(self, engine: ICudaEngine, world: World, logger: ILogger) -> None:
        self._engine, self._world, self._logger = engine, world, logger
        self._profile: int | None = None
        self._memory: tuple[int, int] | None = None
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._ran: set[Any] = set()
        self.compile: Callable[[], bool] = lambda: False

    def _refuses(self, method: str) -> bool:
        return method in self._world.refuse and not self._refused(method, "refused by the test")

    def _refused(self, method: str, why: str) -> bool:
        self._logger.log(Severity.ERROR, f"IExecutionContext::{method}: Error Code 3: {why}")
        return False

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self._world.capturing(stream_handle)
        if self._refuses("set_optimization_profile_async"):
            return False
        if not 0 <= profile_index < len(self._engine._profiles):
            return self._refused("set_optimization_profile_async", "no such profile")
        # All that was bound belongs to the profile before.
        self._profile, self._memory, self._shapes = profile_index, None, {}
        return True

    def set_device_memory(self, memory: int, size: int) -> None:
        if memory % _ALIGNMENT:
            raise MisuseError(f"context memory at {memory:#x} is not aligned to {_ALIGNMENT}")
        self._memory = memory, size

    def set_input_shape(self, name: str, shape: Any) -> bool:
        if self._refuses("set_input_shape"):
            return False
        if self._profile is None:
            raise MisuseError("a shape before a profile")
        low, _, high = self._engine._profiles[self._profile][name]
        if len(shape) != len(low):
            return self._refused("set_input_shape", "another number of dimensions")
        if not all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
            return self._refused("set_input_shape", f"{tuple(shape)} is out of profile")
        self._shapes[name] = tuple(shape)
        return True

    def infer_shapes(self) -> list[str]:
        inputs = [value.name for value in self._engine._model.graph.input]
        if "infer_shapes" in self._world.refuse:
            return inputs
        return [name for name in inputs if name not in self._shapes]

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if self._refuses("set_tensor_address"):
            return False
        if name not in self._engine._borders:
            return self._refused("set_tensor_address", f"no tensor {name}")
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        capturing = self._world.capturing(stream_handle)
        if self._refuses("execute_async_v3"):
            return False
        self._check_memory()
        missing = set(self._engine._borders) - set(self._addresses)
        if missing or self.infer_shapes():
            raise MisuseError(f"a run without addresses {missing} or shapes {self.infer_shapes()}")
        bound = self._bound()
        if capturing and bound not in self._ran:
            # What the first run of a shape sets up is not allowed in a capture.
            return self._refused("execute_async_v3", "stream is capturing, and nothing ran before")
        self._ran = {bound}
        names = [value.name for value in self._engine._model.graph.output]
        self._world.enqueue(
            stream_handle, self._run_of(dict(self._shapes), dict(self._addresses), names)
        )
        self._world.runs.append(self._shapes["image"])
        self._world.compiled += self.compile()
        return True

    def _bound(self) -> tuple[Any, ...]:
        return self._profile, *self._shapes.items()

    def _run_of(
        self, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int], names: list[str]
    ) -> Callable[[], None]:
        """The work that lies in the stream; bounds are looked at now and then."""
        assert self._memory is not None
        memory, session = self._memory, self._engine.session

        def run() -> None:
            # What lies in context memory is lost in every run.
            self._world.view(*memory)[...] = 0x5A
            feeds = {name: self._read(name, addresses[name], shapes[name]) for name in shapes}
            for name, answer in zip(names, session.run(names, feeds), strict=True):
                answer = np.ascontiguousarray(answer)
                view = self._world.view(addresses[name], answer.nbytes)
                view[...] = answer.reshape(-1).view(np.uint8)

        return run

    def _check_memory(self) -> None:
        if self._profile is None or self._memory is None:
            raise MisuseError("a run without a profile or without context memory")
        address, size = self._memory
        needed = self._engine.get_device_memory_size_for_profile_v2(self._profile)
        if size < needed:
            raise MisuseError(f"{size} bytes of context memory, and the profile needs {needed}")
        self._world.view(address, size)

    def _read(self, name: str, address: int, shape: tuple[int, ...]) -> Any:
        dtype = np.dtype(nptype(self._engine.get_tensor_dtype(name)))
        size = int(np.prod(shape)) * dtype.itemsize
        return self._world.view(address, size).copy().view(dtype).reshape(shape)
