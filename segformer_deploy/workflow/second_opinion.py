"""The native engine's logits beside ONNX Runtime's, wherever that library is installed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segformer_deploy.engine.ort import OrtEngine, OrtOptions
from segformer_deploy.engine.session import Array, Engine
from segformer_deploy.errors import MissingDependencyError, VerificationError

TOLERANCE = 1e-4
"""Largest difference of logits, relative to the largest logit: float32 rounding, no more."""


@dataclass(frozen=True)
class Opinion:
    """The largest difference of two logits, as a share of the largest logit; and whose."""

    by: str
    relative: float


def second_opinion(engine: Engine, onnx: Path, images: Sequence[Array]) -> Opinion | None:
    """Run `engine` and ONNX Runtime on `images` (uint8 RGB `[H, W, 3]` at network size).

    None where onnxruntime is not installed. VerificationError where they disagree by more
    than float32 rounds.
    """
    try:
        other = OrtEngine(onnx, OrtOptions())
    except MissingDependencyError:
        return None
    found, expected = _logits(engine, images), _logits(other, images)
    other.close()
    largest = max(float(np.abs(one).max()) for one in expected)
    pairs = zip(found, expected, strict=True)
    difference = max(float(np.abs(a - b).max()) for a, b in pairs)
    relative = difference / largest if largest else difference
    if not relative <= TOLERANCE:
        raise VerificationError(
            f"{engine.name} and {other.name} differ by {relative:.1e} of the largest logit",
            f"at most {TOLERANCE:.0e}",
            "build with --backend onnxruntime, and please report this",
        )
    return Opinion(other.name, relative)


def _logits(engine: Engine, images: Sequence[Array]) -> list[Array]:
    session = engine.session()
    try:
        return [session.run({"image": image[None]})["logits"].copy() for image in images]
    finally:
        session.close()
