"""The engine folder: what loads where, and why not.

A folder is complete or absent: it is written aside and renamed. It is checked whole before
any library sees a byte of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from segformer_deploy.engine.manifest import FileRecord, Manifest, read_manifest
from segformer_deploy.engine.onnx_file import spec_from_onnx
from segformer_deploy.engine.ort import OrtEngine, OrtOptions
from segformer_deploy.engine.session import Engine
from segformer_deploy.errors import BackendError, EngineFolderError
from segformer_deploy.spec import ModelSpec

BACKENDS = ("onnxruntime",)


@dataclass(frozen=True)
class LoadedEngine:
    """An engine with what is known of it; `manifest` is None for a bare ONNX file."""

    engine: Engine
    spec: ModelSpec
    path: Path
    manifest: Manifest | None


def load_engine(path: Path, options: OrtOptions | None = None) -> LoadedEngine:
    """Load an engine folder, or an ONNX file of ours as it is.

    Raises EngineFolderError, OnnxFileError or BackendError, each naming the next step.
    """
    if path.is_file() and path.suffix == ".onnx":
        spec = spec_from_onnx(path)
        return LoadedEngine(OrtEngine(path, options), spec, path, None)
    manifest = check_folder(path)
    if manifest.backend not in BACKENDS:
        raise BackendError(
            f"{path} was built for the backend '{manifest.backend}'",
            "one of " + ", ".join(BACKENDS),
            "update segformer-deploy on this device",
        )
    (engine_file,) = manifest.engine_files
    engine = OrtEngine(path / engine_file, options)
    return LoadedEngine(engine, manifest.spec, path, manifest)


def check_folder(path: Path) -> Manifest:
    """The manifest of the engine folder at `path`, once every file in it is what it says."""
    if not path.exists():
        raise EngineFolderError(
            f"{path} does not exist",
            "an engine folder, or an .onnx file from segdeploy export",
            f"segdeploy build-engine --output {path}",
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


def engine_folders(root: Path) -> list[Path]:
    """Folders under `root` that hold a manifest, newest first."""
    found = [manifest.parent for manifest in root.glob("*/manifest.json")]
    return sorted(found, key=lambda folder: folder.stat().st_mtime, reverse=True)
