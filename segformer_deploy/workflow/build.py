"""ONNX file -> engine folder: load, run on golden frames, write aside, rename."""

from __future__ import annotations

import platform
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segformer_deploy import __version__
from segformer_deploy.engine.backend import (
    AUTO,
    NATIVE,
    EngineOptions,
    engine_from_onnx,
)
from segformer_deploy.engine.here import GPU_BACKENDS, SOURCE_FILE
from segformer_deploy.engine.manifest import MANIFEST_NAME, FileRecord, Manifest
from segformer_deploy.engine.onnx_file import spec_from_onnx
from segformer_deploy.engine.ort import import_onnxruntime
from segformer_deploy.engine.plan_folder import PLAN_FILE
from segformer_deploy.errors import OnnxFileError, OutputError
from segformer_deploy.files import atomic_folder, sha256_of_file
from segformer_deploy.runtime.golden import GOLDEN_COUNT, MIN_AGREEMENT
from segformer_deploy.spec import FrameSize, ModelSpec
from segformer_deploy.workflow.choice import REPORT_NAME, Choice, Progress, silent
from segformer_deploy.workflow.golden import Golden, carried_golden, write_golden
from segformer_deploy.workflow.plan import (
    PlanRequest,
    PlanTarget,
    plan_target,
    verify_plan,
    write_plan,
)
from segformer_deploy.workflow.sizes import AskedSizes, golden_size, limits, profiles, whole_range

if TYPE_CHECKING:
    from segformer_deploy.workflow.precision import PrecisionOptions


@dataclass(frozen=True)
class BuildOptions:
    """What `segdeploy build-engine` was asked for.

    Attributes:
        backend: what will run the engine: ``native``, ``onnxruntime``, ``tensorrt``,
            ``tensorrt-rtx``, or ``auto``: native where it can run the graph, else onnxruntime.
        sizes: network sizes and batch.
        output: the folder; None chooses a name under ``build/``.
        precision: FP16 or INT8, and how; None builds the graph as it is.
        plan: what else a TensorRT plan is to be.
    """

    backend: str = AUTO
    sizes: AskedSizes = field(default_factory=AskedSizes)
    output: Path | None = None
    precision: PrecisionOptions | None = None
    plan: PlanRequest | None = None


@dataclass(frozen=True)
class BuildReport:
    """A finished engine folder; `precision` is what its `precision.json` holds."""

    folder: Path
    manifest: Manifest
    precision: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        manifest = self.manifest
        return {
            "engine": str(self.folder),
            "backend": manifest.backend,
            "backend_version": manifest.backend_version,
            "requested": manifest.requested,
            "delivered": manifest.delivered,
            "build_seconds": manifest.build_seconds,
            "resize": str(manifest.spec.resize),
            "bytes": sum(record.size for record in manifest.files.values()),
            "verified": manifest.verified,
            "notes": list(manifest.notes),
            "weights": manifest.spec.to_dict()["weights"],
            "plan": manifest.plan.to_dict() if manifest.plan else None,
            "precision": self.precision,
        }


def build_engine(
    onnx: Path,
    options: BuildOptions,
    say: Callable[[str], None] = lambda _: None,
    progress: Progress = silent,
) -> BuildReport:
    """Build the engine folder for the ONNX file at `onnx`.

    Raises OnnxFileError, BackendError, BuildError, VerificationError (NaN, wrong masks, a
    precision outside its budget) or OutputError; in every such case an older folder at the same
    place is untouched.
    """
    EngineOptions(options.backend)
    started = time.perf_counter()
    spec = spec_from_onnx(onnx).stretched_to(options.sizes.opt)
    asked = options.precision.precision if options.precision else spec.precision
    folder = options.output or _default_folder(onnx, asked, options.backend)
    _refuse_to_destroy(folder, onnx)
    with atomic_folder(folder) as temporary:
        _copy_source(onnx, temporary / SOURCE_FILE)
        job = _Job(onnx, temporary, spec, options, say, progress)
        manifest = job.manifest(started)
        (temporary / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
    return BuildReport(folder, manifest, job.choice.report)


def _default_folder(onnx: Path, precision: str, backend: str) -> Path:
    # A plan stands beside the CPU's engine, not in its place.
    ending = f"-{backend}" if backend in GPU_BACKENDS else ""
    return Path("build") / f"{onnx.stem}-{precision}{ending}"


class _Job:
    """One build, in a folder that nobody sees yet."""

    def __init__(
        self,
        onnx: Path,
        folder: Path,
        spec: ModelSpec,
        options: BuildOptions,
        say: Callable[[str], None],
        progress: Progress,
    ) -> None:
        self.onnx, self.folder, self.options = onnx, folder, options
        self.say, self.progress = say, progress
        self.for_gpu = options.backend in GPU_BACKENDS
        self.profiles = profiles(spec, options.sizes) if self.for_gpu else ()
        self.sizes = whole_range(self.profiles) if self.for_gpu else limits(spec, options.sizes)
        self.target = (
            plan_target(options.backend, options.plan or PlanRequest()) if self.for_gpu else None
        )
        self.golden_size = golden_size(spec, self.sizes)
        self.choice = _choice(onnx, folder, spec, options, self.golden_size, say, progress)
        self.spec = spec.with_(precision=self.choice.delivered)

    def manifest(self, started: float) -> Manifest:
        """Build what is left to build; the manifest of the folder as it then is."""
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
        )
        if self.target is not None:
            manifest = self._with_plan(manifest, self.target)
        seconds = round(time.perf_counter() - started, 3)
        return replace(manifest, files=_records(self.folder), build_seconds=seconds)

    def _golden(self) -> Golden:
        """The golden frames with the class maps of what runs the folder; of a plan, a CPU's."""
        carried = carried_golden(self.onnx, self.folder, self.spec) if self.for_gpu else None
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
            return write_golden(self.folder, chosen, graph, self.spec, self.golden_size)
        finally:
            chosen.engine.close()

    def _with_plan(self, manifest: Manifest, target: PlanTarget) -> Manifest:
        facts, notes = write_plan(
            *(self.folder, self.folder / SOURCE_FILE, target, self.spec),
            *(self.profiles, self.say, self.progress),
        )
        manifest = replace(manifest, plan=facts, notes=(*manifest.notes, *notes))
        return replace(manifest, verified=verify_plan(self.folder, manifest))


def _records(folder: Path) -> dict[str, FileRecord]:
    return {
        str(path.relative_to(folder)): FileRecord.of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


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


def _refuse_to_destroy(folder: Path, onnx: Path) -> None:
    """OutputError where building into `folder` would delete something that is not an engine."""
    inside = folder.resolve() in onnx.resolve().parents
    # Its own graph, from which a folder is built again.
    own = onnx.resolve() == (folder / SOURCE_FILE).resolve()
    engine = folder.is_dir() and ((folder / MANIFEST_NAME).is_file() or not any(folder.iterdir()))
    if (inside and not own) or (folder.exists() and not engine):
        what = f"holds {onnx}" if inside else "exists and is not an engine folder"
        raise OutputError(
            f"{folder} {what}",
            "a new folder, or an engine folder to replace",
            "name another folder with --output",
        )


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
