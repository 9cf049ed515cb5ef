"""Before and after: what a precision costs per class, with intervals, on frames of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from segformer_deploy.bench.accuracy import ConfusionMatrix, class_keys
from segformer_deploy.bench.boundary import boundary_f
from segformer_deploy.bench.labels import Label
from segformer_deploy.graph.metadata import checked_spec
from segformer_deploy.runtime.class_map import class_map_from_logits
from segformer_deploy.workflow.judge import JudgedFrames, as_written, bootstrap_interval

Counts = npt.NDArray[np.int64]
Array = npt.NDArray[Any]


def report_precision(
    before: onnx.ModelProto,
    after: onnx.ModelProto,
    frames: JudgedFrames,
    on_frame: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Both graphs as they are written, on every frame.

    Shares and IoU in percent. Intervals are the central 95 % over frames drawn again
    (bootstrap); that of the drop draws the same frames for both.
    """
    spec = checked_spec(before)
    runs = as_written(before), as_written(after)
    scores = _Scores(spec.classes)
    for number, frame in enumerate(frames, 1):
        maps = [class_map_from_logits(run(frame.image), frame.size) for run in runs]
        scores.add(maps[0], maps[1], frame.label)
        if on_frame is not None:
            on_frame(number)
    result: dict[str, Any] = {
        "frames": len(frames),
        "origin": frames.origin,
        "agreement": scores.agreement,
        "agreement_interval": scores.agreement_interval,
    }
    return {**result, **scores.against_labels(class_keys(spec))}


class _Scores:
    """What adds up over frames, for both graphs."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.same: list[Counts] = []
        self.confusions: list[Counts] = []
        self.boundaries = np.zeros((2, classes))
        self.boundary_frames = np.zeros((2, classes), np.int64)

    def add(self, before: Array, after: Array, label: Label | None) -> None:
        self.same.append(np.array([np.count_nonzero(before == after), before.size], np.int64))
        if label is None:
            return
        both = []
        for index, found in enumerate((before, after)):
            confusion = ConfusionMatrix(self.classes)
            confusion.update(found, label.classes, label.valid)
            both.append(confusion.counts)
            scores = boundary_f(found, label.classes, self.classes, valid=label.valid)
            known = ~np.isnan(scores)
            self.boundaries[index][known] += scores[known]
            self.boundary_frames[index] += known
        self.confusions.append(np.stack(both))

    @property
    def agreement(self) -> float:
        same, pixels = np.sum(self.same, axis=0)
        return 100 * float(same / pixels)

    @property
    def agreement_interval(self) -> tuple[float, float] | None:
        return bootstrap_interval(self.same, lambda sums: 100 * float(sums[0] / sums[1]))

    def against_labels(self, names: list[str]) -> dict[str, Any]:
        if not self.confusions:
            return {"labels": False}
        total = np.sum(self.confusions, axis=0)
        miou = _miou(total[0]), _miou(total[1])
        return {
            "labels": True,
            "miou_before": miou[0],
            "miou_after": miou[1],
            "drop": _difference(total),
            "drop_interval": bootstrap_interval(self.confusions, _difference),
            "boundary_f_before": self._boundary(0),
            "boundary_f_after": self._boundary(1),
            "classes": {name: self._of_class(index, total) for index, name in enumerate(names)},
        }

    def _of_class(self, index: int, total: Counts) -> dict[str, Any]:
        """IoU of one class before and after, and the interval of the difference."""

        def change(sums: Counts) -> float | None:
            before, after = _iou(sums[0], index), _iou(sums[1], index)
            return None if before is None or after is None else after - before

        return {
            "iou_before": _iou(total[0], index),
            "iou_after": _iou(total[1], index),
            "change_interval": bootstrap_interval(self.confusions, change),
        }

    def _boundary(self, index: int) -> float | None:
        known = self.boundary_frames[index] > 0
        if not known.any():
            return None
        means = self.boundaries[index][known] / self.boundary_frames[index][known]
        return 100 * float(means.mean())


def _matrix(counts: Counts) -> ConfusionMatrix:
    confusion = ConfusionMatrix(len(counts))
    confusion.counts = counts
    return confusion


def _miou(counts: Counts) -> float | None:
    share = _matrix(counts).miou
    return None if share is None else 100 * share


def _difference(sums: Counts) -> float | None:
    before, after = _miou(sums[0]), _miou(sums[1])
    return None if before is None or after is None else before - after


def _iou(counts: Counts, index: int) -> float | None:
    union = counts[index].sum() + counts[:, index].sum() - counts[index, index]
    return 100 * float(counts[index, index] / union) if union else None
