"""The roofline: what a network takes on a device, given a handful of efficiencies.

    t = sum over layers of  max( 2 MACs / (peak * compute), bytes / (bandwidth * memory) ) + launch

Every layer is bound by arithmetic or by memory, and costs a launch on a GPU. Elementwise layers
(bias, GELU, residual, ReLU) are part of their neighbours and cost nothing of their own. Peaks are
reached only in part, and by how much is what `roofline_fit` takes from published latencies: five
numbers for GPUs, three for CPUs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from segformer_deploy.bench.cost import Form, network
from segformer_deploy.bench.cost_bytes import layer_bytes
from segformer_deploy.bench.devices import Device
from segformer_deploy.spec import FrameSize, Precision

Floats = npt.NDArray[np.float64]
Side = Literal["gpu", "cpu"]
Parameters = Mapping[str, float]
"""By name; see `NAMES`."""
NAMES: dict[Side, tuple[str, ...]] = {
    "gpu": ("compute", "bandwidth", "launch_us", "fp32_gain", "int8_gain"),
    "cpu": ("compute", "int8_gain", "onnxruntime_gain"),
}
CPU_BANDWIDTH = 0.5
"""Share of its memory's bandwidth that a CPU gets. Not fitted: it is 1 to 3 % of any row."""


@dataclass(frozen=True)
class Task:
    """What is run where.

    Attributes:
        precision: asked for; `Device.runs_as` says what that becomes.
        engine: ``tensorrt``, ``onnxruntime`` or ``tflite``.
    """

    variant: str
    size: FrameSize
    classes: int
    precision: Precision
    device: Device
    engine: str
    form: Form = "deploy"


@dataclass(frozen=True)
class Time:
    """Milliseconds, and the share of them spent waiting for each thing.

    Attributes:
        compute, bandwidth: of the layers that arithmetic, or memory, holds up.
        launch: starting kernels.
    """

    compute: float
    bandwidth: float
    launch: float

    @property
    def total(self) -> float:
        return self.compute + self.bandwidth + self.launch


def side_of(device: Device) -> Side:
    return "gpu" if device.is_gpu else "cpu"


def time_of(task: Task, parameters: Parameters) -> Time:
    """What `task` takes with these efficiencies."""
    macs, moved = work(task)
    device = task.device
    arithmetic = 2e3 * macs / (1e12 * _reached_tflops(task, parameters))
    share = parameters["bandwidth"] if device.is_gpu else CPU_BANDWIDTH
    memory = 1e3 * moved / (1e9 * device.bandwidth_gbs * share)
    bound = arithmetic >= memory
    launch = parameters["launch_us"] * 1e-3 * len(macs) if device.is_gpu else 0.0
    return Time(float(arithmetic[bound].sum()), float(memory[~bound].sum()), launch)


def work(task: Task) -> tuple[Floats, Floats]:
    """Multiply-accumulates and bytes of each layer that costs time of its own: two vectors."""
    precision = task.device.runs_as(task.precision)
    fused = task.device.is_gpu and precision != "fp32"
    return _work(task.variant, task.size, task.classes, precision, task.form, fused)


@lru_cache(maxsize=512)
def _work(
    variant: str, size: FrameSize, classes: int, precision: Precision, form: Form, fused: bool
) -> tuple[Floats, Floats]:
    net = network(variant, size, classes, form=form, fused_attention=fused)
    pairs = [
        (layer.macs, moved.total)
        for layer, moved in zip(net.layers, layer_bytes(net, precision), strict=True)
        if layer.kind != "elementwise"
    ]
    table = np.array(pairs, dtype=np.float64)
    return table[:, 0], table[:, 1]


def _reached_tflops(task: Task, parameters: Parameters) -> float:
    device, precision = task.device, task.device.runs_as(task.precision)
    reached = device.peak_tflops(precision) * parameters["compute"]
    if precision == "int8":
        reached *= parameters["int8_gain"]
    if device.is_gpu and precision == "fp32":
        reached *= parameters["fp32_gain"]
    if not device.is_gpu and task.engine == "onnxruntime":
        reached *= parameters["onnxruntime_gain"]
    return reached
