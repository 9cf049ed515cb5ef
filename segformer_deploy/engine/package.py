"""The engine folder: what loads where, and why not.

A folder is complete or absent: it is written aside and renamed. It is checked whole before
any library sees a byte of it.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from segformer_deploy.engine.backend import (
    AUTO,
    BACKENDS,
    NATIVE,
    ONNXRUNTIME,
    EngineOptions,
    engine_from_onnx,
)
from segformer_deploy.engine.here import GPU_BACKENDS, SOURCE_FILE
from segformer_deploy.engine.manifest import HEAD, FileRecord, Manifest, head_of_file, read_manifest
from segformer_deploy.engine.native.library import load_library
from segformer_deploy.engine.onnx_file import spec_from_onnx
from segformer_deploy.engine.ort import import_onnxruntime
from segformer_deploy.engine.plan_folder import check_plan, is_plan, load_plan, load_trusted_plan
from segformer_deploy.engine.session import Engine
from segformer_deploy.errors import BackendError, EngineFolderError
from segformer_deploy.spec import ModelSpec


@dataclass(frozen=True)
class LoadedEngine:
    """An engine with what is known of it.

    Attributes:
        manifest: None for a bare ONNX file.
        note: why another backend than the first choice was taken, where one was.
    """

    engine: Engine
    spec: ModelSpec
    path: Path
    manifest: Manifest | None
    note: str | None = None


def load_engine(path: Path, options: EngineOptions | None = None) -> LoadedEngine:
    """Load an engine folder, or an ONNX file of ours as it is.

    A folder runs on the backend that it was built for, unless the options name another: the
    ONNX that a plan came from is in its folder, and runs on a CPU too.

    Raises EngineFolderError, OnnxFileError or BackendError, each naming the next step.
    """
    options = options or EngineOptions()
    if path.suffix == ".onnx" and not path.is_dir():
        spec = spec_from_onnx(path)
        chosen = engine_from_onnx(path, options)
        return LoadedEngine(chosen.engine, spec, path, None, chosen.note)
    if is_plan(path):
        return load_trusted_plan(path, trust=options.trust)
    manifest = check_folder(path)
    _check_backend(path, manifest)
    # Native has no providers: where one may be chosen, ONNX Runtime is in the race.
    free = options.provider == AUTO and manifest.backend == NATIVE
    if options.backend == AUTO and options.provider in ("cpu", AUTO) and not free:
        options = replace(options, backend=manifest.backend)
    if options.backend in GPU_BACKENDS:
        engine, note = load_plan(path, manifest, options.backend)
        return LoadedEngine(engine, manifest.spec, path, manifest, note)
    file = SOURCE_FILE if manifest.backend in GPU_BACKENDS else manifest.engine_files[0]
    chosen = engine_from_onnx(path / file, options)
    return LoadedEngine(chosen.engine, manifest.spec, path, manifest, chosen.note)


def check_runs_here(path: Path) -> Manifest:
    """The manifest of a folder that can run on this machine; an EngineError says why not.

    Nothing is loaded: files are held against their hashes, a plan's needs against the machine.
    """
    manifest = check_folder(path)
    _check_backend(path, manifest)
    if manifest.backend in GPU_BACKENDS:
        check_plan(path, manifest)
    elif manifest.backend == ONNXRUNTIME:
        import_onnxruntime()
    else:
        load_library()
    return manifest


def _check_backend(path: Path, manifest: Manifest) -> None:
    if manifest.backend not in BACKENDS:
        raise BackendError(
            f"{path} was built for the backend '{manifest.backend}'",
            "one of " + ", ".join(BACKENDS),
            "update segformer-deploy on this device",
        )
    if len(manifest.engine_files) != 1:
        raise BackendError(
            f"{path} holds {len(manifest.engine_files)} engine files that run in order",
            "one: this version cannot run split networks",
            "update segformer-deploy on this device",
        )


def spec_of(path: Path) -> ModelSpec:
    """The ModelSpec of an engine folder or of an ONNX file of ours; nothing is loaded."""
    if path.suffix == ".onnx" and not path.is_dir():
        return spec_from_onnx(path)
    return check_folder(path).spec


def check_folder(path: Path) -> Manifest:
    """The manifest of the engine folder at `path`, once every file in it is what it says."""
    try:
        return _checked_folder(path)
    except OSError as error:
        raise EngineFolderError(
            f"{path} cannot be read: {error.strerror or error} ({error.filename})",
            "a folder whose files this user may read",
            f"chmod -R u+rX {path}",
        ) from error


def _checked_folder(path: Path) -> Manifest:
    if not path.exists():
        raise EngineFolderError(
            f"{path} does not exist",
            "an engine folder, or an .onnx file from segdeploy export",
            "segdeploy build-engine",
        )
    if not path.is_dir():
        raise EngineFolderError(
            f"{path} is a file without the ending .onnx",
            "an engine folder, or an .onnx file from segdeploy export",
            "name the folder that segdeploy build-engine wrote",
        )
    manifest = read_manifest(path)
    missing = [name for name in manifest.files if not (path / name).is_file()]
    if missing:
        raise EngineFolderError(
            f"{path} is incomplete: {', '.join(missing[:3])} is missing",
            f"{len(manifest.files)} files, as its manifest lists",
            "copy the whole folder again (cp -r, rsync -a)",
        )
    for name, record in manifest.files.items():
        _check_file(path / name, record)
    return manifest


def _check_file(path: Path, record: FileRecord) -> None:
    size = path.stat().st_size
    if size != record.size and _begins_otherwise(path, size, record):
        raise EngineFolderError(
            f"{path} is another file than the one that was built: its beginning and its size "
            f"({size} bytes) differ",
            "the file that build-engine wrote there: one from elsewhere does not become this "
            "engine",
            "copy the whole folder again, or build it again with segdeploy build-engine",
        )
    if size != record.size:
        raise EngineFolderError(
            f"{path} has {size} bytes",
            f"{record.size} bytes: the copy is not whole",
            "copy the whole folder again (cp -r, rsync -a)",
        )
    if FileRecord.of(path).sha256 != record.sha256:
        raise EngineFolderError(
            f"{path} has other content than was built (its SHA-256 differs)",
            "the bytes that build-engine wrote",
            "copy the folder again, or build it again with segdeploy build-engine",
        )


def _begins_otherwise(path: Path, size: int, record: FileRecord) -> bool:
    # Of a stump that is shorter than the beginning we know, nothing can be said.
    return size >= HEAD and record.head_sha256 not in ("", head_of_file(path))


def engine_folders(root: Path) -> list[Path]:
    """Folders under `root` that hold a manifest, newest first."""
    found = [manifest.parent for manifest in root.glob("*/manifest.json")]
    return newest_first(found)


def newest_first(paths: list[Path]) -> list[Path]:
    """By time of change; hidden names (what a killed command left behind) are left out."""
    dated = []
    for path in paths:
        # A build that ends at this moment may take a name away under our eyes.
        with suppress(FileNotFoundError):
            if not path.name.startswith("."):
                dated.append((path.stat().st_mtime, path))
    return [path for _, path in sorted(dated, reverse=True)]
