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
INT8_TOLERANCE = 0.1
"""Of the root mean square of INT8's logits: a value at a tie of its grid may fall either way, and
what follows differs by a step. ONNX Runtime, optimised and not, differs from itself by 0.013 on
street pictures; a wrong scale or a lost zero-point differs by as much as the logits are."""


@dataclass(frozen=True)
class Opinion:
    """How far two libraries' logits differ; and whose.

    Attributes:
        relative: the largest difference as a share of the largest logit; for INT8 the root mean
            square of the difference over that of the logits.
    """

    by: str
    relative: float
    int8: bool = False

    def __str__(self) -> str:
        share = "by at most" if not self.int8 else "in root mean square by"
        whole = "the largest" if not self.int8 else "their own"
        return (
            f"its logits on the golden frames differ from {self.by} {share} "
            f"{self.relative:.1e} of {whole}"
        )


def second_opinion(
    engine: Engine, onnx: Path, images: Sequence[Array], int8: bool = False
) -> Opinion | None:
    """Run `engine` and ONNX Runtime on `images` (uint8 RGB `[H, W, 3]` at network size).

    None where onnxruntime is not installed. VerificationError where they disagree by more
    than float32 rounds, or, with `int8`, by more than ties explain.
    """
    try:
        other = OrtEngine(onnx, OrtOptions(as_written=int8))
    except MissingDependencyError:
        return None
    found, expected = _logits(engine, images), _logits(other, images)
    other.close()
    relative = (_rms if int8 else _largest)(found, expected)
    tolerance = INT8_TOLERANCE if int8 else TOLERANCE
    if not relative <= tolerance:
        raise VerificationError(
            f"{engine.name} and {other.name} differ by {relative:.1e} of the logits",
            f"at most {tolerance:.0e}",
            "build with --backend onnxruntime, and please report this",
        )
    return Opinion(other.name, relative, int8)


def _largest(found: list[Array], expected: list[Array]) -> float:
    largest = float(np.max([np.abs(one).max() for one in expected]))
    pairs = zip(found, expected, strict=True)
    difference = float(np.max([np.abs(a - b).max() for a, b in pairs]))  # keeps NaN
    return difference / largest if largest else difference


def _rms(found: list[Array], expected: list[Array]) -> float:
    pairs = zip(found, expected, strict=True)
    lost = sum(float(np.sum((a.astype(np.float64) - b) ** 2)) for a, b in pairs)
    power = sum(float(np.sum(one.astype(np.float64) ** 2)) for one in expected)
    return float(np.sqrt(lost / power)) if power else float(np.sqrt(lost))


def _logits(engine: Engine, images: Sequence[Array]) -> list[Array]:
    session = engine.session()
    try:
        return [session.run({"image": image[None]})["logits"].copy() for image in images]
    finally:
        session.close()
