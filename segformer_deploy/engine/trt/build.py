"""ONNX bytes -> plan: configure, build, and where a Q/DQ pair cannot be built, do without it."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segformer_deploy.engine.trt.bypass import Bypass, asks_for_bypass
from segformer_deploy.engine.trt.flavour import Library
from segformer_deploy.engine.trt.journal import Journal, logger_for
from segformer_deploy.engine.trt.monitor import cancellable, monitor_for
from segformer_deploy.engine.trt.network import network_from_onnx
from segformer_deploy.errors import BackendError, BuildError, OutputError
from segformer_deploy.files import write_bytes

if TYPE_CHECKING:
    import tensorrt as trt

Shape = tuple[int, ...]
Profile = Mapping[str, tuple[Shape, Shape, Shape]]
"""Input name -> its smallest, usual and largest shape."""

MAX_BYPASSES = 8
"""Builds in a row before giving up; each takes as long as the first."""

_ONE_AT_A_TIME = threading.Lock()
"""Held from a builder's making to its end, also by a build that Ctrl-C has given up on."""


@dataclass(frozen=True)
class PlanOptions:
    """How a plan is built.

    Attributes:
        profiles: one or several ranges of shapes.
        capabilities: compute capabilities to build for (``8.6``); empty takes the flavour's
            default, or the GPU that builds.
        hardware_compatible: TensorRT: one plan for every GPU from Ampere on, a little slower.
        version_compatible: a plan for later releases of the same major version too. Without the
            lean runtime inside: that would be host code in a plan.
        refit: weights can be exchanged in the finished plan.
        aux_streams: the most extra streams that independent layers may run on. Each reserves a
            workspace of its own for matrix products (8.2 MB on RTX), and SegFormer has hardly
            anything to run side by side: 0 saves a quarter of B0's device memory.
        tf32: let FP32 products round their factors to 10 bits on tensor cores: faster, and no
            longer FP32.
        workspace_bytes: a ceiling on scratch memory while a kernel runs; None leaves it free.
        level: 0 to 5, how hard TensorRT looks for fast kernels; None keeps its default.
        timing_cache: file that keeps what the builder learnt, where the flavour has one.
    """

    profiles: tuple[Profile, ...]
    capabilities: tuple[str, ...] = ()
    hardware_compatible: bool = False
    version_compatible: bool = False
    refit: bool = False
    aux_streams: int = 0
    tf32: bool = False
    workspace_bytes: int | None = None
    level: int | None = None
    timing_cache: Path | None = None


@dataclass(frozen=True)
class Plan:
    """A built plan and what the builder said of it.

    Attributes:
        data: the library's bytes.
        activation_memory_bytes, weights_memory_bytes: device memory by the builder's own count:
            scratch for one context at the largest shapes, and the weights.
        bypassed: products whose Q/DQ pairs were taken out because they could not be built.
        notes: the library's warnings, explained.
        layers: kind, name, inputs, outputs of what runs, where the library tells.
    """

    data: bytes
    seconds: float
    activation_memory_bytes: int
    weights_memory_bytes: int
    bypassed: tuple[str, ...]
    notes: tuple[str, ...]
    layers: tuple[dict[str, str], ...]


def plan_from_onnx(
    library: Library,
    onnx: bytes,
    options: PlanOptions,
    say: Callable[[str], None] = lambda _: None,
    advance: Callable[[float], None] = lambda _: None,
) -> Plan:
    """Build a plan. Ctrl-C stops the builder within one of its steps.

    Args:
        advance: told the fraction that is done, 0 to 1.

    Raises:
        BuildError: a node that does not parse or cannot be built; names it.
        BackendError: an option that this flavour has not, or a device that it needs and lacks.
    """
    check_options(library, options.capabilities, options.hardware_compatible)
    cancel = threading.Event()

    def build() -> Plan:
        with _ONE_AT_A_TIME:
            try:
                return _Build(library, onnx, options, say, advance, cancel).plan()
            except BaseException as error:
                _let_go(error)
                raise

    return cancellable(build, cancel)


