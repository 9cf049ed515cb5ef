"""An engine folder as a model (or two) of a Triton model repository.

::

    DIR/NAME/config.pbtxt, labels.txt, README.md       the front model
    DIR/NAME/1/model.py, segdeploy.json, engine/       one folder per version, and in it the
    DIR/NAME/1/config.pbtxt, README.md                 files above as they were for that version
    DIR/NAME-network/1/model.plan (or model.onnx)      with `network`: the network by itself

Each model folder is written aside and renamed, earlier versions in it: a server that polls the
repository sees the old one or the new one.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from segformer_deploy.engine.here import GPU_BACKENDS
from segformer_deploy.engine.manifest import MANIFEST_NAME, Manifest
from segformer_deploy.engine.package import check_folder
from segformer_deploy.errors import InputError, OutputError
from segformer_deploy.files import atomic_folder, writing
from segformer_deploy.runtime.golden import read_picture
from segformer_deploy.serve.earlier import (
    CONFIG,
    KEPT,
    README,
    RECORD,
    check_place,
    record_text,
    version_folders,
)
from segformer_deploy.serve.model_config import LABELS, Serving, front_config, network_config
from segformer_deploy.serve.names import ENGINE_FOLDER, NETWORK_ENDING
from segformer_deploy.serve.network_file import USUAL_SIZE, NetworkFile, network_file
from segformer_deploy.serve.readme import readme_text
from segformer_deploy.spec import FrameSize

MODEL_PY = '''"""Written by `segdeploy package`."""

from segformer_deploy.serve.triton_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''


@dataclass(frozen=True)
class Request:
    """What is to be packaged.

    Attributes:
        engine: the engine folder.
        root: the model repository.
        name: of the model; None: the engine folder's.
        version: a number above those that are there.
        network: the network as a model of its own, which the front model asks.
        gpu: None: where the engine was built for.
        serving: `gpu` and `max_batch` are narrowed to what the engine can do.
    """

    engine: Path
    root: Path
    name: str | None = None
    version: int = 1
    network: bool = False
    gpu: bool | None = None
    serving: Serving = field(default_factory=Serving)


@dataclass(frozen=True)
class Packaged:
    """What was written, and the settings that came of the request."""

    name: str
    version: int
    folder: Path
    network: str | None
    serving: Serving
    device: str

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.name,
            "version": self.version,
            "folder": str(self.folder),
            "network": self.network,
            "device": self.device,
            "instances": self.serving.instances,
            "max_batch": self.serving.max_batch,
            "delay_ms": self.serving.delay_ms,
        }


def package_for_triton(request: Request) -> Packaged:
    """Write the models of `request`.

    Raises InputError for what cannot be served so, EngineFolderError for a broken engine folder,
    OutputError where the place is not ours to write to, or cannot be written.
    """
    manifest = _manifest(request.engine)
    name = checked_name(request.name or _name_from(request.engine))
    network = _network(request, manifest)
    packaged = _settled(request, manifest, name, network)
    check_place(packaged.folder, request.version, manifest.spec, packaged.network)
    with _advice("--triton"):
        if network is not None:
            _write_network(packaged, manifest, network)
        _write_front(packaged, manifest, request.engine)
    return packaged


def checked_name(name: str) -> str:
    """`name`, where Triton and a web address can carry it."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}", name):
        raise InputError(
            f"model name '{name}'",
            "letters, digits, '_', '-' and '.', the first one a letter or digit",
            "choose one with --name",
        )
    return name


def _manifest(engine: Path) -> Manifest:
    if engine.suffix == ".onnx" and not engine.is_dir():
        raise InputError(
            f"{engine} is an ONNX file", "an engine folder", f"segdeploy build-engine {engine}"
        )
    return check_folder(engine)


def _name_from(engine: Path) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", engine.absolute().name).lstrip("_.-")


def _network(request: Request, manifest: Manifest) -> NetworkFile | None:
    plan = manifest.backend in GPU_BACKENDS
    if not request.network:
        if plan and request.gpu is False:
            raise InputError(f"{request.engine} holds a plan", "a GPU for it", "leave out --cpu")
        return None
    if manifest.tiling is not None:
        raise InputError(
            f"{request.engine} segments by tiles of {manifest.tiling.tiling}",
            "an engine that sees frames whole, for --network",
            "leave out --network: the front model then runs the engine itself",
        )
    return network_file(request.engine, manifest, gpu=request.gpu)


