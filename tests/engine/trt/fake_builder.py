"""The building half of the fake TensorRT: configuration, builder, and the plan's bytes."""

from __future__ import annotations

import json
import struct
from typing import Any

import onnx

from tests.engine.trt.fake_network import INetworkDefinition, fed_by_dequantise
from tests.engine.trt.fake_trt import (
    PRECISIONS,
    Build,
    ILogger,
    IProgressMonitor,
    Severity,
    World,
    checked,
)

HEADER = struct.Struct("<8s12s12s28sI")
"""Magic, module, version, compute capabilities, bits; 64 bytes, as many as RTX's."""
MAGIC = b"FAKEPLAN"
HOST_CODE, VERSION_COMPATIBLE, USER_ALLOCATION = 1, 2, 4
AUX_STREAM_BYTES = 8_192_000
NO_DRIVER = (
    "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (cudaError 35: CUDA driver "
    "version is insufficient for CUDA runtime version)"
)


class IOptimizationProfile:
    __slots__ = ("shapes",)

    def __init__(self) -> None:
        self.shapes: dict[str, Any] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        self.shapes[input] = tuple(min), tuple(opt), tuple(max)


class ITimingCache:
    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    def serialize(self) -> memoryview:
        return memoryview(self._data)


class IBuilderConfig:
    __slots__ = (
        *("_world", "_api", "_flags", "_limits", "_capabilities", "_cache", "_profiles"),
        *("progress_monitor", "profiling_verbosity", "max_aux_streams"),
        *("builder_optimization_level", "hardware_compatibility_level"),
    )

    def __init__(self, world: World, api: Any) -> None:
        self._world, self._api = world, api
        self._flags = {"TF32"}
        self._limits: dict[str, int] = {}
        self._capabilities: list[Any] = []
        self._cache: ITimingCache | None = None
        self._profiles: list[IOptimizationProfile] = []
        self.progress_monitor: Any = None
        self.profiling_verbosity = api.ProfilingVerbosity.LAYER_NAMES_ONLY
        self.max_aux_streams, self.builder_optimization_level = -1, 3
        self.hardware_compatibility_level = api.HardwareCompatibilityLevel.NONE

    def set_flag(self, flag: Any) -> None:
        self._flags.add(self._api.BuilderFlag(flag).name)

    def clear_flag(self, flag: Any) -> None:
        self._flags.discard(self._api.BuilderFlag(flag).name)

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self._limits[self._api.MemoryPoolType(pool).name] = pool_size

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        for shapes in profile.shapes.values():
            for low, usual, high in zip(*shapes, strict=True):
                if not 0 < low <= usual <= high:
                    return -1
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        head = self._cache_head()
        known = bytes(serialized_timing_cache).startswith(b"TIMINGS")
        # What is no cache at all is dropped; one of another machine shows when it is attached.
        return ITimingCache(bytes(serialized_timing_cache) if known else head)

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        same = bytes(cache.serialize()).startswith(self._cache_head())
        if same or ignore_mismatch:
            self._cache = cache
        return same or ignore_mismatch

    def get_timing_cache(self) -> ITimingCache | None:
        return self._cache

    def _cache_head(self) -> bytes:
        return f"TIMINGS {self._api.__version__} {self._world.cc} ".encode()

    # RTX alone has these two.
    @property
    def num_compute_capabilities(self) -> int:
        self._only_rtx("num_compute_capabilities")
        return len(self._capabilities)

    @num_compute_capabilities.setter
    def num_compute_capabilities(self, count: int) -> None:
        self._only_rtx("num_compute_capabilities")
        self._capabilities = [self._api.ComputeCapability.NONE] * count

    @property
    def set_compute_capability(self) -> Any:
        self._only_rtx("set_compute_capability")
        return self._set_compute_capability

    def _set_compute_capability(self, compute_capability: Any, index: int) -> None:
        self._capabilities[index] = self._api.ComputeCapability(compute_capability)

    def _only_rtx(self, name: str) -> None:
        if not self._world.rtx:
            raise AttributeError(f"'IBuilderConfig' object has no attribute '{name}'")

    def record(self, network: INetworkDefinition) -> Build:
        return Build(
            network.strongly_typed,
            frozenset(self._flags),
            dict(self._limits),
            self.max_aux_streams,
            self.builder_optimization_level,
            self.hardware_compatibility_level.name,
            self.profiling_verbosity.name,
            tuple(one.name for one in self._capabilities),
            None if self._cache is None else bytes(self._cache.serialize()),
            tuple(profile.shapes for profile in self._profiles),
        )


