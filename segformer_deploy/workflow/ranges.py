"""Which ranges to build with: a file, an earlier calibration, or a new one."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from segformer_deploy.calibrate.calibration import (
    DEFAULT_SAMPLES,
    CalibrationOptions,
    calibrate,
)
from segformer_deploy.calibrate.channel_order import MOST_ASKED, channel_order_warning
from segformer_deploy.calibrate.frame_checks import FrameChecker
from segformer_deploy.calibrate.frames import FrameSet, StreetFrames, frames_from_source
from segformer_deploy.calibrate.ranges import SUFFIX, Ranges, read_ranges
from segformer_deploy.errors import InputError
from segformer_deploy.files import sha256_of_file
from segformer_deploy.graph.metadata import fp32_spec
from segformer_deploy.shipped import ONNX_FILE, shipped_file
from segformer_deploy.spec import ModelSpec
from segformer_deploy.workflow.choice import Progress, Say
from segformer_deploy.workflow.judge import JudgedFrames, as_written

FOLDER = Path("calibration")
_STREET_FRAMES = 64


@dataclass(frozen=True)
class RangesRequest:
    """Where ranges are to come from.

    Attributes:
        source: a folder of frames, a video, a ranges file, or None: an earlier calibration of
            this graph under ``calibration/``, else generated streets for the demo model.
        samples: the most frames to take.
        options: how ranges are found.
        spec: of the engine to be built: its resize rule decides what the network sees.
    """

    source: Path | None
    spec: ModelSpec
    samples: int = DEFAULT_SAMPLES
    options: CalibrationOptions = field(default_factory=CalibrationOptions)

    @property
    def is_file(self) -> bool:
        return self.source is not None and self.source.suffix == ".json"


def default_ranges_path(onnx_file: Path) -> Path:
    """``calibration/<model>.ranges.json``."""
    return FOLDER / f"{onnx_file.stem}{SUFFIX}"


def ranges_for(
    onnx_file: Path,
    request: RangesRequest,
    say: Say,
    progress: Progress,
    judged: JudgedFrames | None = None,
) -> Ranges:
    """The ranges that `request` asks for; a new calibration is kept for the next time.

    With `judged`, frames that are unlike those are warned of.

    Raises InputError where a file's ranges are not those of this graph, or frames are needed
    and none were named.
    """
    digest = sha256_of_file(onnx_file)
    if request.is_file:
        assert request.source is not None
        return _from_file(request.source, digest)
    kept = default_ranges_path(onnx_file)
    if request.source is None and kept.is_file():
        # Only the graph can be compared: nobody said which frames.
        found = read_ranges(kept)
        misfit = found.misfit(digest)
        if misfit is None:
            say(f"ranges: {kept} ({len(found.frames)} frames of {found.origin})")
            _say_warnings(found, say)
            return found
        say(f"{kept} is not used: {misfit}")
    frames = calibration_frames(onnx_file, request, say)
    earlier = _matching(kept, digest, frames, request, say) if kept.is_file() else None
    if earlier is not None:
        return earlier
    ranges = new_ranges(onnx_file, frames, request, say, progress, judged)
    ranges.write(kept)
    say(f"ranges: {kept} ({len(ranges.frames)} frames of {ranges.origin}, {ranges.method})")
    return ranges


def _from_file(path: Path, digest: str) -> Ranges:
    ranges = read_ranges(path)
    misfit = ranges.misfit(digest)
    if misfit:
        raise InputError(
            f"{path} cannot be used: {misfit}",
            "ranges of this graph, found by this version",
            "calibrate again: segdeploy calibrate, or name the frames with --calibration",
        )
    return ranges


def _matching(
    path: Path, digest: str, frames: FrameSet, request: RangesRequest, say: Say
) -> Ranges | None:
    """The ranges in `path` where everything about them matches; why not is said."""
    try:
        found = read_ranges(path)
    except InputError as error:
        say(f"{path} is not used: {error.found}")
        return None
    options = request.options
    misfit = found.misfit(digest, method=options.method, percentile=options.percentile)
    if misfit is None and found.equalise != options.equalise:
        misfit = "they were found with another choice of equalisation"
    if misfit is None:
        misfit = found.misfit(digest, frames=tuple(frame.sha256 for frame in frames))
    if misfit:
        say(f"{path} is not used: {misfit}")
        return None
    say(f"ranges: {path}, found earlier from the same {len(found.frames)} frames")
    _say_warnings(found, say)
    return found


def _say_warnings(ranges: Ranges, say: Say) -> None:
    for warning in ranges.warnings:
        say(f"WARNING: {warning}")


def calibration_frames(onnx_file: Path, request: RangesRequest, say: Say) -> FrameSet:
    """The frames that are named, or generated streets for the demo model; InputError else."""
    rule = request.spec.resize
    if request.source is not None:
        return frames_from_source(request.source, rule, request.samples)
    if not is_demo_model(onnx_file, request.spec):
        raise InputError(
            "no frames were named to calibrate on",
            "frames like those of the camera, 32 or more, better 200",
            "--calibration FOLDER (or a video)",
        )
    frames = StreetFrames(min(request.samples, _STREET_FRAMES), rule)
    say(f"no frames were named: the demo model is calibrated on {frames.origin}")
    return frames


def is_demo_model(onnx_file: Path, spec: ModelSpec) -> bool:
    """Whether the weights are those of the model that comes with the package."""
    shipped = shipped_file(ONNX_FILE)
    if shipped is None or spec.weights.random:
        return False
    from segformer_deploy.engine.onnx_file import spec_from_onnx

    return spec_from_onnx(shipped).weights.sha256 == spec.weights.sha256


def new_ranges(
    onnx_file: Path,
    frames: FrameSet,
    request: RangesRequest,
    say: Say,
    progress: Progress,
    judged: JudgedFrames | None = None,
) -> Ranges:
    """Calibrate, look at the frames, and say what is wrong with them."""
    checker = FrameChecker()
    passes = 1 if request.options.method == "minmax" else 2
    with progress("calibrating", passes * len(frames)) as advance:
        ranges = calibrate(onnx_file, frames, request.options, on_frame=advance, checker=checker)
    warnings = [warning.message for warning in checker.warnings(_looked_at(judged))]
    swapped = _channel_order(onnx_file, frames)
    warnings += [swapped] if swapped else []
    for warning in warnings:
        say(f"WARNING: {warning}")
    return replace(ranges, warnings=tuple(warnings))


def _looked_at(judged: JudgedFrames | None) -> FrameChecker | None:
    if judged is None:
        return None
    checker = FrameChecker()
    for frame in judged:
        checker.add(frame.image, frame.name)
    return checker


def _channel_order(onnx_file: Path, frames: FrameSet) -> str | None:
    model = onnx.load(onnx_file)
    if fp32_spec(model).weights.random:
        return None
    chosen = set(np.linspace(0, len(frames) - 1, MOST_ASKED).round().astype(int).tolist())
    images = [frame.image for index, frame in enumerate(frames) if index in chosen]
    run = as_written(model)

    def logits(batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return np.stack([run(image) for image in batch])

    warning = channel_order_warning(logits, images)
    return warning.message if warning else None
