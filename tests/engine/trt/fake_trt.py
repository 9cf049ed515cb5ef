"""TensorRT 10.3, 10.16, 11.4 and TensorRT-RTX 1.7 as far as this package uses them, for tests.

::

    api = install(monkeypatch, "10.3.0")    sys.modules["tensorrt"]; "1.7.1" is tensorrt_rtx
    api = make_fake("11.4.1")               the module alone
    world = api.world                       what this machine is, and what happened on it

    world.gpu, world.cc = True, "8.7"       TensorRT's builder and every runtime need a GPU
    world.unbuildable = {"stage1.embed"}    products that do not build while a DQ feeds them
    world.failures = ["Error Code 10: ..."] each fails one build, with this as the logged error
    world.warnings, world.memory_lines      what each build says
    world.on_step = call                    called in every step of a build
    world.refuse = {"execute_async_v3"}     methods of the runtime that answer False or None
    world.capacity = 10_000_000             bytes of device memory of drivers opened from now on
    world.schedule = "late"                 when their streams run what is queued (cuda/lazy.py)

    world.host = host_cuda                  work by cuda-python on the GPU in host memory instead

    world.open_driver()                     a FakeDriver on this device: hand this to an engine
    world.held                              bytes that its drivers hold
    world.builds[-1].flags, .timing_cache   one `Build` per build_serialized_network
    world.builders                          those that are alive
    world.runs                              shapes of the images that were executed
    world.compiled                          RTX: contexts that found no kernels in their cache
    world.capturable                        RTX: False has contexts say that no run may be captured
    world.fallbacks                         RTX: runs on kernels that were not made for their shape
    world.touched                           what TensorRT 11 removed and someone used on 10

A plan is a header (whose, version, compute capability) before the ONNX graph, which the
context runs with ONNX Runtime on the memory of the fake drivers: answers are real, rewired
graphs included. What would crash or corrupt memory raises `MisuseError`; what the library refuses
with False, None or a logged error does so here.
"""

from __future__ import annotations

import enum
import sys
import types
from collections.abc import Iterable
from typing import Any

import numpy as np

from tests.engine.trt.world import Build, MisuseError, World

__all__ = ["Build", "MisuseError", "World"]
TENSORRTS = ("10.3.0", "10.16.2", "11.4.1")
RTX = "1.7.1"
VERSIONS = (*TENSORRTS, RTX)


class Members(enum.Enum):
    """An enumeration as pybind11 makes them: no integer, but one can be made of it."""

    def __int__(self) -> int:
        return int(self.value)


def members(name: str, names: str | Iterable[str]) -> Any:
    words = names.split() if isinstance(names, str) else list(names)
    return Members(name, {word: index for index, word in enumerate(words)})  # type: ignore[call-arg]


DataType = members("DataType", "FLOAT HALF INT8 INT32 BOOL UINT8 FP8 BF16 INT64 INT4")
TensorIOMode = members("TensorIOMode", "NONE INPUT OUTPUT")
Severity = members("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE")
LayerType = members(
    "LayerType",
    "CONVOLUTION ACTIVATION POOLING SOFTMAX CONCATENATION ELEMENTWISE UNARY SHUFFLE REDUCE "
    "MATRIX_MULTIPLY CONSTANT CAST SLICE SHAPE RESIZE QUANTIZE DEQUANTIZE NORMALIZATION",
)
ErrorCode = members(
    "ErrorCode", "SUCCESS INTERNAL_ERROR MODEL_DESERIALIZE_FAILED INVALID_NODE UNSUPPORTED_NODE"
)
AllocationStrategy = members(
    "ExecutionContextAllocationStrategy", "STATIC ON_PROFILE_CHANGE USER_MANAGED"
)
Specialisation = members("DynamicShapesKernelSpecializationStrategy", "LAZY EAGER NONE")
EngineValidity = members("EngineValidity", "VALID SUBOPTIMAL INVALID")
_DIAGNOSTICS = (
    *("VERSION_MISMATCH", "UNSUPPORTED_CC", "OLD_CUDA_DRIVER", "OLD_CUDA_RUNTIME"),
    *("INSUFFICIENT_GPU_MEMORY", "MALFORMED_ENGINE", "CUDA_ERROR"),
)
Diagnostics = Members(  # type: ignore[call-arg]
    "EngineInvalidityDiagnostics", {name: 1 << bit for bit, name in enumerate(_DIAGNOSTICS)}
)
PRECISIONS = ("FP16", "INT8", "BF16", "FP8", "INT4")
"""Flags of TensorRT 10 that a strongly typed network must not have and 11 removed."""
_REMOVED_FLAGS = (*PRECISIONS, "OBEY_PRECISION_CONSTRAINTS", "PREFER_PRECISION_CONSTRAINTS")
_FLAGS = (
    *("DEBUG", "GPU_FALLBACK", "REFIT", "DISABLE_TIMING_CACHE", "TF32"),
    *("VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME"),
)
_NUMPY = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
    "UINT8": np.uint8,
}


