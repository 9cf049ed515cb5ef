"""ONNX file -> engine folder: load, run on golden frames, write aside, rename."""

from __future__ import annotations

import platform
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segformer_deploy import __version__
from segformer_deploy.engine.backend import (
    AUTO,
    NATIVE,
    ChosenEngine,
    EngineOptions,
    engine_from_onnx,
)
from segformer_deploy.engine.manifest import (
    MANIFEST_NAME,
    FileRecord,
    Manifest,
    SizeRange,
)
from segformer_deploy.engine.onnx_file import spec_from_onnx
from segformer_deploy.engine.ort import import_onnxruntime
from segformer_deploy.engine.session import Array, Engine
from segformer_deploy.errors import OnnxFileError, OutputError, VerificationError
from segformer_deploy.files import atomic_folder, sha256_of_file
from segformer_deploy.runtime.golden import (
    GOLDEN_COUNT,
    MIN_AGREEMENT,
    golden_frame,
    write_picture,
)
from segformer_deploy.runtime.preprocess import prepare
from segformer_deploy.runtime.segmenter import Segmenter
from segformer_deploy.spec import SMALLEST_NETWORK_SIDE, FrameSize, ModelSpec
from segformer_deploy.workflow.choice import REPORT_NAME, Choice, Progress
from segformer_deploy.workflow.second_opinion import second_opinion

if TYPE_CHECKING:
    from segformer_deploy.workflow.precision import PrecisionOptions

ENGINE_FILE = "model.onnx"
GOLDEN_FOLDER = "golden"
UNLIMITED = 1 << 16
DEFAULT_GOLDEN_SIZE = FrameSize(360, 480)
_NO_SECOND = "onnxruntime is not installed: no second library has seen the golden frames"


@dataclass(frozen=True)
class BuildOptions:
    """What `segdeploy build-engine` was asked for.

    Attributes:
        backend: what will run the engine: ``native``, ``onnxruntime``, or ``auto``: native
            where it can run the graph on this machine, else onnxruntime.
        opt: the network size: frames are stretched to it; None keeps the model's resize rule.
        min, max: smallest and largest network size to accept; None accepts any.
        batch: largest batch to accept; None accepts any.
        output: the folder; None chooses a name under ``build/``.
        precision: FP16 or INT8, and how; None builds the graph as it is.
    """

    backend: str = AUTO
    opt: FrameSize | None = None
    min: FrameSize | None = None
    max: FrameSize | None = None
    batch: int | None = None
    output: Path | None = None
    precision: PrecisionOptions | None = None


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
            "precision": self.precision,
        }


