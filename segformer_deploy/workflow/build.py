"""ONNX file -> engine folder: built aside, checked, renamed; the faster of two plans."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segformer_deploy.engine.backend import AUTO, EngineOptions
from segformer_deploy.engine.here import GPU_BACKENDS, SOURCE_FILE
from segformer_deploy.engine.manifest import MANIFEST_NAME, FileRecord, Manifest
from segformer_deploy.engine.onnx_file import spec_from_onnx
from segformer_deploy.engine.plan_facts import NOT_VERIFIED
from segformer_deploy.errors import InputError, OutputError, SegdeployError
from segformer_deploy.files import atomic_folder, recover_folder
from segformer_deploy.workflow.choice import REPORT_NAME, Progress, silent
from segformer_deploy.workflow.job import Job
from segformer_deploy.workflow.plan import PlanRequest
from segformer_deploy.workflow.sizes import AskedSizes, spec_for
from segformer_deploy.workflow.tiling import TileRequest

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
        max_memory: bytes that the whole process may take while it segments; None: as it comes.
        tiles: segment by overlapping windows, and how; None sees frames whole. `sizes`' `min` and
            `max` are then a window's.
    """

    backend: str = AUTO
    sizes: AskedSizes = field(default_factory=AskedSizes)
    output: Path | None = None
    precision: PrecisionOptions | None = None
    plan: PlanRequest | None = None
    max_memory: int | None = None
    tiles: TileRequest | None = None


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
            "tiling": manifest.tiling.to_dict() if manifest.tiling else None,
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
    if options.tiles is not None and options.backend in GPU_BACKENDS:
        raise InputError(
            f"tiles in a folder for {options.backend}",
            "a CPU's backend: a plan is built for the window, and tiled where it is run",
            f"segdeploy build-engine --backend {options.backend} --profile {options.tiles.tile}, "
            f"then segdeploy run --size HxW --tile {options.tiles.tile}",
        )
    started = time.perf_counter()
    if options.output is not None:
        recover_folder(options.output)  # the graph may lie in it
    spec = spec_for(spec_from_onnx(onnx), options.sizes)
    asked = options.precision.precision if options.precision else spec.precision
    folder = options.output or _default_folder(onnx, asked, options.backend)
    _refuse_to_destroy(folder, onnx)
    with atomic_folder(folder) as temporary, _named(temporary, folder):
        manifest = _faster(Job(onnx, temporary, spec, options, say, progress))
        manifest = replace(
            manifest,
            files=_records(temporary),
            build_seconds=round(time.perf_counter() - started, 3),
        )
        (temporary / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
        report = _report_in(temporary) if options.precision else None
    return BuildReport(folder, manifest, report)


@contextmanager
def _named(temporary: Path, folder: Path) -> Iterator[None]:
    """Errors name the folder as the user does, not by its name while it is built."""
    try:
        yield
    except SegdeployError as error:
        error.found, error.expected, error.next_step = (
            text.replace(str(temporary), str(folder))
            for text in (error.found, error.expected, error.next_step)
        )
        error.args = (error.found,)
        raise


def _report_in(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / REPORT_NAME).read_text(encoding="utf-8"))
    return report


def _faster(job: Job) -> Manifest:
    """The manifest of what was asked for; where its GPU is here, of the faster of two plans."""
    manifest, asked = job.manifest(), job.options.precision
    if asked is None or asked.force or not job.for_gpu or manifest.verified == NOT_VERIFIED:
        return manifest
    from segformer_deploy.workflow.plan_race import NEXT, faster_plan

    following = NEXT[asked.precision]
    precision = None if following == "fp32" else replace(asked, precision=following)

    def build_other(place: Path) -> Manifest:
        options = replace(job.options, precision=precision)
        return Job(job.onnx, place, job.plain, options, job.say, job.progress).manifest()

    return faster_plan((job.folder, manifest), build_other, job.golden_size, job.say, job.progress)


def _default_folder(onnx: Path, precision: str, backend: str) -> Path:
    # A plan stands beside the CPU's engine, not in its place.
    ending = f"-{backend}" if backend in GPU_BACKENDS else ""
    return Path("build") / f"{onnx.stem}-{precision}{ending}"


def _records(folder: Path) -> dict[str, FileRecord]:
    return {
        str(path.relative_to(folder)): FileRecord.of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


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