def _let_go(error: BaseException) -> None:
    """Free the builder that a traceback's frames hold, here and now.

    Its destructor takes the library's lock without letting go of Python's. Left to whoever drops
    the exception, or to the garbage collector, it would meet the next build, which holds the
    library's lock while it waits for Python's to report progress: neither would ever go on.
    """
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link = link.__context__


def check_options(
    library: Library, capabilities: tuple[str, ...], hardware_compatible: bool
) -> None:
    """BackendError where this flavour has no such option."""
    flavour = library.flavour
    unknown = [one for one in capabilities if one not in flavour.capabilities]
    if unknown:
        known = ", ".join(flavour.capabilities)
        raise BackendError(
            f"compute capability {', '.join(unknown)} for {flavour.title}",
            f"one of {known}" if known else "none: its plans are for the GPU that builds them",
            "leave --compute-capability out, or build on the device itself",
        )
    if hardware_compatible and not flavour.hardware_levels:
        raise BackendError(
            f"a hardware-compatible plan of {flavour.title}",
            "the option left out: its plans run on every GPU from compute capability "
            f"{flavour.default_capability} on as they are",
        )


class _Build:
    def __init__(
        self,
        library: Library,
        onnx: bytes,
        options: PlanOptions,
        say: Callable[[str], None],
        advance: Callable[[float], None],
        cancel: threading.Event,
    ) -> None:
        self.library, self.options, self.say = library, options, say
        self.journal, self.cancel = Journal(), cancel
        self.logger = logger_for(library.api, self.journal)
        self.monitor = monitor_for(library.api, cancel, advance)
        self.builder = self._builder()
        self.parsed = network_from_onnx(library, self.builder, self.logger, self.journal, onnx)

    def _builder(self) -> trt.Builder:
        api = self.library.api
        try:
            builder: trt.Builder = api.Builder(self.logger)
        except (RuntimeError, TypeError) as error:
            raise self._no_builder(str(error)) from error
        if builder is None:
            raise self._no_builder("")
        return builder

    def _no_builder(self, why: str) -> BackendError:
        said = "; ".join([*self.journal.errors[:1], *([why] if why else [])])
        return BackendError(
            f"{self.library.name} cannot start its builder here: {said or 'no reason given'}",
            "an NVIDIA GPU with its driver: this builder times kernels on the device",
            "build on the device itself, or here with --backend tensorrt-rtx, which needs no GPU",
        )

    def plan(self) -> Plan:
        started = time.perf_counter()
        bypass = Bypass(self.library, self.parsed.network)
        bypassed: list[str] = []
        errors: list[str] = []
        for _ in range(MAX_BYPASSES):
            config = self._config()
            data = self.builder.build_serialized_network(self.parsed.network, config)
            if self.cancel.is_set():
                raise KeyboardInterrupt
            if data is not None:
                self._keep_timings(config)
                return self._finished(bytes(data), time.perf_counter() - started, bypassed)
            errors = self.journal.forget_errors()
            names = bypass.at(errors) if asks_for_bypass(errors) else []
            if not names:
                raise self._failed(errors, bypassed)
            bypassed += names
            self.say(f"Q/DQ at {', '.join(names)} cannot be built ({_short(errors)}): without it")
        raise self._failed([f"no plan after {MAX_BYPASSES} attempts:", *errors], bypassed)

    def _finished(self, data: bytes, seconds: float, bypassed: list[str]) -> Plan:
        journal = self.journal
        if journal.activation_memory_bytes is None or journal.weights_memory_bytes is None:
            raise BuildError(
                f"{self.library.name} built a plan and stated no memory figures",
                "'Total Activation Memory' and 'Total Weights Memory' in its log",
                "report this version of the library",
            )
        return Plan(
            data,
            seconds,
            journal.activation_memory_bytes,
            journal.weights_memory_bytes,
            tuple(bypassed),
            tuple(journal.notes()),
            tuple(journal.layers),
        )

    def _failed(self, errors: list[str], bypassed: list[str]) -> BuildError:
        tried = f" (Q/DQ was already taken out at {', '.join(bypassed)})" if bypassed else ""
        advice = (
            "build in another precision (--fp16), or for another library (--backend onnxruntime)"
        )
        if any("CUDA" in error or "cuda" in error for error in errors):
            advice = "this needs a GPU: build on the device, or leave out --refit and the like"
        elif any("OutOfMemory" in error for error in errors):
            advice = "lower the largest size or batch (--profile, --batch), or build with --fp16"
        elif any("workspace limit" in error for error in errors):
            advice = "raise --workspace, or leave it out"
        return BuildError(
            f"{self.library.name} could not build the plan: {_short(errors)}{tried}",
            "a plan",
            advice,
        )

    def _config(self) -> trt.IBuilderConfig:
        api, options, flavour = self.library.api, self.options, self.library.flavour
        config: trt.IBuilderConfig = self.builder.create_builder_config()
        config.progress_monitor = self.monitor
        # So that the engine's inspector has names and shapes to show.
        config.profiling_verbosity = api.ProfilingVerbosity.DETAILED
        for shapes in options.profiles:
            profile: trt.IOptimizationProfile = self.builder.create_optimization_profile()
            for name, (smallest, usual, largest) in shapes.items():
                profile.set_shape(name, smallest, usual, largest)
            if config.add_optimization_profile(profile) < 0:
                raise BuildError(f"{self.library.name} refuses the sizes {dict(shapes)}")
        if options.workspace_bytes is not None:
            config.set_memory_pool_limit(api.MemoryPoolType.WORKSPACE, options.workspace_bytes)
        config.max_aux_streams = options.aux_streams
        for flag in flavour.flags:
            config.set_flag(getattr(api.BuilderFlag, flag))
        if not options.tf32:
            config.clear_flag(api.BuilderFlag.TF32)
        if options.level is not None:
            config.builder_optimization_level = options.level
        if options.hardware_compatible:
            config.hardware_compatibility_level = api.HardwareCompatibilityLevel.AMPERE_PLUS
        if options.version_compatible:
            config.set_flag(api.BuilderFlag.VERSION_COMPATIBLE)
            config.set_flag(api.BuilderFlag.EXCLUDE_LEAN_RUNTIME)
        if options.refit:
            config.set_flag(api.BuilderFlag.REFIT)
        if flavour.capabilities and options.capabilities:
            _set_capabilities(api, config, options.capabilities)
        if flavour.timing_cache and options.timing_cache is not None:
            self._lend_timings(config, options.timing_cache)
        return config

    def _lend_timings(self, config: trt.IBuilderConfig, path: Path) -> None:
        try:
            old = path.read_bytes() if path.is_file() else b""
        except OSError:
            old = b""
        cache: trt.ITimingCache = config.create_timing_cache(old)
        # False where it was made on another kind of GPU or by another release: begin anew.
        if not config.set_timing_cache(cache, ignore_mismatch=False):
            config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)

    def _keep_timings(self, config: trt.IBuilderConfig) -> None:
        path = self.options.timing_cache
        if not self.library.flavour.timing_cache or path is None:
            return
        cache: trt.ITimingCache = config.get_timing_cache()
        data = cache.serialize()
        # A home that cannot be written to costs the next build time, never this one its plan.
        with suppress(OutputError):
            write_bytes(path, bytes(data))


def _set_capabilities(api: Any, config: trt.IBuilderConfig, capabilities: tuple[str, ...]) -> None:
    config.num_compute_capabilities = len(capabilities)
    for index, one in enumerate(capabilities):
        name = "SM" + one.replace(".", "")
        config.set_compute_capability(getattr(api.ComputeCapability, name), index)


def _short(errors: list[str]) -> str:
    text = " ".join(" ".join(errors[:2]).split())
    return text[:400] or "no reason given"
