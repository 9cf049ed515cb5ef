"""Memory of a network on a device that is not here: counted live bytes, times what was seen.

On a GPU: weights, and activations as TensorRT-RTX's builder counted them for our own graphs of B0
to B5 (`data/builder_memory.csv`), a ratio to the counted peak of live values per precision. On a
CPU: the whole process, as TFLite and ONNX Runtime needed in published rows.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any, get_args

from segformer_deploy.bench.cost import Form, Network, network
from segformer_deploy.bench.cost_bytes import peak_live_bytes, weight_bytes
from segformer_deploy.bench.devices import Device
from segformer_deploy.bench.published import published_rows
from segformer_deploy.spec import FrameSize, Precision

GPU_SOURCE = (
    "weights counted; activations: live bytes counted, times the ratio to what TensorRT-RTX "
    "1.7.1's builder stated for our graphs of B0 to B5; without CUDA's context (no device has "
    "run those plans)"
)
CPU_SOURCE = (
    "weights and live bytes counted, times the ratio to the process memory of published TFLite "
    "and ONNX Runtime rows; the native engine needs less"
)


@dataclass(frozen=True)
class Ratio:
    """Stated memory over counted memory: geometric mean, smallest, largest, number of cases."""

    mean: float
    low: float
    high: float
    cases: int


@dataclass(frozen=True)
class Memory:
    """Estimated bytes.

    Attributes:
        weights: counted.
        activations: counted peak of what is alive at once, before the ratio.
        total, low, high: weights and activations as the ratios have them.
        ratio: what activations (GPU) or everything (CPU) was multiplied with.
        source: where that comes from.
    """

    weights: int
    activations: int
    total: int
    low: int
    high: int
    ratio: Ratio
    source: str

    def to_dict(self) -> dict[str, Any]:
        return {
            "weights_bytes": self.weights,
            "counted_activation_bytes": self.activations,
            "total_bytes": self.total,
            "low_bytes": self.low,
            "high_bytes": self.high,
            "ratio": {**self.ratio.__dict__},
            "source": self.source,
        }


def memory_of(
    device: Device,
    variant: str,
    size: FrameSize,
    classes: int,
    precision: Precision,
    form: Form = "deploy",
) -> Memory:
    """What `variant` needs on `device`: device memory on a GPU, the process's on a CPU."""
    if device.is_gpu:
        # The graph has the precision that was asked for, whatever the arithmetic.
        net = gpu_network(variant, size, classes, precision, form)
        weights, live = weight_bytes(net, precision), peak_live_bytes(net, precision)
        ratio = builder_ratio(precision)
        total, low, high = (
            weights + round(live * factor) for factor in (ratio.mean, ratio.low, ratio.high)
        )
        return Memory(weights, live, total, low, high, ratio, GPU_SOURCE)
    net = network(variant, size, classes, form=form)
    weights, live = _on_a_cpu(net, device.runs_as(precision))
    ratio = process_ratio()
    total, low, high = (
        round((weights + live) * factor) for factor in (ratio.mean, ratio.low, ratio.high)
    )
    return Memory(weights, live, total, low, high, ratio, CPU_SOURCE)


def gpu_network(
    variant: str, size: FrameSize, classes: int, precision: Precision, form: Form = "deploy"
) -> Network:
    """The layers as a GPU engine runs them: attention is one kernel, except in FP32."""
    return network(variant, size, classes, form=form, fused_attention=precision != "fp32")


@lru_cache(maxsize=3)
def builder_ratio(precision: Precision) -> Ratio:
    """Activation memory that the builder stated, over the counted peak of live bytes."""
    text = files("segformer_deploy.bench").joinpath("data/builder_memory.csv").read_text("utf-8")
    found = []
    for row in csv.DictReader(text.splitlines()):
        if row["precision"] == precision:
            size = FrameSize(int(row["height"]), int(row["width"]))
            net = gpu_network(row["variant"], size, int(row["classes"]), precision)
            found.append(int(row["activation_bytes"]) / peak_live_bytes(net, precision))
    assert precision in get_args(Precision)
    return _ratio(found)


@lru_cache(maxsize=1)
def process_ratio() -> Ratio:
    """Memory of a process that was published for a CPU, over counted weights and live bytes."""
    found = []
    for row in published_rows():
        if not row.device.is_gpu and row.memory_mb is not None:
            net = network(row.variant, row.size, row.classes, form="published")
            found.append(row.memory_mb * 1e6 / sum(_on_a_cpu(net, row.precision)))
    return _ratio(found)


def _on_a_cpu(net: Network, precision: Precision) -> tuple[int, int]:
    """Weights and live bytes; there, values around INT8 products come back to FP32."""
    return weight_bytes(net, precision), peak_live_bytes(net, "fp32")


def _ratio(found: list[float]) -> Ratio:
    mean = math.exp(sum(map(math.log, found)) / len(found))
    return Ratio(mean, min(found), max(found), len(found))
