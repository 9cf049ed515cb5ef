"""How long a device works on one frame: measured, from a result of bench; or estimated."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segformer_deploy.bench.devices import GROUP_NAMES
from segformer_deploy.bench.roofline import side_of, time_of
from segformer_deploy.errors import InputError

if TYPE_CHECKING:
    from segformer_deploy.bench.estimate import Estimate

_NETWORK_ALONE = (
    "estimated for the network alone: resizing the frame, class map and decoding are not in it "
    "(--overhead adds what they take)"
)
_SHORTEST_MS, _LONGEST_MS = 1e-6, 3_600_000.0
"""A nanosecond and an hour: what lies beyond is no frame's time."""


@dataclass(frozen=True)
class Times:
    """Milliseconds of work for one frame, and how sure they are.

    InputError where a time is not between a nanosecond and an hour.

    Attributes:
        ms: the samples of a measurement, or one estimate.
        measured: whether somebody measured them.
        source: what they are of, in words.
        low, high: the ends of an estimate's error; None of a measurement, and where unknown.
        low_is: ``error`` (its 90th percentile), ``roofline`` (the device's peaks, all reached: no
            network is faster there) or ``none``.
        notes: what makes them less than they seem.
    """

    ms: tuple[float, ...]
    measured: bool
    source: str
    low: float | None = None
    high: float | None = None
    low_is: str = "none"
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        ends = (end for end in (self.low, self.high) if end is not None)
        for one in (*self.ms, *ends):
            if not _SHORTEST_MS <= one <= _LONGEST_MS:
                raise InputError(
                    f"a frame of {one:g} ms ({self.source})",
                    f"from {_SHORTEST_MS:g} to {_LONGEST_MS:.0f} ms (an hour)",
                    "check the samples and --overhead",
                )

    @property
    def mean(self) -> float:
        return float(np.mean(self.ms))

    @property
    def scv(self) -> float:
        """Squared coefficient of variation: variance over squared mean."""
        return float(np.var(self.ms)) / self.mean**2

    def with_overhead(self, ms: float) -> Times:
        """The same, each frame taking `ms` longer."""
        return replace(
            self,
            ms=tuple(one + ms for one in self.ms),
            low=None if self.low is None else self.low + ms,
            high=None if self.high is None else self.high + ms,
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "measured": self.measured,
            "source": self.source,
            "ms": {
                "low": None if self.low is None else round(self.low, 4),
                "likely": round(self.mean, 4),
                "high": None if self.high is None else round(self.high, 4),
                "p99": round(float(np.percentile(self.ms, 99)), 4),
            },
            "low_is": self.low_is,
            "samples": len(self.ms) if self.measured else 0,
        }


def times_from_file(path: Path) -> Times:
    """Of a JSON that `segdeploy bench --json` printed or a matrix left; InputError for another."""
    try:
        data = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} does not read: {error}", "a result of segdeploy bench", _measure()
        ) from error
    if not isinstance(data, dict):
        raise InputError(f"{path} holds no object", "a result of segdeploy bench", _measure())
    if "results" in data:
        raise InputError(
            f"{path} is of a whole matrix", "the JSON of one case", "name one file of its folder"
        )
    return times_from_result(data, str(path))


def times_from_result(result: Mapping[str, Any], name: str) -> Times:
    """Of one result: its samples, frame in memory to class map in memory.

    InputError where it is an estimate, failed, or has no samples.
    """
    if result.get("estimated"):
        raise InputError(
            f"{name} is an estimate", "a measurement", "name the device instead: --device NAME"
        )
    if result.get("error"):
        raise InputError(f"{name} is of a case that failed", "a result with figures", _measure())
    samples = result.get("samples_ms")
    if not (isinstance(samples, list) and samples and all(map(_is_time, samples))):
        raise InputError(f"{name} has no samples_ms", "a result of segdeploy bench", _measure())
    network = f"{result.get('engine', '')} {result.get('size', '')} on {result.get('backend', '')}"
    notes = tuple(str(text) for text in result.get("warnings") or ())
    if len(samples) < 100:
        notes += (f"{len(samples)} measured frames: a rare slow one may be missing (--runs 100)",)
    return Times(tuple(map(float, samples)), True, f"{name}: {network}", notes=notes)


def times_from_estimate(estimate: Estimate) -> Times:
    """Of a device that is not here, with its error; where that is unknown, the roofline below."""
    task, bounds = estimate.task, estimate.range_ms
    source = f"estimate of {task.variant} {task.size} {task.precision} on {task.device.slug}"
    notes = (_NETWORK_ALONE, f"error of the estimate: {estimate.error_text}", *estimate.notes)
    likely = (estimate.time.total,)
    if bounds is not None:
        return Times(likely, False, source, *bounds, "error", notes)
    kind = GROUP_NAMES[task.device.group]
    notes += (f"measure on one of the {kind}: segdeploy bench --json, then --measured FILE",)
    return Times(likely, False, source, roofline_ms(estimate), None, "roofline", notes)


def roofline_ms(estimate: Estimate) -> float:
    """Milliseconds with every peak reached and nothing to launch: a bound, not an estimate.

    On a GPU each layer's bytes still go through memory once: only a cache that holds whole
    activations would be faster. A CPU's share of its bandwidth is assumed, so there arithmetic
    alone counts. The peaks are the highest of each type: INT8's where the device has one; half of
    that for FP16, which GeForce cards reach with FP16 sums; eight times FP32's with TF32 (A100:
    156 and 19.5 TFLOPS; others have less).
    """
    task, device = estimate.task, estimate.task.device
    runs, peak = device.runs_as(task.precision), device.peak_tflops(task.precision)
    int8 = device.int8_tops or 0.0
    compute = max(1.0, int8 / 2 / peak) if runs == "fp16" else 1.0
    full = {
        "compute": compute,
        "bandwidth": 1.0,
        "launch_us": 0.0,
        "fp32_gain": 8.0 if device.has_tf32 else 1.0,
        "int8_gain": max(1.0, int8 / peak),
        "onnxruntime_gain": 1.0,
    }
    time = time_of(task, full)
    return time.total if side_of(device) == "gpu" else time.compute


def _is_time(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 < value < math.inf


def _measure() -> str:
    return "segdeploy bench ENGINE --runs 100 --json > here.json"
