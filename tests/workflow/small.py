"""A small network in a file, frames and labels in folders: what a precision is made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch

from segformer_deploy.graph.metadata import fp32_spec, write_spec
from segformer_deploy.spec import FrameSize, ModelSpec, ResizeRule
from segformer_deploy.workflow.gate import Budget
from segformer_deploy.workflow.race import Lap
from tests.graph.lively import lively_model
from tests.model.tiny import random_frames

Array = npt.NDArray[Any]
SIZE = FrameSize(64, 96)
ANYTHING = Budget(max_drop=100, min_agreement=0)
"""Where the gate is not the subject."""


def small_model(seed: int = 1) -> onnx.ModelProto:
    """An FP32 graph of seven classes that stretches frames to 64x96."""
    model = lively_model(seed)
    write_spec(model, fp32_spec(model).with_(resize=ResizeRule.stretch_to(SIZE)))
    return model


def small_spec() -> ModelSpec:
    return fp32_spec(small_model())


def saved(path: Path, model: onnx.ModelProto | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((model or small_model()).SerializeToString())
    return path


def pictures(folder: Path, count: int, seed: int = 0) -> Path:
    """`count` pictures of noise, 64x96."""
    folder.mkdir(parents=True)
    for index, frame in enumerate(random_frames(count, SIZE.height, SIZE.width, seed)):
        cv2.imwrite(str(folder / f"f{index:02}.png"), frame)
    return folder


def label_pictures(folder: Path, count: int, seed: int = 0, classes: int = 7) -> Path:
    """A label of random squares for each of `pictures`, with a void border at the left."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for index in range(count):
        squares = rng.integers(0, classes, (SIZE.height // 16, SIZE.width // 16), np.uint8)
        label = np.kron(squares, np.ones((16, 16), np.uint8))
        label[:, :5] = 255
        cv2.imwrite(str(folder / f"f{index:02}.png"), label)
    return folder


def rgb(path: Path) -> npt.NDArray[np.uint8]:
    picture = cv2.imread(str(path))
    assert picture is not None
    return np.asarray(picture[..., ::-1], np.uint8)


def map_by_hand(logits: Array, size: FrameSize) -> Array:
    """PyTorch's resize in float64, and the first of the largest."""
    values = torch.from_numpy(logits.astype(np.float64))[None]
    whole = torch.nn.functional.interpolate(
        values, (size.height, size.width), mode="bilinear", align_corners=False
    )
    return whole[0].numpy().argmax(0)


def ious_by_hand(maps: list[Array], labels: list[Array], classes: int) -> list[float | None]:
    """Per class in percent, over all frames; pixels whose label is 255 take no part."""
    shares: list[float | None] = []
    for index in range(classes):
        both = either = 0
        for found, label in zip(maps, labels, strict=True):
            known = label != 255
            one, other = (found == index) & known, (label == index) & known
            both, either = both + (one & other).sum(), either + (one | other).sum()
        shares.append(100 * float(both / either) if either else None)
    return shares


def mean_by_hand(shares: list[float | None]) -> float:
    known = [share for share in shares if share is not None]
    return sum(known) / len(known)


def hurry(patch: pytest.MonkeyPatch) -> None:
    """One thread, for on networks this small a second one mostly waits; few draws per interval."""
    for module in ("workflow.judge", "calibrate.observe", "engine.ort"):
        patch.setattr(f"segformer_deploy.{module}.usable_cores", lambda: 1)
    patch.setattr("segformer_deploy.workflow.judge._BOOTSTRAPS", 40)


def laps(**medians: float) -> dict[str, Lap]:
    """What a race gave: precision -> milliseconds."""
    return {name: Lap("an engine", "onnxruntime", ms, ms, (ms,)) for name, ms in medians.items()}
