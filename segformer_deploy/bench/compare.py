"""Does engine B give the class maps of engine A? No labels needed: A is taken as the truth.

mIoU and IoU are in percent, agreement is a share of 0 to 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segformer_deploy.bench import OnImage, ReadImage, SegmentWithSpec, read_frame
from segformer_deploy.bench.accuracy import ConfusionMatrix, class_keys, percent
from segformer_deploy.errors import InputError, MediaError

WORST = 5


@dataclass(frozen=True)
class CompareReport:
    """How far B's class maps are A's.

    Attributes:
        agreement: share of all pixels with the same class, 0 to 1.
        miou: mean IoU of B with A as the label, over the classes that either shows, in percent.
        per_class_iou: class (A's name) -> IoU in percent, None where neither shows it.
        images: how many were compared; `identical_images`: those without a different pixel.
        worst: (image, agreement) of the five images that agree least, lowest first.
    """

    agreement: float
    miou: float
    per_class_iou: Mapping[str, float | None]
    images: int
    identical_images: int
    worst: tuple[tuple[str, float], ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {
            "agreement": self.agreement,
            "miou": self.miou,
            "per_class_iou": dict(self.per_class_iou),
            "images": self.images,
            "identical_images": self.identical_images,
            "worst": [{"image": name, "agreement": share} for name, share in self.worst],
            "notes": list(self.notes),
        }


def compare(
    segment_a: SegmentWithSpec,
    segment_b: SegmentWithSpec,
    images: Sequence[Path],
    *,
    on_image: OnImage | None = None,
    read: ReadImage = read_frame,
) -> CompareReport:
    """Segment each image with both and count where the class maps differ.

    Raises:
        InputError: the two have different numbers of classes.
        MediaError: no images, or one that does not read.
    """
    spec_a, spec_b = segment_a.spec, segment_b.spec
    if spec_a.classes != spec_b.classes:
        raise InputError(
            f"A has {spec_a.classes} classes, B has {spec_b.classes}",
            "two engines of the same classes",
            "compare engines built from the same checkpoint",
        )
    if not images:
        raise MediaError("there are no images to compare on", "at least one image")
    confusion = ConfusionMatrix(spec_a.classes)
    shares: list[tuple[str, float]] = []
    identical = 0
    for number, path in enumerate(images, 1):
        frame = read(path)
        map_a, map_b = segment_a(frame), segment_b(frame)
        confusion.update(map_b, map_a)
        same = int(np.count_nonzero(map_a == map_b))
        identical += same == map_a.size
        shares.append((path.name, same / map_a.size))
        if on_image is not None:
            on_image(number)
    agreement, miou = confusion.pixel_accuracy, confusion.miou
    assert agreement is not None
    assert miou is not None
    notes: tuple[str, ...] = ()
    if spec_a.class_names != spec_b.class_names:
        notes = ("A and B name their classes differently; they were compared by index",)
    return CompareReport(
        agreement=agreement,
        miou=100 * miou,
        per_class_iou=dict(
            zip(class_keys(spec_a), map(percent, confusion.per_class_iou), strict=True)
        ),
        images=len(images),
        identical_images=identical,
        worst=tuple(sorted(shares, key=lambda item: item[1])[:WORST]),
        notes=notes,
    )
