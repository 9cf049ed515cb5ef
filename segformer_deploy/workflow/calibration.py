"""`segdeploy calibrate`: ranges into a file, and on request the blocks' sensitivity."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segformer_deploy.calibrate.calibration import CalibrationOptions
from segformer_deploy.calibrate.ranges import SUFFIX, Ranges
from segformer_deploy.engine.onnx_file import spec_from_onnx
from segformer_deploy.spec import FrameSize
from segformer_deploy.workflow.choice import Progress, Say
from segformer_deploy.workflow.precision import PrecisionOptions, ranking_from_ranges
from segformer_deploy.workflow.ranges import (
    RangesRequest,
    calibration_frames,
    default_ranges_path,
    new_ranges,
)
from segformer_deploy.workflow.sensitivity import BlockDamage, write_chart


@dataclass(frozen=True)
class CalibrationRequest:
    """What `segdeploy calibrate` was asked for; see its options."""

    onnx: Path
    images: Path | None
    samples: int
    options: CalibrationOptions
    opt: FrameSize | None = None
    output: Path | None = None
    sensitivity: bool = False
    gate: tuple[Path, Path | None] | None = None
    chart: Path | None = None


@dataclass(frozen=True)
class CalibrationResult:
    """The ranges and their file; the ranking and its chart where they were asked for."""

    path: Path
    ranges: Ranges
    ranking: tuple[BlockDamage, ...]
    chart: Path | None

    def to_dict(self) -> dict[str, Any]:
        ranges = self.ranges
        return {
            "ranges": str(self.path),
            "graph_sha256": ranges.graph_sha256,
            "method": ranges.method,
            "percentile": ranges.percentile,
            "frames": len(ranges.frames),
            "origin": ranges.origin,
            "network": ranges.network,
            "warnings": list(ranges.warnings),
            "sensitivity": [one.to_dict() for one in self.ranking],
            "chart": str(self.chart) if self.chart else None,
        }


def run_calibration(request: CalibrationRequest, say: Say, progress: Progress) -> CalibrationResult:
    """Calibrate and write the ranges file.

    Raises what `new_ranges` raises, and OutputError.
    """
    spec = spec_from_onnx(request.onnx).stretched_to(request.opt)
    wanted = RangesRequest(request.images, spec, request.samples, request.options)
    frames = calibration_frames(request.onnx, wanted, say)
    ranges = new_ranges(request.onnx, frames, wanted, say, progress)
    path = request.output or default_ranges_path(request.onnx)
    ranges.write(path)
    if not request.sensitivity:
        return CalibrationResult(path, ranges, (), None)
    options = PrecisionOptions(
        "int8", calibration=request.images, samples=request.samples, gate=request.gate
    )
    ranking = ranking_from_ranges(request.onnx, spec, ranges, options, progress)
    chart = request.chart or path.with_name(path.name.removesuffix(SUFFIX) + ".sensitivity.png")
    write_chart(chart, ranking)
    return CalibrationResult(path, ranges, ranking, chart)
