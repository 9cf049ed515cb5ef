"""A TensorRT folder, or a bare plan: asked whether it fits, then loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from segformer_deploy.cuda import opening
from segformer_deploy.cuda.driver import Driver
from segformer_deploy.engine.here import check_plan_runs_here, rebuild_command
from segformer_deploy.engine.session import TensorInfo
from segformer_deploy.engine.size_range import SizeRange
from segformer_deploy.engine.trt.flavour import TENSORRT, TENSORRT_RTX, Library, load_library
from segformer_deploy.engine.trt.runtime import TrtEngine
from segformer_deploy.engine.trt.validity import check_validity
from segformer_deploy.errors import BackendError, EngineFolderError
from segformer_deploy.files import user_cache
from segformer_deploy.spec import ModelSpec, ResizeRule, default_class_names, default_palette

if TYPE_CHECKING:
    from segformer_deploy.engine.manifest import Manifest
    from segformer_deploy.engine.package import LoadedEngine

PLAN_FILE = "model.plan"
_MAGIC = {b"vtrt": TENSORRT_RTX, b"ftrt": TENSORRT}
"""A plan's first bytes, as these libraries write them."""
_PLAN_ENDINGS = (".plan", ".engine", ".trt")


def open_driver() -> Driver:
    """The GPU that sessions work on."""
    return opening.open_driver().driver


def check_plan(folder: Path, manifest: Manifest) -> tuple[Library, bytes, str | None]:
    """(library, plan, note) of a folder whose files are whole, once it fits this machine.

    Raises MismatchError, MissingDependencyError or BackendError. The plan is read, not loaded.
    """
    if manifest.plan is None:
        raise EngineFolderError(
            f"{folder} is for {manifest.backend} and its manifest says nothing of a plan",
            "the facts that build-engine writes",
            f"segdeploy build-engine --backend {manifest.backend}",
        )
    library = check_plan_runs_here(folder, manifest)
    plan = (folder / manifest.engine_files[0]).read_bytes()
    note = check_validity(library, plan, str(folder), rebuild_command(folder, manifest))
    return library, plan, note


def load_plan(folder: Path, manifest: Manifest, backend: str) -> tuple[TrtEngine, str | None]:
    """The engine of a checked folder, with a note where the library has one."""
    if backend != manifest.backend:
        raise BackendError(
            f"{folder} was built for {manifest.backend}, and {backend} was asked for",
            f"--backend {manifest.backend}, or auto",
            f"segdeploy build-engine --backend {backend} builds one for it",
        )
    library, plan, note = check_plan(folder, manifest)
    assert manifest.plan is not None
    # Of the bytes at hand: a folder that is being built has no hashes yet.
    cache = _runtime_cache(library, hashlib.sha256(plan).hexdigest())
    return TrtEngine(library, plan, manifest.plan.profiles, open_driver, cache), note


def _runtime_cache(library: Library, sha256: str) -> Path | None:
    """Where what is compiled of a plan at load is kept: the user's cache, never the folder."""
    root = user_cache()
    return None if root is None else root / "runtime" / f"{library.version}-{sha256[:32]}.cache"


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn operating-system errors inside the block into an `EngineFolderError` naming `path`."""
    try:
        yield
    except OSError as error:
        raise EngineFolderError(
            f"{path} cannot be read: {error.strerror or error}",
            "a file that this user may read",
            f"chmod u+r {path}",
        ) from error


def is_plan(path: Path) -> bool:
    """Whether `path` is a plan file by its ending or first bytes."""
    with reading(path):
        if not path.is_file() or path.suffix in _PLAN_ENDINGS:
            return path.is_file()
        with path.open("rb") as file:
            return file.read(4) in _MAGIC


def load_trusted_plan(path: Path, *, trust: bool) -> LoadedEngine:
    """A plan file that no manifest vouches for; EngineFolderError unless it is trusted.

    A plan is compiled code. With trust it is loaded all the same; what the manifest would have
    said (class names, resize rule) is taken from the plan's shapes, and a note says so.
    """
    from segformer_deploy.engine.package import LoadedEngine

    if not trust:
        raise EngineFolderError(
            f"{path} is a plan without a manifest: nothing says what built it, for which GPU, and "
            "whether it is whole",
            "an engine folder from segdeploy build-engine",
            "build one from the ONNX file; or load it all the same with --trust, if you made it",
        )
    with reading(path):
        data = path.read_bytes()
    library = load_library(_MAGIC.get(data[:4], TENSORRT))
    note = check_validity(library, data, str(path), "segdeploy build-engine")
    engine = TrtEngine(library, data, (), open_driver)
    try:
        spec = _spec_from_borders(path, engine.inputs, engine.outputs, engine.profiles)
    except BaseException:
        engine.close()
        raise
    said = f"{path} is trusted: classes are numbered, frames are {spec.resize}"
    return LoadedEngine(engine, spec, path, None, f"{said}; {note}" if note else said)


def _spec_from_borders(
    path: Path,
    inputs: tuple[TensorInfo, ...],
    outputs: tuple[TensorInfo, ...],
    profiles: tuple[SizeRange, ...],
) -> ModelSpec:
    ours = [(one.name, one.dtype, one.shape[3:]) for one in inputs] == [("image", "uint8", (3,))]
    classes = outputs[0].shape[1] if len(outputs) == 1 and len(outputs[0].shape) == 4 else None
    if not ours or classes is None or outputs[0].name != "logits":
        raise EngineFolderError(
            f"{path} has inputs {[one.name for one in inputs]} and outputs "
            f"{[one.name for one in outputs]}",
            "input 'image' (uint8 NHWC) and output 'logits', as segdeploy export makes them",
            "segdeploy export, then segdeploy build-engine",
        )
    return ModelSpec(
        "custom",
        default_class_names(classes),
        default_palette(classes),
        resize=ResizeRule.stretch_to(profiles[0].opt),
    )
