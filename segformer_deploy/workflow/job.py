"""One build of an engine folder, step by step, in a place that nobody sees yet."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from segformer_deploy import __version__
from segformer_deploy.engine.backend import AUTO, NATIVE, EngineOptions, engine_from_onnx
from segformer_deploy.engine.here import GPU_BACKENDS, SOURCE_FILE
from segformer_deploy.engine.manifest import Manifest
from segformer_deploy.engine.ort import import_onnxruntime
from segformer_deploy.engine.plan_folder import PLAN_FILE
from segformer_deploy.engine.size_range import SizeRange
from segformer_deploy.engine.tiling import MeasuredTiling
from segformer_deploy.errors import OnnxFileError, SpecError
from segformer_deploy.files import sha256_of_file
from segformer_deploy.runtime.golden import GOLDEN_COUNT, MIN_AGREEMENT
from segformer_deploy.spec import FrameSize, ModelSpec
from segformer_deploy.workflow.choice import REPORT_NAME, Choice, Progress
from segformer_deploy.workflow.golden import Golden, carried_golden, write_golden
from segformer_deploy.workflow.memory_trial import TrialFrame
from segformer_deploy.workflow.plan import (
    PlanRequest,
    PlanTarget,
    plan_target,
    verify_plan,
    write_plan,
)
from segformer_deploy.workflow.sizes import golden_size, limits, profiles, whole_range
from segformer_deploy.workflow.tiling import TileRequest, frames_for, measured_tiling

if TYPE_CHECKING:
    from segformer_deploy.workflow.build import BuildOptions


class Job:
    """One build: the graph, in a precision, its golden frames, and its plan where it is for a GPU.

    `folder` holds everything afterwards but the manifest itself.
    """

    def __init__(
        self,
        onnx: Path,
        folder: Path,
        spec: ModelSpec,
        options: BuildOptions,
        say: Callable[[str], None],
        progress: Progress,
    ) -> None:
        self.onnx, self.folder, self.plain, self.options = onnx, folder, spec, options
        self.say, self.progress = say, progress
        self.for_gpu = options.backend in GPU_BACKENDS
        self.profiles = profiles(spec, options.sizes) if self.for_gpu else ()
        asked, tiles = options.sizes, options.tiles
        if tiles is not None:  # what the engine takes is windows, and not frames
            asked = replace(asked, opt=tiles.usual_window(golden_size(spec, None)))
        self.sizes = whole_range(self.profiles) if self.for_gpu else limits(spec, asked)
        self.target = (
            plan_target(options.backend, options.plan or PlanRequest()) if self.for_gpu else None
        )
        frame = golden_size(spec, None if tiles else self.sizes, self.profiles)
        self.golden_size, window = frame, frame
        if tiles is not None:
            window = tiles.usual_window(frame)
            tiles.check(frame, self.sizes)
        _copy_source(onnx, folder / SOURCE_FILE)
        self.choice = _choice(onnx, folder, spec, options, window, say, progress)
        self.tiling = None if tiles is None else self._measured(tiles)
        if options.max_memory is not None:
            self._fit_into(options.max_memory)
        self.spec = spec.with_(precision=self.choice.delivered)

    def _measured(self, tiles: TileRequest) -> MeasuredTiling:
        """By tiles beside whole, with the graph as it is before it is fitted into a memory."""
        precision = self.options.precision
        gate = precision.gate[0] if precision is not None and precision.gate else None
        frames = frames_for(tiles, self.plain, gate)
        self.say(f"comparing tiles of {tiles.tile} with whole frames: {frames.origin}")
        chosen = engine_from_onnx(self.folder / SOURCE_FILE, EngineOptions(self.options.backend))
        try:
            return measured_tiling(
                chosen.engine, self.plain, tiles, frames, self.say, self.progress
            )
        finally:
            chosen.engine.close()

    def _fit_into(self, budget: int) -> None:
        """Cut the graph so that the whole process stays within `budget` bytes."""
        # Here, because it needs onnx.
        from segformer_deploy.workflow.memory import lean_graph

        whole = self.plain.resize.size or self.options.sizes.opt
        if whole is None:
            raise SpecError("--max-memory without one network size", "a size", "--opt HxW")
        graph, backend = self.folder / SOURCE_FILE, self.options.backend
        backend = NATIVE if backend == AUTO else backend
        tiles, size = self.options.tiles, whole
        tiled = None
        if tiles is not None and self.tiling is not None:
            size, tiled = tiles.window_of(whole), TrialFrame(whole, self.tiling.tiling)
        plan = lean_graph(graph, graph, size, budget, backend=backend, tiled=tiled, say=self.say)
        self.choice = replace(self.choice, notes=(*self.choice.notes, plan.note()))
        if plan.size is not None:
            self.sizes = SizeRange(size, size, size, 1)
            self.golden_size = whole

    def manifest(self) -> Manifest:
        """Build what is left to build; the manifest but for the files and the time."""
        golden = self._golden()
        backend, version = golden.backend, ""
        if self.target is not None:
            backend, version = self.options.backend, self.target.library.version
        manifest = Manifest(
            spec=self.spec,
            requested=self.choice.requested,
            delivered=self.choice.delivered,
            backend=backend,
            backend_version=version or _version_of(backend),
            engine_files=(PLAN_FILE if self.target else SOURCE_FILE,),
            source_sha256=sha256_of_file(self.onnx),
            files={},
            golden=golden.names,
            min_agreement=MIN_AGREEMENT[self.choice.delivered],
            build_seconds=0.0,
            verified=golden.by,
            sizes=self.sizes,
            built_with=_versions(),
            notes=(*self.choice.notes, *golden.notes),
            tiling=self.tiling,
        )
        return manifest if self.target is None else self._with_plan(manifest, self.target)

    def _golden(self) -> Golden:
        """The golden frames with the class maps of what runs the folder; of a plan, a CPU's."""
        if self.for_gpu:
            carried = carried_golden(self.onnx, self.folder, self.spec, self.profiles)
            if carried is not None:
                return carried
        graph = self.folder / SOURCE_FILE
        self.say(
            f"loading the {self.choice.delivered} graph and segmenting {GOLDEN_COUNT} golden frames"
        )
        chosen = engine_from_onnx(
            graph, EngineOptions(AUTO if self.for_gpu else self.options.backend)
        )
        if self.for_gpu:
            note = f"the golden frames' class maps are from {chosen.engine.name}"
            chosen = replace(chosen, note=note)
        try:
            tiling = None if self.tiling is None else self.tiling.tiling
            return write_golden(self.folder, chosen, graph, self.spec, self.golden_size, tiling)
        finally:
            chosen.engine.close()

    def _with_plan(self, manifest: Manifest, target: PlanTarget) -> Manifest:
        facts, notes = write_plan(
            *(self.folder, self.folder / SOURCE_FILE, target, self.spec),
            *(self.profiles, self.say, self.progress),
        )
        manifest = replace(manifest, plan=facts, notes=(*manifest.notes, *notes))
        return replace(manifest, verified=verify_plan(self.folder, manifest))


