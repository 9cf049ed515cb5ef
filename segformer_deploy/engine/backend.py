"""Which library runs a network: our own compiled one, ONNX Runtime, or TensorRT by its plans."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from segformer_deploy.engine.native.engine import NativeEngine
from segformer_deploy.engine.ort import OrtEngine, OrtOptions
from segformer_deploy.engine.ort_device import OrtDeviceEngine
from segformer_deploy.engine.ort_providers import PROVIDERS
from segformer_deploy.engine.session import Engine
from segformer_deploy.engine.trt.flavour import FLAVOURS
from segformer_deploy.errors import BackendError, MissingDependencyError, OnnxFileError

AUTO = "auto"
NATIVE = "native"
ONNXRUNTIME = "onnxruntime"
CPU_BACKENDS = (NATIVE, ONNXRUNTIME)
BACKENDS = (*CPU_BACKENDS, *FLAVOURS)
"""All that an engine folder can be built for; an ONNX file runs on the first two as it is."""


@dataclass(frozen=True)
class EngineOptions:
    """How a network is run.

    Attributes:
        backend: ``native`` (our own compiled network, CPU), ``onnxruntime``, ``tensorrt``,
            ``tensorrt-rtx``, or ``auto``: what an engine folder was built for; of a bare ONNX
            file native, where it can run it.
        provider: ONNX Runtime's: ``cpu``, ``cuda`` or ``tensorrt``; ``auto``: cuda where it
            starts, else what ``cpu`` gives.
        threads: of one session; 0 takes all cores this process may use.
        arena: ONNX Runtime keeps freed memory: a little faster, noticeably larger.
        trust: load a plan that no manifest vouches for.
    """

    backend: str = AUTO
    provider: str = "cpu"
    threads: int = 0
    arena: bool = True
    trust: bool = False

    def __post_init__(self) -> None:
        if self.backend not in (AUTO, *BACKENDS):
            raise BackendError(
                f"backend '{self.backend}'", "one of " + ", ".join((AUTO, *BACKENDS))
            )
        if self.provider not in (AUTO, *PROVIDERS):
            raise BackendError(
                f"provider '{self.provider}'", "one of " + ", ".join((AUTO, *PROVIDERS))
            )
        if self.threads < 0:
            raise BackendError(f"{self.threads} threads", "0 (all cores) or more")
        if self.backend in (NATIVE, *FLAVOURS) and self.provider not in ("cpu", AUTO):
            raise BackendError(
                f"provider '{self.provider}' of the backend {self.backend}",
                "none: providers are ONNX Runtime's",
                f"use --backend onnxruntime with --provider {self.provider}",
            )


@dataclass(frozen=True)
class ChosenEngine:
    """A loaded engine, the backend it belongs to, and why it is not the first choice."""

    engine: Engine
    backend: str
    note: str | None = None


def engine_from_onnx(path: Path, options: EngineOptions) -> ChosenEngine:
    """Load the ONNX file at `path`.

    Only ``auto`` chooses: a backend or provider that was named is used, or its error is raised.
    """
    if options.backend in FLAVOURS:
        raise BackendError(
            f"{path} on the backend {options.backend}",
            "an engine folder: a plan is built from an ONNX file first",
            f"segdeploy build-engine {path} --backend {options.backend}",
        )
    if options.backend == NATIVE:
        return ChosenEngine(NativeEngine(path, options.threads), NATIVE)
    if options.provider == AUTO:
        return _on_best_provider(path, options)
    note = None
    if options.backend == AUTO and options.provider == "cpu":
        try:
            return ChosenEngine(NativeEngine(path, options.threads), NATIVE)
        except (BackendError, OnnxFileError) as error:
            note = f"onnxruntime runs it: {error.found}"
    settings = OrtOptions(options.provider, options.threads, options.arena)
    kind = OrtEngine if options.provider == "cpu" else OrtDeviceEngine
    return ChosenEngine(kind(path, settings), ONNXRUNTIME, note)


def _on_best_provider(path: Path, options: EngineOptions) -> ChosenEngine:
    try:
        return engine_from_onnx(path, replace(options, provider="cuda"))
    except (BackendError, MissingDependencyError) as error:
        chosen = engine_from_onnx(path, replace(options, provider="cpu"))
        said = f"the CPU runs the network: {error.found}"
        return replace(chosen, note="; ".join(filter(None, (said, chosen.note))))
