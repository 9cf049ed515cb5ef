"""Latency and memory of a SegFormer on a device that is not here: estimated, never measured.

`roofline` says what a network would take at given efficiencies, `roofline_fit` takes those from
published latencies, and this joins them with the error found by leaving out one design of cores at
a time, with every board that has it.
The fit is kept in `data/fit.json`; after a change to the data or the model, make it again:

    python -m segformer_deploy.bench.estimate --fit
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from segformer_deploy.bench.cost import Form, network
from segformer_deploy.bench.devices import GROUP_NAMES, Device
from segformer_deploy.bench.memory_model import Memory, memory_of
from segformer_deploy.bench.published import Published, disagreements, published_rows
from segformer_deploy.bench.roofline import Task, Time, side_of, time_of
from segformer_deploy.bench.roofline_fit import FEWEST_BOARDS, FEWEST_ROWS, Fit, Spread, fit_to_dict
from segformer_deploy.files import write_text
from segformer_deploy.spec import FrameSize, Precision

FIT_FILE = "data/fit.json"


@dataclass(frozen=True)
class OnThisDevice:
    """A published row of the device, and what the fit (which has seen it) gives for it."""

    row: Published
    estimate_ms: float

    @property
    def text(self) -> str:
        row, digits = self.row, ".0f" if self.estimate_ms >= 1000 else ".3g"
        return (
            f"{row.variant} {row.size} {row.precision}, published form: {row.latency_ms:g} ms "
            f"({row.publication}, {row.engine}); estimated there: {self.estimate_ms:{digits}} ms"
        )

    def to_dict(self) -> dict[str, Any]:
        row = self.row
        return {
            "row": row.row,
            "variant": row.variant,
            "size": str(row.size),
            "classes": row.classes,
            "precision": row.precision,
            "form": "published",
            "engine": row.engine,
            "published_ms": row.latency_ms,
            "estimate_ms": round(self.estimate_ms, 4),
            "source": row.source,
        }


@dataclass(frozen=True)
class Estimate:
    """What a network is estimated to take on one device.

    Attributes:
        task: network, size, precision, device, engine.
        macs: multiply-accumulates of one run.
        time: milliseconds of one frame through the network alone, by what they wait for.
        error: of this kind of device, each design of cores left out in turn; None figures where
            unknown.
        error_all: the same over every published row.
        memory: device memory on a GPU, the process's on a CPU.
        published: rows of this very device, to hold the estimate against.
        notes: what makes this estimate less than the error says.
    """

    task: Task
    macs: int
    time: Time
    error: Spread
    error_all: Spread
    memory: Memory
    published: tuple[OnThisDevice, ...]
    notes: tuple[str, ...]

    @property
    def range_ms(self) -> tuple[float, float] | None:
        """The estimate divided and multiplied by the 90th percentile of the error."""
        p90 = self.error.p90
        return None if p90 is None else (self.time.total / p90, self.time.total * p90)

    @property
    def error_text(self) -> str:
        """The error in words, for people."""
        kind, error = GROUP_NAMES[self.task.device.group], self.error
        if error.median is not None and error.p90 is not None:
            return (
                f"median {error.median:.2f}x, 90th percentile {error.p90:.2f}x "
                f"({error.rows} published rows of {error.boards} {kind}, each left out with all "
                f"devices of the same cores: {error.left_out} designs)"
            )
        if error.worst is None:
            return f"unknown: no published row of {kind} can be used"
        return (
            f"unknown: {error.rows} published rows of {error.boards} of the {kind}, and "
            f"{FEWEST_ROWS} rows of {FEWEST_BOARDS} are needed; left out, the worst was off by "
            f"{error.worst:.2f}x"
        )

    def to_dict(self) -> dict[str, Any]:
        task, bounds = self.task, self.range_ms
        return {
            "estimated": True,
            "device": task.device.to_dict(),
            "variant": task.variant,
            "size": str(task.size),
            "classes": task.classes,
            "precision": task.precision,
            "runs_as": task.device.runs_as(task.precision),
            "engine": task.engine,
            "form": task.form,
            "macs": self.macs,
            "latency_ms": {
                "estimate": round(self.time.total, 4),
                "low": round(bounds[0], 4) if bounds else None,
                "high": round(bounds[1], 4) if bounds else None,
            },
            "fps": round(1000 / self.time.total, 3),
            "bound_ms": {
                "compute": round(self.time.compute, 4),
                "bandwidth": round(self.time.bandwidth, 4),
                "launch": round(self.time.launch, 4),
            },
            "error": {
                "what": "max(estimate / published, published / estimate), left out with all "
                "devices of the same cores",
                "kind": GROUP_NAMES[task.device.group],
                "known": self.error.median is not None,
                **self.error.to_dict(),
                "all_devices": self.error_all.to_dict(),
            },
            "memory": {**self.memory.to_dict(), "device_bytes": task.device.memory_bytes},
            "published": [one.to_dict() for one in self.published],
            "notes": list(self.notes),
        }


def estimate(
    device: Device,
    variant: str,
    size: FrameSize,
    classes: int,
    precision: Precision | None = None,
    form: Form = "deploy",
) -> Estimate:
    """The estimate for `variant` at `size` on `device`.

    Args:
        precision: None takes fp16 on a GPU and fp32 on a CPU.
        form: ``deploy`` is what `segdeploy export` writes.

    Raises SpecError or FrameError where there is no such network.
    """
    chosen: Precision = precision or ("fp16" if device.is_gpu else "fp32")
    engine = "tensorrt" if device.is_gpu else "onnxruntime"
    task = Task(variant, size, classes, chosen, device, engine, form)
    macs = network(variant, size, classes, form=form).macs
    data = stored_fit()
    memory = memory_of(device, variant, size, classes, chosen, form)
    return Estimate(
        task,
        macs,
        time_of(task, data["parameters"][side_of(device)]),
        Spread(**data["errors"][device.group]),
        Spread(**data["errors"]["all"]),
        memory,
        _published(device),
        tuple(_notes(task, memory)),
    )


@lru_cache(maxsize=1)
def stored_fit() -> dict[str, Any]:
    """The committed fit, as `fit_to_dict` made it."""
    text = files("segformer_deploy.bench").joinpath(FIT_FILE).read_text("utf-8")
    data: dict[str, Any] = json.loads(text)
    return data


def _published(device: Device) -> tuple[OnThisDevice, ...]:
    fitted = Fit(stored_fit()["parameters"])
    rows = [row for row in published_rows() if row.device == device]
    return tuple(OnThisDevice(row, fitted.estimate(row)) for row in rows)


def _notes(task: Task, memory: Memory) -> list[str]:
    device, runs = task.device, task.device.runs_as(task.precision)
    same_side = [row for row in published_rows() if row.device.is_gpu == device.is_gpu]
    notes = []
    if runs != task.precision:
        notes.append(f"{device.name} runs {task.precision} no faster than {runs}")
    if not any(row.device.group == device.group and row.precision == runs for row in same_side):
        kind = GROUP_NAMES[device.group]
        notes.append(f"no published row of {kind} in {runs}: its error may be another")
    notes += [
        f"published {one.precision} rows of this device differ by {one.ratio:.1f}x per "
        f"multiply-accumulate ({one.slow.publication} against {one.fast.publication}, "
        f"rows {one.slow.row} and {one.fast.row})"
        for one in disagreements()
        if one.device == device and one.precision == runs
    ]
    if task.form == "deploy":
        notes.append(
            "published rows are of the published form: that the deploy form is as efficient per "
            "multiply-accumulate is assumed"
        )
    if device.has_tf32 and runs == "fp32":
        notes.append("TF32, which TensorRT may use for FP32 from Ampere on, is not counted")
    fastest = max(row.device.peak_tflops(runs) for row in same_side)
    if device.peak_tflops(runs) > fastest:
        notes.append("faster than every device with a published row: extrapolated")
    if device.recalled:
        notes.append("some of this device's figures are from memory (RECALL), not from a source")
    if memory.high > device.memory_bytes:
        fits = "does not fit" if memory.total > device.memory_bytes else "may not fit"
        notes.append(f"{fits} into {device.memory_bytes / 1e6:.0f} MB of memory")
    return notes


def main(arguments: Sequence[str]) -> int:
    """``--fit``: make `data/fit.json` from the committed data; 2 for anything else."""
    if list(arguments) != ["--fit"]:
        print("usage: python -m segformer_deploy.bench.estimate --fit", file=sys.stderr)
        return 2
    data = fit_to_dict(published_rows())
    path = Path(str(files("segformer_deploy.bench").joinpath(FIT_FILE)))
    write_text(path, json.dumps(data, indent=1) + "\n")
    error = data["errors"]["all"]
    print(
        f"{path}: {error['rows']} rows of {error['boards']} boards; each design of cores left out: "
        f"median {error['median']:.2f}x, 90th percentile {error['p90']:.2f}x",
        file=sys.stderr,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
