"""How right an engine's class maps are, against label pictures.

Scores are in **percent** (mIoU 42.29 means 0.4229), as the literature prints them; shares are
fractions of 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from segformer_deploy.bench import ClassMap, OnImage, ReadImage, Segment, read_frame
from segformer_deploy.bench.boundary import TOLERANCE_OF_DIAGONAL, boundary_f, tolerance_px
from segformer_deploy.bench.label_counts import LabelCounts, LabelFlicker
from segformer_deploy.bench.labels import Label, Pair, Pairing, read_label
from segformer_deploy.errors import MediaError, RunError
from segformer_deploy.spec import ModelSpec


class ConfusionMatrix:
    """Pixel counts per pair of label class (row) and predicted class (column), int64.

    The counts run over all images, so the scores are those of the data set as a whole, not
    means over images: IoU of class c is the pixels that are c in both, over the pixels that
    are c in either. A class that neither labels nor predictions hold has no score and takes
    no part in a mean; one that only predictions hold counts with IoU 0. Shares are fractions
    of 1 here.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.counts: npt.NDArray[np.int64] = np.zeros((classes, classes), np.int64)

    def update(
        self, prediction: ClassMap, label: ClassMap, valid: npt.NDArray[np.bool_] | None = None
    ) -> None:
        """Add one image: class indices `[H, W]` below `classes` wherever `valid`.

        Raises RunError where a valid pixel holds another number: a map of another model.
        """
        if prediction.shape != label.shape:
            raise RunError(
                f"a class map of shape {prediction.shape} beside one of {label.shape}",
                "equal shapes",
            )
        if valid is None:
            truth, guess = label.ravel(), prediction.ravel()
        else:
            truth, guess = label[valid], prediction[valid]
        for name, values in (("prediction", guess), ("label", truth)):
            if values.size and not (values.min() >= 0 and values.max() < self.classes):
                raise RunError(
                    f"a {name} holds class indices {values.min()} to {values.max()}",
                    f"0 to {self.classes - 1}",
                )
        pairs = truth.astype(np.int64) * self.classes + guess
        counts = np.bincount(pairs, minlength=self.classes * self.classes)
        self.counts += counts.reshape(self.classes, self.classes)

    @property
    def pixels(self) -> int:
        return int(self.counts.sum())

    @property
    def per_class_iou(self) -> list[float | None]:
        """Intersection over union per class, None where the class occurs nowhere."""
        both = np.diag(self.counts)
        union = self.counts.sum(0) + self.counts.sum(1) - both
        return _shares(both, union)

    @property
    def miou(self) -> float | None:
        """Mean of `per_class_iou` over the classes that have one; None without any pixel."""
        return _mean(self.per_class_iou)

    @property
    def pixel_accuracy(self) -> float | None:
        return _shares(np.trace(self.counts)[None], self.counts.sum()[None])[0]

    @property
    def mean_class_accuracy(self) -> float | None:
        """Mean over the labelled classes of the share of their pixels that is found."""
        return _mean(_shares(np.diag(self.counts), self.counts.sum(1)))


def _shares(part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> list[float | None]:
    return [float(a / b) if b else None for a, b in zip(part, whole, strict=True)]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def percent(value: float | None) -> float | None:
    return None if value is None else 100.0 * value


def class_keys(spec: ModelSpec) -> list[str]:
    """The class names as keys of a dict: a name that occurs twice gets its index."""
    often = Counter(spec.class_names)
    return [
        name if often[name] == 1 else f"{name} ({index})"
        for index, name in enumerate(spec.class_names)
    ]


@dataclass(frozen=True)
class EvalReport:
    """Scores of one engine on one set of labelled images: percent, shares 0 to 1.

    Attributes:
        per_class_iou: class -> IoU, None where the class is in no label and no prediction.
        boundary_f: class -> boundary F-score, None without a boundary; None as a whole where
            it was not asked for. `mean_boundary_f` is the mean over the classes.
        tolerance: of the boundary F-score, as a share of the image diagonal;
            `tolerance_px` are its smallest and largest value in pixels.
        void_share: share of the labels' pixels that took no part, 0 to 1.
        resized_labels: labels that had another size than their image.
        flicker: percent of the pixels that changed class though their label did not, from frame
            to frame; None where it was not asked for, or no label stayed.
    """

    miou: float
    per_class_iou: Mapping[str, float | None]
    pixel_accuracy: float
    mean_class_accuracy: float
    images: int
    boundary_f: Mapping[str, float | None] | None
    mean_boundary_f: float | None
    tolerance: float | None
    tolerance_px: tuple[int, int] | None
    void_share: float
    resized_labels: int = 0
    notes: tuple[str, ...] = field(default=())
    flicker: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "miou": self.miou,
            "per_class_iou": dict(self.per_class_iou),
            "pixel_accuracy": self.pixel_accuracy,
            "mean_class_accuracy": self.mean_class_accuracy,
            "images": self.images,
            "boundary_f": None if self.boundary_f is None else dict(self.boundary_f),
            "mean_boundary_f": self.mean_boundary_f,
            "tolerance": self.tolerance,
            "tolerance_px": None if self.tolerance_px is None else list(self.tolerance_px),
            "void_share": self.void_share,
            "resized_labels": self.resized_labels,
            "flicker": self.flicker,
            "notes": list(self.notes),
        }


