"""What a machine could do at most, and how near its cases come to it.

A network of intensity I (multiply-accumulates per byte that it moves) runs at most at

    min(peak, I * bandwidth)

multiply-accumulates a second (Williams, Waterman and Patterson 2009). Its MACs and bytes come
from `bench.cost`: each layer reads its inputs and weights once and writes its output once, as if
no cache kept anything from one layer to the next; elementwise layers belong to their neighbours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from segformer_deploy.bench.report.fields import items, mapping, positive
from segformer_deploy.bench.report.machine import machine_from_dict
from segformer_deploy.bench.report.model import Case, Group, Other
from segformer_deploy.errors import SegdeployError
from segformer_deploy.spec import FrameSize

_COLUMNS = {"fp32": "fp32_tflops", "fp16": "fp16_tflops", "int8": "int8_tops"}


@dataclass(frozen=True)
class Peaks:
    """precision -> the most 10^9 MACs a second; 10^9 bytes a second; where they come from."""

    gmac_s: Mapping[str, float] = field(default_factory=dict)
    gb_s: float | None = None
    source: str = ""
    measured: bool = False


@dataclass(frozen=True)
class Work:
    """One case under the roof: MACs, bytes, and 10^9 MACs a second that it reached."""

    case: Case
    macs: float
    bytes: float
    gmac_s: float

    @property
    def intensity(self) -> float:
        return self.macs / self.bytes


@dataclass(frozen=True)
class Roofline:
    """`works` and `peaks`, or in `absent` the sentence that says why there are none."""

    works: tuple[Work, ...] = ()
    peaks: Peaks = Peaks()
    absent: str = ""
    left_out: tuple[str, ...] = ()


def roofline_of_group(group: Group, others: Sequence[Other] = ()) -> Roofline:
    """The roofline of one machine's cases; of the peaks, measured ones go before a table's."""
    try:
        cost = import_module("segformer_deploy.bench.cost")
        moved = import_module("segformer_deploy.bench.cost_bytes")
    except ImportError:
        return Roofline(absent="No roofline: this installation cannot count a network's work.")
    works, left_out = [], []
    for case in group.timed:
        found = _work(case, cost, moved)
        if isinstance(found, Work):
            works.append(found)
        elif found not in left_out:
            left_out.append(found)
    if not works:
        why = "; ".join(left_out) or "no case has a latency"
        return Roofline(absent=f"No roofline: {why}.")
    return Roofline(tuple(works), peaks_of_group(group, others), left_out=tuple(left_out))


def peaks_of_group(group: Group, others: Sequence[Other]) -> Peaks:
    """What is known of the machine: from its own file, a measured product, or the device table."""
    machine = group.machine
    if machine.peak_gmac_s:
        source = machine.peaks_from or "the results' own file"
        return Peaks({"fp32": machine.peak_gmac_s}, machine.peak_gb_s, source, True)
    for other in others:
        if other.kind == "scaling" and machine_from_dict(other.data.get("machine")).key == (
            machine.key
        ):
            reached = [
                positive(mapping(entry).get("gmac_per_s")) or 0.0
                for entry in items(other.data.get("product"))
            ]
            if any(reached):
                source = f"a large FP32 matrix product, measured on this machine ({other.source})"
                return Peaks({"fp32": max(reached)}, None, source, True)
    return _peaks_from_table(machine.name)


def _peaks_from_table(name: str) -> Peaks:
    try:
        device = import_module("segformer_deploy.bench.devices").device_named(name).to_dict()
    except (ImportError, SegdeployError, AttributeError):
        return Peaks()
    # The table counts a multiply-accumulate as two operations.
    gmac_s = {
        precision: 1e3 * found / 2
        for precision, column in _COLUMNS.items()
        if (found := positive(device.get(column))) is not None
    }
    return Peaks(gmac_s, positive(device.get("bandwidth_gbs")), "the table of devices")


def _work(case: Case, cost: Any, moved: Any) -> Work | str:
    """The case's work, or why it has none."""
    if not case.variant:
        return "a variant is not stated"
    classes = case.classes or _classes_of_score(case) or classes_of_engine(case.engine)
    if classes is None:
        return "the number of classes is not stated"
    try:
        net = cost.network(case.variant, FrameSize.parse(case.size), classes)
        precision = case.precision if case.precision in _COLUMNS else "fp32"
        total = sum(
            layer_moved.total
            for layer, layer_moved in zip(
                net.layers, moved.layer_bytes(net, precision), strict=True
            )
            if layer.kind != "elementwise"
        )
    except SegdeployError as error:
        return error.found
    # The network alone where its time is known: resizing and class maps are no MACs.
    milliseconds = case.stages.get("infer") or case.p50
    assert milliseconds is not None
    return Work(case, net.macs, total, net.macs / milliseconds / 1e6)


def _classes_of_score(case: Case) -> int | None:
    return (len(case.accuracy.per_class) or None) if case.accuracy is not None else None


def classes_of_engine(engine: str) -> int | None:
    """From the description of the engine folder, where it still lies at that path."""
    try:
        text = (Path(engine) / "manifest.json").read_text(encoding="utf-8") if engine else ""
        names = mapping(mapping(json.loads(text)).get("spec")).get("class_names")
    except (OSError, ValueError):
        return None
    return len(items(names)) or None