def _settled(
    request: Request, manifest: Manifest, name: str, network: NetworkFile | None
) -> Packaged:
    """The request's settings, narrowed to what the engine takes."""
    most = manifest.sizes.batch if manifest.sizes else request.serving.max_batch
    plan = manifest.backend in GPU_BACKENDS
    # In front of a network nothing but resizing and class maps is left, on the CPU.
    gpu = network is None and (plan if request.gpu is None else request.gpu)
    on_gpu = gpu if network is None else network.gpu
    serving = replace(request.serving, gpu=gpu, max_batch=min(most, request.serving.max_batch))
    beside = None if network is None else name + NETWORK_ENDING
    device = "gpu" if on_gpu else "cpu"
    return Packaged(name, request.version, request.root / name, beside, serving, device)


def _engine_facts(packaged: Packaged, manifest: Manifest, engine: str) -> dict[str, Any]:
    return {
        "name": engine,
        "seal": manifest.seal,
        "backend": manifest.backend,
        "backend_version": manifest.backend_version,
        "precision": manifest.delivered,
        "plan": manifest.plan is not None,
        "sizes": manifest.sizes.to_dict() if manifest.sizes else None,
        "device": packaged.device,
        "version": packaged.version,
    }


def _write_front(packaged: Packaged, manifest: Manifest, engine: Path) -> None:
    facts = _engine_facts(packaged, manifest, engine.absolute().name)
    warmup = _usual_frame(engine, manifest) if packaged.network is None else None
    config = front_config(packaged.name, manifest.spec, packaged.serving, facts, warmup)
    with _model_folder(packaged.folder, packaged.version) as (model, version):
        (model / CONFIG).write_text(config, encoding="ascii")
        (model / LABELS).write_text(_labels(manifest), encoding="utf-8")
        (model / README).write_text(readme_text(packaged.name, manifest, facts, packaged.network))
        _keep(model, version)
        (version / "model.py").write_text(MODEL_PY)
        (version / RECORD).write_text(record_text(manifest.spec, facts, packaged.network))
        if packaged.network is None:
            _copy_engine(engine, manifest, version / ENGINE_FOLDER)


def _write_network(packaged: Packaged, manifest: Manifest, network: NetworkFile) -> None:
    assert packaged.network is not None
    folder = packaged.folder.with_name(packaged.network)
    config = network_config(
        packaged.network,
        manifest.spec,
        packaged.serving,
        network,
        front=packaged.name,
        version=packaged.version,
    )
    with _model_folder(folder, packaged.version) as (model, version):
        (model / CONFIG).write_text(config, encoding="ascii")
        (model / LABELS).write_text(_labels(manifest), encoding="utf-8")
        _keep(model, version)
        shutil.copyfile(network.source, version / network.file_name)


def _keep(model: Path, version: Path) -> None:
    """Keep beside a version what `use_version` brings back."""
    for name in KEPT:
        if (model / name).exists():
            shutil.copyfile(model / name, version / name)


@contextmanager
def _model_folder(folder: Path, version: int) -> Iterator[tuple[Path, Path]]:
    """(a new folder of the model with its earlier versions, the empty folder of this one)."""
    with atomic_folder(folder, _place_aside(folder)) as aside:
        for earlier in version_folders(folder):
            if earlier.name != str(version):
                shutil.copytree(earlier, aside / earlier.name, copy_function=_link_or_copy)
        new = aside / str(version)
        new.mkdir()
        yield aside, new


def _place_aside(folder: Path) -> Path | None:
    """Where an unfinished model is no folder of the repository.

    A server takes every folder in its repository for a model, hidden ones too, and does not start
    where one is none: what a killed call leaves must not lie there. None where the repository's
    own parent cannot be used: it is then written in the repository after all.
    """
    root = folder.parent.absolute()
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
    same = root.stat().st_dev == root.parent.stat().st_dev  # a rename crosses no file system
    if not same or not os.access(root.parent, os.W_OK | os.X_OK):
        return None
    return root.parent / f"{root.name}-{folder.name}"


def _link_or_copy(source: str, target: str) -> str:
    """A second name for the same bytes where the disk can: plans are large and never changed."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target


def _copy_engine(engine: Path, manifest: Manifest, target: Path) -> None:
    """What the manifest lists, and nothing else that lies there."""
    for name in (MANIFEST_NAME, *manifest.files):
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(engine / name, place)


def _usual_frame(engine: Path, manifest: Manifest) -> FrameSize:
    """Of a frame that this engine is known to take: its golden one."""
    if manifest.golden:
        return FrameSize(*read_picture(engine / manifest.golden[0][0]).shape[:2])
    return manifest.spec.resize.size or USUAL_SIZE


def _labels(manifest: Manifest) -> str:
    return "".join(" ".join(name.split()) + "\n" for name in manifest.spec.class_names)


@contextmanager
def _advice(option: str) -> Iterator[None]:
    """Errors of writing name the option by which this command was told the place."""
    try:
        yield
    except OutputError as error:
        advice = error.next_step.replace("--output", option)
        raise OutputError(error.found, error.expected, advice) from error