class ILogger:
    """To be derived from; its constructor must run."""

    Severity = Severity

    def __init__(self) -> None:
        self.made = True


class Logger(ILogger):
    """Takes every line and drops it."""

    def __init__(self, min_severity: Any = Severity.WARNING) -> None:
        super().__init__()

    def log(self, severity: Any, text: str) -> None: ...


class IProgressMonitor:
    """To be derived from; its constructor must run."""

    def __init__(self) -> None:
        self.made = True


def nptype(dtype: Any) -> Any:
    """The NumPy type; TypeError for those that NumPy has not."""
    if dtype.name not in _NUMPY:
        raise TypeError(f"Could not resolve TensorRT datatype {dtype} to an equivalent numpy type.")
    return _NUMPY[dtype.name]


def checked(made: Any, kind: type) -> Any:
    """An object of ours that the library calls back: derived, and constructed."""
    if not isinstance(made, kind) or not getattr(made, "made", False):
        raise TypeError(f"{type(made).__name__} is no {kind.__name__}, or it was not initialised")
    return made


def make_fake(version: str) -> Any:
    """The module of this release of the library; `.world` steers and records it."""
    # Not at the top: they need what is defined here.
    from tests.engine.trt import fake_builder, fake_network, fake_parser, fake_rtx, fake_runtime

    rtx = version.startswith("1.")
    world = World(version, rtx)
    api = types.ModuleType("tensorrt_rtx" if rtx else "tensorrt")
    api.__version__ = version  # type: ignore[attr-defined]
    own = ("REQUIRE_USER_ALLOCATION",) if rtx else ()
    flags = [*_FLAGS, *own, *(_REMOVED_FLAGS if world.old else ())]
    parts: dict[str, Any] = {
        "world": world,
        "DataType": DataType,
        "TensorIOMode": TensorIOMode,
        "LayerType": LayerType,
        "ErrorCode": ErrorCode,
        "ILogger": ILogger,
        "Logger": Logger,
        "IProgressMonitor": IProgressMonitor,
        "nptype": nptype,
        "ExecutionContextAllocationStrategy": AllocationStrategy,
        "BuilderFlag": members("BuilderFlag", flags),
        "NetworkDefinitionCreationFlag": Members(  # type: ignore[call-arg]
            "NetworkDefinitionCreationFlag", {"STRONGLY_TYPED": 1}
        ),
        "MemoryPoolType": members("MemoryPoolType", "WORKSPACE TACTIC_DRAM"),
        "ProfilingVerbosity": members("ProfilingVerbosity", "LAYER_NAMES_ONLY NONE DETAILED"),
        "HardwareCompatibilityLevel": members("HardwareCompatibilityLevel", "NONE AMPERE_PLUS"),
        "LayerInformationFormat": members("LayerInformationFormat", "ONELINE JSON"),
        **{name: getattr(fake_network, name) for name in fake_network.PUBLIC},
        "Builder": _bound(fake_builder.Builder, world, api),
        "OnnxParser": _bound(fake_parser.OnnxParser, world, api),
        "Runtime": _bound(fake_rtx.RtxRuntime if rtx else fake_runtime.Runtime, world, api),
    }
    if rtx:
        parts["ComputeCapability"] = members(
            "ComputeCapability", "NONE CURRENT SM75 SM80 SM86 SM89 SM120 SM121"
        )
        parts["DynamicShapesKernelSpecializationStrategy"] = Specialisation
        parts["EngineValidity"], parts["EngineInvalidityDiagnostics"] = EngineValidity, Diagnostics
    if world.old:
        for name in ("IInt8Calibrator", "IInt8EntropyCalibrator2", "IInt8MinMaxCalibrator"):
            parts[name] = type(name, (), {"__init__": lambda self: world.remove("IInt8Calibrator")})
    vars(api).update(parts)
    return api


def install(monkeypatch: Any, version: str) -> Any:
    """`make_fake` under the name that the package imports; taken back at the end of the test."""
    api = make_fake(version)
    monkeypatch.setitem(sys.modules, api.__name__, api)
    return api


def _bound(kind: type, world: World, api: Any) -> type:
    """`kind`, with the machine that it runs on."""
    return type(kind.__name__, (kind,), {"__slots__": (), "world": world, "api": api})