class _Boundaries:
    """Boundary F-scores summed over images, per class."""

    def __init__(self, classes: int) -> None:
        self.total = np.zeros(classes)
        self.images = np.zeros(classes, np.int64)
        self.tolerances: set[int] = set()

    def update(self, prediction: ClassMap, label: Label) -> None:
        scores = boundary_f(prediction, label.classes, len(self.total), valid=label.valid)
        known = ~np.isnan(scores)
        self.total[known] += scores[known]
        self.images += known
        self.tolerances.add(tolerance_px(label.size.height, label.size.width))

    def scores(self) -> list[float | None]:
        return _shares(self.total, self.images)


def evaluate(
    segment: Segment,
    spec: ModelSpec,
    pairs: Sequence[Pair] | Pairing,
    *,
    ignore: int | None = None,
    on_image: OnImage | None = None,
    boundary: bool = True,
    read: ReadImage = read_frame,
    sequence: bool = False,
) -> EvalReport:
    """Segment each image and score its class map against its label.

    Args:
        segment: frame -> class map at the frame's own size.
        spec: class names, label map and ignore index.
        pairs: images with their labels, from `pair_files`; its notes go into the report.
        ignore: the label files' value for void; see `read_label`.
        on_image: called after each image.
        boundary: also compute the boundary F-score.
        read: reads an image as uint8 `[H, W, 3]` BGR.
        sequence: the images follow each other: measure flicker too.

    Raises:
        MediaError: no pairs, a label that does not read, or nothing but void.
        SegdeployError: whatever the segmenter raises.
    """
    if not pairs:
        raise MediaError("there are no images to score", "at least one image with its label")
    confusion = ConfusionMatrix(spec.classes)
    boundaries = _Boundaries(spec.classes) if boundary else None
    labels = LabelCounts()
    flicker = LabelFlicker() if sequence else None
    for number, pair in enumerate(pairs, 1):
        frame = read(pair.image)
        # Labels first: a wrong label file should not cost a run of the network.
        label = labels.fitted(read_label(pair.label, spec, ignore=ignore), frame.shape)
        prediction = segment(frame)
        confusion.update(prediction, label.classes, label.valid)
        if boundaries is not None:
            boundaries.update(prediction, label)
        if flicker is not None:
            flicker.update(prediction, label, pair.image.parent)
        if on_image is not None:
            on_image(number)
    notes = pairs.notes if isinstance(pairs, Pairing) else ()
    report = _report(spec, len(pairs), confusion, boundaries, labels, notes)
    return report if flicker is None else replace(report, flicker=percent(flicker.share))


def _report(
    spec: ModelSpec,
    images: int,
    confusion: ConfusionMatrix,
    boundaries: _Boundaries | None,
    labels: LabelCounts,
    notes: Sequence[str],
) -> EvalReport:
    miou, accuracy = confusion.miou, confusion.pixel_accuracy
    class_accuracy = confusion.mean_class_accuracy
    if miou is None or accuracy is None or class_accuracy is None:
        raise MediaError(
            f"every pixel of the {images} labels is void",
            f"labels with values 0 to {spec.classes - 1}"
            + (" after the model's label map" if spec.label_map else ""),
            "check that the labels belong to this model's classes: segdeploy inspect",
        )
    keys = class_keys(spec)
    edges = boundaries.scores() if boundaries else None
    tolerances = boundaries.tolerances if boundaries else None
    return EvalReport(
        miou=100 * miou,
        per_class_iou=dict(zip(keys, map(percent, confusion.per_class_iou), strict=True)),
        pixel_accuracy=100 * accuracy,
        mean_class_accuracy=100 * class_accuracy,
        images=images,
        boundary_f=dict(zip(keys, map(percent, edges), strict=True)) if edges else None,
        mean_boundary_f=percent(_mean(edges)) if edges else None,
        tolerance=TOLERANCE_OF_DIAGONAL if edges else None,
        tolerance_px=(min(tolerances), max(tolerances)) if tolerances else None,
        void_share=labels.void_share,
        resized_labels=labels.resized,
        notes=(*notes, *labels.notes()),
    )
