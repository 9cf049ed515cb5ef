"""The golden frames of a folder: segmented by a CPU engine at build time, written with it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segformer_deploy.engine.backend import NATIVE, ChosenEngine
from segformer_deploy.engine.here import SOURCE_FILE
from segformer_deploy.engine.manifest import MANIFEST_NAME
from segformer_deploy.engine.package import check_folder
from segformer_deploy.engine.session import Array, Engine
from segformer_deploy.engine.size_range import SizeRange
from segformer_deploy.engine.tiling import Tiling
from segformer_deploy.errors import EngineFolderError, VerificationError
from segformer_deploy.runtime.golden import GOLDEN_COUNT, golden_frame, read_picture, write_picture
from segformer_deploy.runtime.segmenter import Segmenter
from segformer_deploy.spec import FrameSize, ModelSpec
from segformer_deploy.workflow.second_opinion import second_opinion
from segformer_deploy.workflow.tiling import network_inputs

GOLDEN_FOLDER = "golden"
_NO_SECOND = "onnxruntime is not installed: no second library has seen the golden frames"


@dataclass(frozen=True)
class Golden:
    """What `write_golden` wrote.

    Attributes:
        names: (frame, class map) of each pair, relative to the folder.
        backend, by: what made the class maps: the backend, and the engine's whole name.
    """

    names: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    backend: str
    by: str


def write_golden(
    folder: Path,
    chosen: ChosenEngine,
    onnx: Path,
    spec: ModelSpec,
    size: FrameSize,
    tiling: Tiling | None = None,
) -> Golden:
    """Segment the golden frames with `chosen`, write them with their class maps to `folder`.

    With a tiling they are segmented by windows, and it is windows that the engine is given.

    Raises VerificationError where a logit is NaN or infinite.
    """
    (folder / GOLDEN_FOLDER).mkdir()
    names: list[tuple[str, str]] = []
    classes: set[int] = set()
    frames = [golden_frame(size, seed=index) for index in range(GOLDEN_COUNT)]
    with Segmenter(chosen.engine, spec=spec, tiling=tiling) as segment:
        for index, frame in enumerate(frames):
            refuse_nan(chosen.engine, spec, frame, tiling)
            class_map = segment(frame)
            classes |= set(np.unique(class_map).tolist())
            pair = f"{GOLDEN_FOLDER}/{index}.frame.png", f"{GOLDEN_FOLDER}/{index}.class_map.png"
            write_picture(folder / pair[0], frame)
            write_picture(folder / pair[1], class_map)
            names.append(pair)
    notes = [chosen.note] if chosen.note else []
    if chosen.backend == NATIVE:
        inputs = [one for frame in frames for one in network_inputs(frame, spec, tiling)]
        opinion = second_opinion(chosen.engine, onnx, inputs, spec.precision == "int8")
        notes.append(str(opinion) if opinion else _NO_SECOND)
    one_class = classes.pop() if len(classes) == 1 and spec.classes > 1 else None
    if one_class is not None:
        notes.append(
            f"all golden frames are of one class ({spec.class_names[one_class]}): "
            "look at a mask of your own before you trust this model"
        )
    return Golden(tuple(names), tuple(notes), chosen.backend, chosen.engine.name)


def carried_golden(
    onnx: Path, folder: Path, spec: ModelSpec, profiles: tuple[SizeRange, ...]
) -> Golden | None:
    """The golden frames of the engine folder that `onnx` lies in, copied to `folder`.

    So that a plan is built again on a board that has nothing else to segment them with. None
    where `onnx` is no such graph, the folder is not whole, frames are resized otherwise or were
    segmented by tiles, or these are of a size that `profiles` do not take.
    """
    if onnx.name != SOURCE_FILE or not (onnx.parent / MANIFEST_NAME).is_file():
        return None
    try:
        old = check_folder(onnx.parent)
    except EngineFolderError:
        return None
    if old.spec != spec or not old.golden or old.tiling is not None:
        return None
    if not all(_fits(onnx.parent / frame, spec, profiles) for frame, _ in old.golden):
        return None
    (folder / GOLDEN_FOLDER).mkdir()
    for name in (name for pair in old.golden for name in pair):
        shutil.copyfile(onnx.parent / name, folder / name)
    note = f"the golden frames and their class maps are those of {onnx.parent}"
    return Golden(old.golden, (note,), old.backend, old.verified)


def _fits(frame: Path, spec: ModelSpec, profiles: tuple[SizeRange, ...]) -> bool:
    height, width = read_picture(frame).shape[:2]
    size = spec.resize.network_size(FrameSize(height, width))
    return any(one.holds(size, 1) for one in profiles)


def refuse_nan(engine: Engine, spec: ModelSpec, frame: Array, tiling: Tiling | None = None) -> None:
    """VerificationError where a logit of `frame` is NaN or infinite."""
    if spec.output != "logits":
        return
    bad = count = 0
    session = engine.session()
    try:
        for image in network_inputs(frame, spec, tiling):
            logits = session.run({"image": image[None]})["logits"]
            bad += int(np.size(logits) - np.count_nonzero(np.isfinite(logits)))
            count += np.size(logits)
    finally:
        session.close()
    if bad:
        raise VerificationError(
            f"{bad} of {count} logits of {engine.name} are NaN or infinite",
            "finite logits",
            "check the checkpoint's weights; export it again, or build in another precision",
        )