def _choice(
    onnx: Path,
    folder: Path,
    spec: ModelSpec,
    options: BuildOptions,
    size: FrameSize,
    say: Callable[[str], None],
    progress: Progress,
) -> Choice:
    """The graph to build from, in `folder`; with its report where a precision was asked for."""
    if options.precision is None:
        _carry_report(onnx, folder)
        return Choice(spec.precision, spec.precision)
    # Here, because it needs onnx, and an FP32 engine is built without it.
    from segformer_deploy.workflow.choose import choose_precision, keep_precision, write_report

    target = folder / SOURCE_FILE
    if options.backend in GPU_BACKENDS:
        choice = keep_precision(onnx, target, spec, options.precision, say, progress)
    else:
        engine = EngineOptions(options.backend)
        choice = choose_precision(
            onnx, target, spec, options.precision, engine, size, say, progress
        )
    assert choice.report is not None
    write_report(folder / REPORT_NAME, choice.report)
    return choice


def _carry_report(onnx: Path, folder: Path) -> None:
    """The report of a graph that comes out of an engine folder goes with it."""
    report = onnx.parent / REPORT_NAME
    if onnx.name == SOURCE_FILE and report.is_file():
        shutil.copyfile(report, folder / REPORT_NAME)


def _copy_source(onnx: Path, target: Path) -> None:
    # Opened apart, so that a file that cannot be read is not taken for a disk that is full.
    try:
        source = onnx.open("rb")
    except OSError as error:
        raise OnnxFileError(
            f"{onnx} cannot be read: {error.strerror}", "a readable file"
        ) from error
    with source, target.open("wb") as copy:
        shutil.copyfileobj(source, copy, 1 << 20)


def _version_of(backend: str) -> str:
    return __version__ if backend == NATIVE else str(import_onnxruntime().__version__)


def _versions() -> dict[str, str]:
    return {
        "segformer-deploy": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "platform": f"{sys.platform} {platform.machine()}",
    }