def build_engine(
    onnx: Path,
    options: BuildOptions,
    say: Callable[[str], None] = lambda _: None,
    progress: Progress | None = None,
) -> BuildReport:
    """Build the engine folder for the ONNX file at `onnx`.

    Raises OnnxFileError, BackendError, VerificationError (NaN, a precision outside its budget)
    or OutputError; in every such case an older folder at the same place is untouched.
    """
    engine_options = EngineOptions(options.backend)
    started = time.perf_counter()
    spec = spec_from_onnx(onnx).stretched_to(options.opt)
    sizes = _size_range(spec, options)
    asked = options.precision.precision if options.precision else spec.precision
    folder = options.output or Path("build") / f"{onnx.stem}-{asked}"
    _refuse_to_destroy(folder, onnx)
    golden_size = _golden_size(spec, sizes)
    with atomic_folder(folder) as temporary:
        _copy_source(onnx, temporary / ENGINE_FILE)
        choice = _choice(onnx, temporary, spec, options, golden_size, say, progress)
        spec = spec.with_(precision=choice.delivered)
        say(f"loading the {choice.delivered} graph and segmenting {GOLDEN_COUNT} golden frames")
        chosen = engine_from_onnx(temporary / ENGINE_FILE, engine_options)
        golden, notes = _golden_from_engine(temporary, chosen, spec, golden_size)
        files = {
            str(path.relative_to(temporary)): FileRecord.of(path)
            for path in sorted(temporary.rglob("*"))
            if path.is_file()
        }
        manifest = Manifest(
            spec=spec,
            requested=choice.requested,
            delivered=choice.delivered,
            backend=chosen.backend,
            backend_version=_version_of(chosen.backend),
            engine_files=(ENGINE_FILE,),
            source_sha256=sha256_of_file(onnx),
            files=files,
            golden=golden,
            min_agreement=MIN_AGREEMENT[choice.delivered],
            build_seconds=round(time.perf_counter() - started, 3),
            verified=chosen.engine.name,
            sizes=sizes,
            built_with=_versions(),
            notes=(*choice.notes, *notes),
        )
        (temporary / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
    return BuildReport(folder, manifest, choice.report)


def _choice(
    onnx: Path,
    folder: Path,
    spec: ModelSpec,
    options: BuildOptions,
    size: FrameSize,
    say: Callable[[str], None],
    progress: Progress | None,
) -> Choice:
    """The graph to build from, in `folder`; with its report where a precision was asked for."""
    if options.precision is None:
        return Choice(spec.precision, spec.precision)
    # Here, because it needs onnx, and an FP32 engine is built without it.
    from segformer_deploy.workflow.choose import choose_precision, write_report

    engine = EngineOptions(options.backend)
    more = {} if progress is None else {"progress": progress}
    choice = choose_precision(
        onnx, folder / ENGINE_FILE, spec, options.precision, engine, size, say, **more
    )
    assert choice.report is not None
    write_report(folder / REPORT_NAME, choice.report)
    return choice


def _refuse_to_destroy(folder: Path, onnx: Path) -> None:
    """OutputError where building into `folder` would delete something that is not an engine."""
    inside = folder.resolve() in onnx.resolve().parents
    engine = folder.is_dir() and ((folder / MANIFEST_NAME).is_file() or not any(folder.iterdir()))
    if inside or (folder.exists() and not engine):
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


def _golden_size(spec: ModelSpec, sizes: SizeRange | None) -> FrameSize:
    """A frame size that enters the network as it is, inside the range that was asked for."""
    size = spec.resize.network_size(
        spec.resize.size or (sizes.opt if sizes else DEFAULT_GOLDEN_SIZE)
    )
    if sizes is not None:
        sizes.check(size, 1)
    return size


def _size_range(spec: ModelSpec, options: BuildOptions) -> SizeRange | None:
    """None where no limit was asked for: ONNX Runtime takes any size."""
    if options.min is None and options.max is None and options.batch is None:
        return None
    smallest = options.min or FrameSize(SMALLEST_NETWORK_SIDE, SMALLEST_NETWORK_SIDE)
    largest = options.max or FrameSize(UNLIMITED, UNLIMITED)
    opt = options.opt or spec.resize.size or options.max or smallest
    return SizeRange(smallest, opt, largest, options.batch or UNLIMITED)


def _golden_from_engine(
    folder: Path, chosen: ChosenEngine, spec: ModelSpec, size: FrameSize
) -> tuple[tuple[tuple[str, str], ...], list[str]]:
    """Segment the golden frames, write them with their class maps; (names, notes)."""
    (folder / GOLDEN_FOLDER).mkdir()
    names: list[tuple[str, str]] = []
    classes: set[int] = set()
    frames = [golden_frame(size, seed=index) for index in range(GOLDEN_COUNT)]
    with Segmenter(chosen.engine, spec=spec) as segment:
        for index, frame in enumerate(frames):
            _refuse_nan(chosen.engine, spec, frame)
            class_map = segment(frame)
            classes |= set(np.unique(class_map).tolist())
            pair = f"{GOLDEN_FOLDER}/{index}.frame.png", f"{GOLDEN_FOLDER}/{index}.class_map.png"
            write_picture(folder / pair[0], frame)
            write_picture(folder / pair[1], class_map)
            names.append(pair)
    notes = [chosen.note] if chosen.note else []
    if chosen.backend == NATIVE:
        inputs = [prepare(frame, spec.resize) for frame in frames]
        int8 = spec.precision == "int8"
        opinion = second_opinion(chosen.engine, folder / ENGINE_FILE, inputs, int8)
        notes.append(str(opinion) if opinion else _NO_SECOND)
    chosen.engine.close()
    if len(classes) == 1 and spec.classes > 1:
        notes.append(
            f"all golden frames are of one class ({spec.class_names[classes.pop()]}): "
            "look at a mask of your own before you trust this model"
        )
    return tuple(names), notes


def _version_of(backend: str) -> str:
    return __version__ if backend == NATIVE else str(import_onnxruntime().__version__)


def _refuse_nan(engine: Engine, spec: ModelSpec, frame: Array) -> None:
    if spec.output != "logits":
        return
    session = engine.session()
    logits = session.run({"image": prepare(frame, spec.resize)[None]})["logits"]
    bad = int(np.size(logits) - np.count_nonzero(np.isfinite(logits)))
    session.close()
    if bad:
        raise VerificationError(
            f"{bad} of {np.size(logits)} logits are NaN or infinite",
            "finite logits",
            "check the checkpoint's weights; export it again",
        )


def _versions() -> dict[str, str]:
    return {
        "segformer-deploy": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "platform": f"{sys.platform} {platform.machine()}",
    }
