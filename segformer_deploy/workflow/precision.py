"""FP32 graph -> an FP16 or INT8 graph that has been held against it, with a report.

::

    frames -> ranges -> equalise -> Q/DQ -> (FP16 casts) -> gate -> report
                             ^                                |
                             └── blocks that go back  <───────┘
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import onnx

from segformer_deploy.calibrate.calibration import CalibrationOptions
from segformer_deploy.calibrate.fp16_islands import (
    DEFAULT_FRAMES,
    islands_from_report,
    range_report,
)
from segformer_deploy.calibrate.ranges import Ranges
from segformer_deploy.errors import VerificationError
from segformer_deploy.graph.cast_fp16 import LogitsType, cast_fp16
from segformer_deploy.graph.equalise import equalise
from segformer_deploy.graph.insert_qdq import Recipe, insert_qdq
from segformer_deploy.graph.int8_share import int8_share
from segformer_deploy.graph.metadata import fp32_spec, write_precision
from segformer_deploy.spec import ModelSpec, Precision
from segformer_deploy.workflow.choice import Progress, Say, silent
from segformer_deploy.workflow.frame_choice import RANKING_FRAMES, FrameChoice
from segformer_deploy.workflow.gate import Budget, GateResult, pass_gate
from segformer_deploy.workflow.judge import Judge, JudgedFrames
from segformer_deploy.workflow.precision_report import report_precision
from segformer_deploy.workflow.ranges import RangesRequest, ranges_for
from segformer_deploy.workflow.sensitivity import BlockDamage, Make, blocks_of, rank_blocks

Target = Literal["cpu", "gpu"]


@dataclass(frozen=True)
class PrecisionOptions:
    """What was asked for.

    Attributes:
        precision: ``fp16`` or ``int8``.
        target: whose spelling: ``cpu`` (uint8 grid, FP32 elsewhere) or ``gpu`` (int8 grid, FP16
            elsewhere).
        calibration, samples, calibration_options: see `RangesRequest`.
        recipe: which products are quantised.
        gate: (images, labels) to judge on; labels may be None; None takes frames that the
            calibration left.
        report: (images, labels) for the report; None takes those of the gate.
        budget: what the precision may cost.
        logits: the output's type in FP16.
        force: build even outside the budget, and even where it is slower.
    """

    precision: Precision
    target: Target = "cpu"
    calibration: Path | None = None
    samples: int = 200
    calibration_options: CalibrationOptions = field(default_factory=CalibrationOptions)
    recipe: Recipe = field(default_factory=Recipe)
    gate: tuple[Path, Path | None] | None = None
    report: tuple[Path, Path | None] | None = None
    budget: Budget = field(default_factory=Budget)
    logits: LogitsType = "fp32"
    force: bool = False


@dataclass(frozen=True)
class Candidate:
    """A graph in the precision asked for, and what is known of it.

    Attributes:
        details: for `precision.json`.
        notes: what a reader of the manifest ought to know.
    """

    model: onnx.ModelProto
    details: dict[str, Any]
    notes: tuple[str, ...]


def candidate_from_onnx(
    onnx_file: Path,
    spec: ModelSpec,
    options: PrecisionOptions,
    say: Say = lambda _: None,
    progress: Progress = silent,
) -> Candidate:
    """The FP32 graph in `onnx_file`, in the precision asked for and held against itself.

    Raises:
        InputError: frames or ranges that are needed and missing, or do not fit.
        VerificationError: NaN, one class everywhere, or a loss outside the budget.
    """
    model = onnx.load(onnx_file)
    fp32_spec(model)
    return _Maker(onnx_file, model, spec, options, say, progress).candidate()


class _Maker:
    def __init__(
        self,
        onnx_file: Path,
        model: onnx.ModelProto,
        spec: ModelSpec,
        options: PrecisionOptions,
        say: Say,
        progress: Progress,
    ) -> None:
        self.file, self.model, self.spec = onnx_file, model, spec
        self.options, self.say, self.progress = options, say, progress
        self.frames = FrameChoice(
            *(onnx_file, spec, options.calibration, options.samples, options.gate),
            frames_needed=options.precision == "int8",
        )
        self.request = RangesRequest(
            *(options.calibration, spec, self.frames.samples, options.calibration_options)
        )

    def candidate(self) -> Candidate:
        gate_frames = self.frames.judging()
        int8 = self.options.precision == "int8"
        make, blocks, details = self._int8(gate_frames) if int8 else self._fp16()
        with self.progress("running the FP32 graph", len(gate_frames)) as advance:
            judge = Judge(self.model, gate_frames, advance)
        result, notes = self._gate(make, blocks, judge)
        model = make(frozenset(result.kept))
        details |= self._described(model, gate_frames, result)
        write_precision(model, {**details["graph"], "kept": result.kept})
        named = self.options.report
        report_frames = self.frames.judging(named) if named else gate_frames
        with self.progress("writing the report", len(report_frames)) as advance:
            details["report"] = report_precision(self.model, model, report_frames, advance)
        return Candidate(model, details, tuple(notes))

    def _described(
        self, model: onnx.ModelProto, frames: JudgedFrames, result: GateResult
    ) -> dict[str, Any]:
        size = self.spec.resize.network_size(next(iter(frames)).size)
        share = int8_share(model, size)
        return {
            "precision": self.options.precision,
            "target": self.options.target,
            "gate": {
                "frames": len(frames),
                "origin": frames.origin,
                "labels": frames.labelled,
                "max_drop": self.options.budget.max_drop,
                "min_agreement": self.options.budget.min_agreement,
                **result.to_dict(),
            },
            "macs": {
                "size": str(size),
                **{kind: {"all": one.macs, "int8": one.int8} for kind, one in share.items()},
            },
            "bytes": {"fp32": self.model.ByteSize(), self.options.precision: model.ByteSize()},
        }

    def _gate(
        self, make: Make, blocks: tuple[str, ...], judge: Judge
    ) -> tuple[GateResult, list[str]]:
        budget = self.options.budget
        if self.options.force:
            verdict = judge(make(frozenset()))
            excess = budget.excess(verdict)
            notes = [f"built although {excess}"] if excess else []
            return GateResult({}, verdict, verdict, ()), notes
        if not blocks:
            verdict = judge(make(frozenset()))
            excess = budget.excess(verdict)
            if excess:
                raise VerificationError(
                    f"{self.options.precision}: {excess}",
                    "a precision inside the budget",
                    "allow more with --max-drop and --min-agreement, or build in fp32",
                )
            return GateResult({}, verdict, verdict, ()), []
        result = pass_gate(
            make, blocks, judge, budget, lambda: self._ranking(make, blocks), self.say
        )
        notes = [f"{block} stays higher: {why}" for block, why in result.kept.items()]
        return result, notes

    def _ranking(self, make: Make, blocks: tuple[str, ...]) -> tuple[BlockDamage, ...]:
        judge = Judge(self.model, self.frames.judging(limit=RANKING_FRAMES))
        with self.progress("ranking blocks", len(blocks)) as advance:
            return rank_blocks(make, blocks, judge, advance)

    def _int8(self, judged: JudgedFrames) -> tuple[Make, tuple[str, ...], dict[str, Any]]:
        ranges = ranges_for(self.file, self.request, self.say, self.progress, judged)
        even = equalise(self.model, ranges.scales())
        recipe, gpu = self.options.recipe, self.options.target == "gpu"
        islands: dict[str, str] = self._islands(even) if gpu else {}

        def make(kept: frozenset[str]) -> onnx.ModelProto:
            chosen = replace(recipe, kept=recipe.kept | kept)
            graph = insert_qdq(even, ranges.ranges, chosen, "signed" if gpu else "unsigned")
            return cast_fp16(graph, islands, logits=self.options.logits) if gpu else graph

        details = {
            "graph": {
                "recipe": recipe.to_dict(),
                "spelling": "signed" if gpu else "unsigned",
                "elsewhere": "fp16" if gpu else "fp32",
                "equalised": sorted(ranges.equalisation),
                "islands": islands,
            },
            "calibration": {
                "origin": ranges.origin,
                "frames": len(ranges.frames),
                "method": ranges.method,
                "percentile": ranges.percentile,
                "network": ranges.network,
                "warnings": list(ranges.warnings),
            },
        }
        return make, blocks_of(self.model, recipe), details

    def _fp16(self) -> tuple[Make, tuple[str, ...], dict[str, Any]]:
        islands = self._islands(self.model)

        def make(_kept: frozenset[str]) -> onnx.ModelProto:
            return cast_fp16(self.model, islands, logits=self.options.logits)

        return make, (), {"graph": {"islands": islands, "logits": self.options.logits}}

    def _islands(self, model: onnx.ModelProto) -> dict[str, str]:
        """Nodes that FP16 cannot hold, on a few of the calibration's frames."""
        frames = self.frames.looked_at(self.say)
        with self.progress("looking for what FP16 cannot hold", DEFAULT_FRAMES) as advance:
            report = range_report(model, frames, DEFAULT_FRAMES, advance)
        islands = islands_from_report(model, report)
        for node, why in islands.items():
            self.say(f"{node} stays in FP32: {why}")
        return islands


def ranking_from_ranges(
    onnx_file: Path,
    spec: ModelSpec,
    ranges: Ranges,
    options: PrecisionOptions,
    progress: Progress,
) -> tuple[BlockDamage, ...]:
    """The blocks' damage with `ranges`, on the gate's frames; else on streets or on what
    calibration left, else on its own frames: they rank, they do not judge."""
    model = onnx.load(onnx_file)
    even = equalise(model, ranges.scales())

    def make(kept: frozenset[str]) -> onnx.ModelProto:
        return insert_qdq(even, ranges.ranges, replace(options.recipe, kept=kept))

    choice = FrameChoice(
        onnx_file, spec, options.calibration, options.samples, options.gate, frames_needed=False
    )
    blocks = blocks_of(model, options.recipe)
    judge = Judge(model, choice.ranking())
    with progress("ranking blocks", len(blocks)) as advance:
        return rank_blocks(make, blocks, judge, advance)
