"""Does a graph answer as its reference does? Run on ONNX Runtime's CPU provider.

Logits may differ by rounding alone: at most `TOLERANCE` of the largest logit. Class maps must
then be identical wherever the two best classes lie further apart than twice the largest
difference; the share of pixels that are closer (exempt) is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper

from segformer_deploy.engine.ort import import_onnxruntime
from segformer_deploy.errors import OnnxFileError, VerificationError
from segformer_deploy.spec import FrameSize

Frames = npt.NDArray[np.uint8]
Logits = npt.NDArray[np.float32]
Reference = Callable[[Frames], npt.NDArray[Any]]
"""uint8 RGB frames [B, H, W, 3] -> logits [B, classes, ceil(H/4), ceil(W/4)]."""

FrameShape = tuple[int, int, int]
"""Batch, height, width."""

TOLERANCE = 1e-4
"""Largest difference of logits, relative to the largest logit."""
_BAND = 64


@dataclass(frozen=True)
class VerifyReport:
    """What was compared, and how close it came.

    Attributes:
        max_abs_diff: largest difference of two logits; for a graph that gives class maps, the
            difference that was allowed.
        largest_logit: of the reference, in magnitude.
        exempt_share: share of pixels whose two best classes lie within 2 * max_abs_diff.
        shapes: what was run, as (batch, height, width).
    """

    max_abs_diff: float
    largest_logit: float
    exempt_share: float
    shapes: tuple[FrameShape, ...]

    @property
    def relative(self) -> float:
        """`max_abs_diff` as a share of the largest logit."""
        return self.max_abs_diff / self.largest_logit if self.largest_logit else 0.0


def verify_against(
    model: onnx.ModelProto | str | Path,
    reference: Reference,
    shapes: Sequence[FrameShape],
    *,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> VerifyReport:
    """Run `model` and `reference` on the same frames, one case per entry of `shapes`.

    Args:
        model: gives ``logits``, or ``class_map``; a path is read by ONNX Runtime itself.
        reference: gives logits for the same frames.
        shapes: batch, height and width of each case.
        tolerance: allowed difference of logits, relative to the largest.
        seed: of the frames, smooth noise with sharp edges.

    Raises:
        VerificationError: weights or logits that are not numbers, another shape, logits that
            differ by more than `tolerance`, or classes that differ outside exempt pixels.
        OnnxFileError: ONNX Runtime cannot read `model`.
    """
    if not shapes:
        raise VerificationError("no frame sizes to check a graph at", "at least one")
    run, output = _session(model)
    refuse_nan_weights(model if isinstance(model, onnx.ModelProto) else onnx.load(model))
    compare = _compare_logits if output == "logits" else _compare_class_maps
    results = []
    for index, (batch, height, width) in enumerate(shapes):
        size = FrameSize(height, width)
        frames = noise_frames(batch, size, seed + index)
        expected = np.asarray(reference(frames), dtype=np.float32)
        where = f"at {size}, batch {batch}"
        _refuse_nan(expected, "the reference's logits", where)
        results.append(compare(run(frames), expected, size, tolerance, where))
    return VerifyReport(
        max(r.difference for r in results),
        max(r.largest for r in results),
        sum(r.exempt for r in results) / sum(r.pixels for r in results),
        tuple(shapes),
    )


def noise_frames(batch: int, size: FrameSize, seed: int) -> Frames:
    """Frames [batch, height, width, 3] with areas, edges and grain, so that classes vary."""
    rng = np.random.default_rng(seed)
    areas = rng.integers(0, 256, (batch, -(-size.height // 16), -(-size.width // 16), 3))
    image = areas.repeat(16, axis=1).repeat(16, axis=2)[:, : size.height, : size.width]
    grain = rng.integers(-24, 25, image.shape)
    frames: Frames = np.clip(image + grain, 0, 255).astype(np.uint8)
    return frames


def refuse_nan_weights(model: onnx.ModelProto) -> None:
    """VerificationError naming the first initializer that holds NaN or infinity."""
    kinds = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
    for tensor in model.graph.initializer:
        if tensor.data_type in kinds:
            _refuse_nan(numpy_helper.to_array(tensor), f"weight {tensor.name}", "in the graph")


@dataclass(frozen=True)
class _Comparison:
    difference: float
    largest: float
    exempt: int
    pixels: int


def _compare_logits(
    found: npt.NDArray[Any], expected: Logits, size: FrameSize, tolerance: float, where: str
) -> _Comparison:
    _same_shape(found, expected.shape, where)
    _refuse_nan(found, "the graph's logits", where)
    difference = float(np.abs(found - expected).max())
    largest = float(np.abs(expected).max())
    if difference > tolerance * largest:
        raise VerificationError(
            f"{where} a logit differs by {difference:.3g}; the largest is {largest:.3g}",
            f"at most {tolerance:g} of the largest",
            "nothing was kept; please report this with the versions of onnxruntime and torch",
        )
    exempt = _same_classes(found.argmax(axis=1), expected, difference, where)
    return _Comparison(difference, largest, exempt, expected[:, 0].size)


def _compare_class_maps(
    found: npt.NDArray[Any], expected: Logits, size: FrameSize, tolerance: float, where: str
) -> _Comparison:
    _same_shape(found, (expected.shape[0], size.height, size.width), where)
    largest = float(np.abs(expected).max())
    difference = tolerance * largest
    exempt = 0
    for one, logits in zip(found, expected, strict=True):
        # In bands: 150 classes at full size in float64 would take hundreds of megabytes.
        for top in range(0, size.height, _BAND):
            rows = slice(top, min(top + _BAND, size.height))
            enlarged = enlarged_logits(logits, size, rows)
            exempt += _same_classes(one[None, rows], enlarged[None], difference, where)
    return _Comparison(difference, largest, exempt, int(found.size))


def _same_classes(
    found: npt.NDArray[Any], logits: npt.NDArray[Any], difference: float, where: str
) -> int:
    """The number of exempt pixels; VerificationError where another one differs."""
    if logits.shape[1] == 1:
        gap = np.full(found.shape, np.inf)
    else:
        best_two = np.partition(logits, -2, axis=1)[:, -2:].astype(np.float64)
        gap = best_two[:, 1] - best_two[:, 0]
    exempt = gap <= 2 * difference
    wrong = (found != logits.argmax(axis=1)) & ~exempt
    if wrong.any():
        raise VerificationError(
            f"{where} {int(wrong.sum())} of {wrong.size} pixels have another class",
            "the reference's class wherever the two best are further apart than rounding",
            "nothing was kept; please report this with the versions of onnxruntime and torch",
        )
    return int(exempt.sum())


def enlarged_logits(logits: Logits, size: FrameSize, rows: slice) -> npt.NDArray[np.float64]:
    """[classes, h, w] -> the given rows of [classes, height, width].

    Bilinear with half-pixel centres, in float64.
    """
    vertical = _bilinear_weights(logits.shape[1], size.height)[rows]
    horizontal = _bilinear_weights(logits.shape[2], size.width)
    result: npt.NDArray[np.float64] = vertical @ logits.astype(np.float64) @ horizontal.T
    return result


def _bilinear_weights(source: int, target: int) -> npt.NDArray[np.float64]:
    """The matrix [target, source] that enlarges one axis; edges are clamped."""
    position = np.clip((np.arange(target) + 0.5) * (source / target) - 0.5, 0, source - 1)
    low = np.floor(position).astype(np.int64)
    high = np.minimum(low + 1, source - 1)
    weights = np.zeros((target, source))
    share = position - low
    np.add.at(weights, (np.arange(target), low), 1 - share)
    np.add.at(weights, (np.arange(target), high), share)
    return weights


def _same_shape(found: npt.NDArray[Any], expected: tuple[int, ...], where: str) -> None:
    if found.shape != expected:
        raise VerificationError(
            f"{where} the graph gives shape {list(found.shape)}",
            f"shape {list(expected)}",
            "export the graph again: segdeploy export",
        )


def _refuse_nan(values: npt.NDArray[Any], what: str, where: str) -> None:
    if not np.isfinite(values).all():
        bad = int(values.size - np.isfinite(values).sum())
        raise VerificationError(
            f"{what} {where}: {bad} of {values.size} values are NaN or infinite",
            "finite numbers",
            "check the checkpoint: its training may have diverged, or its file is damaged",
        )


def _session(
    model: onnx.ModelProto | str | Path,
) -> tuple[Callable[[Frames], npt.NDArray[Any]], str]:
    """A function that runs `model`, and its output's name."""
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # The check runs a few shapes once each: an arena would only keep their memory.
    options.enable_cpu_mem_arena = False
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
    try:
        session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no public base class
        name = "the graph" if isinstance(model, onnx.ModelProto) else str(model)
        raise OnnxFileError(
            f"ONNX Runtime cannot load {name}: {str(error).splitlines()[0]}",
            "a graph that this package exported",
            "export it again: segdeploy export",
        ) from error

    def run(frames: Frames) -> npt.NDArray[Any]:
        try:
            return np.asarray(session.run(None, {"image": frames})[0])
        except Exception as error:
            raise VerificationError(
                f"ONNX Runtime fails at {frames.shape}: {str(error).splitlines()[0]}",
                "a graph that runs at every size from 64x64 up",
                "nothing was kept; please report this with the version of onnxruntime",
            ) from error

    return run, str(session.get_outputs()[0].name)