class Builder:
    __slots__ = ("__weakref__", "_logger")
    world: World
    api: Any

    def __init__(self, logger: ILogger) -> None:
        self.world.builders.add(self)
        self._logger = checked(logger, ILogger)
        if not self.world.rtx and not self.world.gpu:
            self._error(NO_DRIVER)
            raise TypeError("pybind11::init(): factory function returned nullptr")

    @property
    def platform_has_fast_fp16(self) -> bool:
        self.world.remove("Builder.platform_has_fast_fp16")
        return True

    @property
    def platform_has_fast_int8(self) -> bool:
        self.world.remove("Builder.platform_has_fast_int8")
        return True

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        typed = bool(flags & 1 << int(self.api.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        return INetworkDefinition(self.world, typed)

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig(self.world, self.api)

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(
        self, network: INetworkDefinition, config: IBuilderConfig
    ) -> memoryview | None:
        build = config.record(network)
        self.world.builds.append(build)
        for text in self.world.warnings:
            self._logger.log(Severity.WARNING, text)
        if network.model is None or not build.profiles:
            return self._error("Network has dynamic inputs, but no optimization profile.")
        if not self._walk(config.progress_monitor):
            return self._error("Error Code 10: Internal Error (Build was canceled by user)")
        model = network.finished()
        for text in self._objections(network, build, model):
            return self._error(text)
        if config._cache is not None:
            config._cache._data += b"+1"
        self._say_memory(model, build)
        return memoryview(self._plan(model, build))

    def _error(self, text: str) -> None:
        self._logger.log(Severity.ERROR, text)

    def _walk(self, monitor: Any) -> bool:
        """Two phases, one inside the other; False once the monitor wants no more."""
        if monitor is not None:
            checked(monitor, IProgressMonitor)
        if monitor is None:
            return True
        going = True
        monitor.phase_start("Building", None, 2)
        monitor.phase_start("Tactics", "Building", 5)
        for step in range(5):
            self.world.on_step()
            going = monitor.step_complete("Tactics", step)
            if not going:
                break
        monitor.phase_finish("Tactics")
        going = going and monitor.step_complete("Building", 0)
        going = going and monitor.step_complete("Building", 1)
        monitor.phase_finish("Building")
        return bool(going)

    def _objections(self, network: INetworkDefinition, build: Build, model: Any) -> list[str]:
        world = self.world
        if not network.strongly_typed and world.old:
            return ["Error Code 4: the network is not strongly typed"]
        for flag in PRECISIONS:
            if flag in build.flags:
                return [f"Error Code 3: {flag} is set, and the network is strongly typed"]
        if world.rtx and not world.gpu and ("REFIT" in build.flags or build.timing_cache):
            return [NO_DRIVER]
        if world.failures:
            return [world.failures.pop(0)]
        return [
            f"Error Code 10: Internal Error (Could not find any implementation for node {name}.)"
            for name in sorted(world.unbuildable)
            if fed_by_dequantise(model, name)
        ][:1]

    def _say_memory(self, model: Any, build: Build) -> None:
        if self.world.memory_lines:
            streams = max(build.aux_streams, 0) * AUX_STREAM_BYTES
            used = max(activation_bytes(profile) for profile in build.profiles) + streams
            weights = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
            self._logger.log(Severity.INFO, f"Total Activation Memory: {used} bytes")
            self._logger.log(Severity.INFO, f"Total Weights Memory: {weights} bytes")
        lines = [
            f"Layer({node.op_type}): {node.name}, Tactic: 0x0, {node.input[0]} -> {node.output[0]}"
            for node in model.graph.node
        ]
        self._logger.log(Severity.VERBOSE, "\n".join(["Engine Layer Information:", *lines]))

    def _plan(self, model: Any, build: Build) -> bytes:
        compatible = "VERSION_COMPATIBLE" in build.flags
        lean = compatible and "EXCLUDE_LEAN_RUNTIME" not in build.flags
        bits = HOST_CODE * lean + VERSION_COMPATIBLE * compatible
        bits |= USER_ALLOCATION * ("REQUIRE_USER_ALLOCATION" in build.flags)
        numbers = [name[2:-1] + "." + name[-1] for name in build.capabilities]
        places = self.world.cc
        if self.world.rtx:
            places = ",".join(numbers) or "8.0+"
        elif build.hardware == "AMPERE_PLUS":
            places = "8.0+"
        words = self.api.__name__, self.api.__version__, places
        header = HEADER.pack(MAGIC, *(word.encode() for word in words), bits)
        facts = json.dumps(build.profiles).encode()
        return header + struct.pack("<I", len(facts)) + facts + model.SerializeToString()


def graph_of(plan: bytes) -> tuple[list[Any], onnx.ModelProto]:
    """The profiles and the graph of a plan."""
    start = HEADER.size + 4
    length = int.from_bytes(plan[HEADER.size : start], "little")
    return json.loads(plan[start : start + length]), onnx.load_from_string(plan[start + length :])


def activation_bytes(profile: dict[str, Any]) -> int:
    """Scratch for one context at the largest shape of a profile; no multiple of the alignment."""
    batch, height, width, _ = profile["image"][2]
    return int(batch * height * width * 40 + 100)
