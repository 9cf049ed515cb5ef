"""Which frames calibrate, which judge and which are looked at: never the same for the first two."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from segformer_deploy.calibrate.fp16_islands import DEFAULT_FRAMES
from segformer_deploy.calibrate.frames import (
    GATE_SEED,
    FrameSet,
    StreetFrames,
    frames_from_source,
    leaving_some,
    rest_of_source,
)
from segformer_deploy.errors import InputError
from segformer_deploy.spec import ModelSpec
from segformer_deploy.workflow.choice import Say
from segformer_deploy.workflow.judge import JudgedFrames, judged_from_folders, judged_from_frames
from segformer_deploy.workflow.ranges import is_demo_model

Named = tuple[Path, Path | None]
"""Frames and their labels, where there are any."""

GATE_FRAMES = 100
RANKING_FRAMES = 16
_STREET_GATE_FRAMES = 48


@dataclass(frozen=True)
class FrameChoice:
    """The frames of one build.

    Attributes:
        onnx, spec: the model; what its resize rule makes of a frame.
        source: what calibrates: a folder, a video, a ranges file, or None.
        wanted: the most frames to calibrate on.
        gate: the frames named to judge on.
        frames_needed: generated streets will not do for a model that was not trained on them.
    """

    onnx: Path
    spec: ModelSpec
    source: Path | None
    wanted: int
    gate: Named | None
    frames_needed: bool

    @property
    def frames_source(self) -> Path | None:
        """`source`, where it holds frames."""
        is_file = self.source is not None and self.source.suffix == ".json"
        return None if is_file else self.source

    @property
    def samples(self) -> int:
        """How many frames calibrate; a quarter is left where no others were named to judge."""
        if self.frames_source is None or self.gate is not None:
            return self.wanted
        return leaving_some(self.frames_source, self.wanted)

    def judging(self, named: Named | None = None, limit: int = GATE_FRAMES) -> JudgedFrames:
        """`named`, or the gate's; else what calibration leaves; else generated streets."""
        named = named or self.gate
        if named is not None:
            return _judged(named, self.spec, limit)
        if self.frames_source is not None:
            rest = rest_of_source(self.frames_source, self.spec.resize, self.samples, limit)
            if rest is not None:
                return judged_from_frames(rest, self.spec)
            raise InputError(
                f"calibration takes every frame of {self.source}",
                "frames of their own to judge the precision on",
                "--gate-images FOLDER (and --gate-labels FOLDER)",
            )
        if self.frames_needed and not is_demo_model(self.onnx, self.spec):
            raise InputError(
                "no frames were named to judge INT8 on",
                "frames like those of the camera, apart from those that calibrate",
                "--calibration FOLDER, of which a quarter then judges, or --gate-images FOLDER",
            )
        count = min(limit, _STREET_GATE_FRAMES)
        return judged_from_frames(StreetFrames(count, self.spec.resize, GATE_SEED), self.spec)

    def ranking(self) -> JudgedFrames:
        """A few frames to rank blocks on: they need not be apart, since they judge nothing."""
        if self.gate is not None:
            return _judged(self.gate, self.spec, RANKING_FRAMES)
        rule, source = self.spec.resize, self.frames_source
        if source is None:
            frames: FrameSet = StreetFrames(RANKING_FRAMES, rule, GATE_SEED)
        else:
            left = rest_of_source(source, rule, self.wanted, RANKING_FRAMES)
            frames = left or frames_from_source(source, rule, RANKING_FRAMES)
        return judged_from_frames(frames, self.spec)

    def looked_at(self, say: Say) -> FrameSet:
        """A few frames on which to look for what FP16 cannot hold."""
        source = self.frames_source or (self.gate[0] if self.gate else None)
        if source is not None:
            return frames_from_source(source, self.spec.resize, DEFAULT_FRAMES)
        if not is_demo_model(self.onnx, self.spec):
            say("no frames were named: FP16's ranges are looked at on generated streets")
        return StreetFrames(DEFAULT_FRAMES, self.spec.resize)


def _judged(named: Named, spec: ModelSpec, limit: int) -> JudgedFrames:
    images, labels = named
    if labels is not None:
        return judged_from_folders(images, labels, spec, limit)
    return judged_from_frames(frames_from_source(images, spec.resize, limit), spec)
