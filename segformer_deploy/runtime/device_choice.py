"""Where frames are resized and class maps made: on the GPU, or on the CPU; and why."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from segformer_deploy.cuda.device import find_gpus
from segformer_deploy.engine.session import DeviceEngine, Engine
from segformer_deploy.errors import BackendError, MissingDependencyError, RunError
from segformer_deploy.runtime.device_segment import DEVICES, DeviceSegment, on_device


@dataclass(frozen=True)
class Chosen:
    """The choice.

    Attributes:
        gpu: the GPU's way; None for the CPU's.
        how: one sentence for people: what was chosen, and why.
    """

    gpu: DeviceSegment | None
    how: str


def check_device(device: str) -> None:
    """BackendError where there is no such choice."""
    if device not in DEVICES:
        raise BackendError(f"device '{device}'", "one of " + ", ".join(DEVICES))


def choose_device(
    device: str,
    engine: Engine,
    open_gpu: Callable[[DeviceEngine], DeviceSegment],
    onnx: Path | None = None,
) -> Chosen:
    """What `device` asks for; only ``auto`` chooses: ``cuda`` is the GPU, or its error.

    Args:
        open_gpu: opens the GPU's way.
        onnx: what the engine was loaded from, for the command that builds another one.

    Raises BackendError, MissingDependencyError or RunError where ``cuda`` cannot be had.
    """
    check_device(device)
    if device == "cpu":
        return Chosen(None, "as asked for")
    there = f"the network runs there ({engine.name})"
    if not on_device(engine):
        if device == "cuda":
            raise _no_device_engine(engine, onnx)
        return Chosen(None, there)
    try:
        gpu = open_gpu(cast("DeviceEngine", engine))
    except (BackendError, MissingDependencyError, RunError) as error:
        if device == "cuda":
            raise
        step = f"; next: {error.next_step}" if error.next_step else ""
        return Chosen(None, f"the GPU's way does not open: {error.found}{step}")
    return Chosen(gpu, f"{there}; our kernels: {gpu.how}")


def choose_for_tiles(device: str, engine: Engine) -> str:
    """Why a tiled frame goes the CPU's way, in a sentence; BackendError where ``cuda`` is asked."""
    if device == "cuda":
        raise BackendError(
            "--device cuda with tiles",
            "tiles by the CPU's way in and out, or the whole frame on the GPU",
            "--device auto, or without tiles (--tile none)",
        )
    where = f"; the network itself runs on {engine.name}" if on_device(engine) else ""
    return f"tiles are cut and merged there{where}"


def _no_device_engine(engine: Engine, onnx: Path | None) -> BackendError:
    """The error of ``cuda`` with an engine that works on the CPU."""
    found = f"--device cuda with a network that runs on the CPU ({engine.name})"
    report = find_gpus()
    if not report.gpus:
        return BackendError(
            f"{found}, and {report.why_none}",
            "an NVIDIA GPU, and an engine that runs on it",
            "--device cpu, or auto; segdeploy doctor says which driver and GPU are here",
        )
    name = "" if onnx is None else f" {shlex.quote(str(onnx))}"
    return BackendError(
        found,
        "an engine that runs on the GPU",
        f"segdeploy build-engine{name} --backend tensorrt (or tensorrt-rtx) builds one; or, with "
        "onnxruntime-gpu installed, add --backend onnxruntime --provider cuda",
    )
