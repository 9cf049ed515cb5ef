"""Published latencies of SegFormer: which rows the estimate stands on, and why not the others."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import cast, get_args

from segformer_deploy.bench.cost import network
from segformer_deploy.bench.devices import Device, device_named
from segformer_deploy.spec import FrameSize, Precision

EXCLUSIONS = {
    "other-network": "not a SegFormer of the paper (pruned, LayerNorm replaced, another encoder)",
    "no-engine": "no latency: the conversion failed",
    "framework": "a PyTorch pipeline of a paper or model zoo; its device is not stated beside it",
    "batch": "more than one frame at a time",
    "size-unknown": "the size of the input is not stated",
    "host-steps": "with another program's steps on the host; the engine alone is another row",
    "power-mode": "a power mode of which no clocks were found",
    "device-unknown": "the device is not named, or its peaks are not in the table",
    "recall": "not read in a source",
}
"""Why a row of `data/published.csv` is not used; the first reason that holds, in this order."""


@dataclass(frozen=True)
class Published:
    """One published latency that the model is fitted to.

    Attributes:
        row: its number in `data/published.csv`.
        publication: a short name of its source; rows of one publication share its habits.
        variant, size, classes: the network, in its published form.
        precision: of the arithmetic as the device does it (TFLite's FP16 files: FP32 on a CPU).
        engine: ``tensorrt``, ``onnxruntime`` or ``tflite``.
        latency_ms: of one frame, the network alone.
        memory_mb: as published, or None; `memory_kind` says of what.
        source, note: as in the file.
    """

    row: int
    publication: str
    variant: str
    size: FrameSize
    classes: int
    precision: Precision
    engine: str
    device: Device
    latency_ms: float
    memory_mb: float | None
    memory_kind: str
    source: str
    note: str


@lru_cache(maxsize=1)
def raw_rows() -> tuple[dict[str, str], ...]:
    """Every row of `data/published.csv`, used or not."""
    text = files("segformer_deploy.bench").joinpath("data/published.csv").read_text("utf-8")
    return tuple(csv.DictReader(text.splitlines()))


@lru_cache(maxsize=1)
def published_rows() -> tuple[Published, ...]:
    """The rows that are used: batch 1, the network alone, size and device known."""
    return tuple(_published(row) for row in raw_rows() if not row["excluded"])


@dataclass(frozen=True)
class Disagreement:
    """Rows of one device in one precision that no model of the device can both meet.

    Attributes:
        ratio: the slowest over the fastest, in milliseconds per multiply-accumulate.
        slow, fast: these two rows.
    """

    device: Device
    precision: Precision
    ratio: float
    slow: Published
    fast: Published


DISAGREEING = 1.5
"""From this ratio on, it is said."""


@lru_cache(maxsize=1)
def disagreements() -> tuple[Disagreement, ...]:
    """Where published rows of one device and precision differ by `DISAGREEING` or more."""
    groups: dict[tuple[str, Precision], list[Published]] = {}
    for row in published_rows():
        groups.setdefault((row.device.slug, row.precision), []).append(row)
    found = []
    for (_, precision), rows in groups.items():
        slow, fast = max(rows, key=_per_mac), min(rows, key=_per_mac)
        ratio = _per_mac(slow) / _per_mac(fast)
        if ratio >= DISAGREEING:
            found.append(Disagreement(slow.device, precision, ratio, slow, fast))
    return tuple(found)


def _per_mac(row: Published) -> float:
    return row.latency_ms / network(row.variant, row.size, row.classes, form="published").macs


def _published(row: dict[str, str]) -> Published:
    assert row["precision"] in get_args(Precision)
    precision = cast(Precision, row["precision"])
    return Published(
        row=int(row["row"]),
        publication=row["publication"],
        variant=row["variant"],
        size=FrameSize(int(row["height"]), int(row["width"])),
        classes=int(row["classes"]),
        precision=precision,
        engine=row["engine"],
        device=device_named(row["device"]),
        latency_ms=float(row["latency_ms"]),
        memory_mb=float(row["memory_mb"]) if row["memory_mb"] else None,
        memory_kind=row["memory_kind"],
        source=row["source"],
        note=row["note"],
    )
