"""mIoU of class maps on a labelled folder, its interval, and what needs no network at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segformer_deploy.bench import Frame, read_frame
from segformer_deploy.bench.accuracy import ConfusionMatrix, evaluate
from segformer_deploy.bench.labels import Pair, pair_files, read_label
from segformer_deploy.spec import FrameSize, ModelSpec

Counts = npt.NDArray[np.int64]
ClassMap = npt.NDArray[Any]
RESAMPLES = 2000


@dataclass(frozen=True)
class Scored:
    """mIoU in percent; counts [frames, classes, classes], label by prediction; the maps."""

    miou: float
    counts: Counts
    maps: tuple[ClassMap, ...]


@dataclass(frozen=True)
class Interval:
    """Of a difference of two mIoU on the same frames, in points; 95 %, bootstrap over frames."""

    difference: float
    low: float
    high: float


def pairs_of(folder: Path, frames: int | None = None) -> list[Pair]:
    """Images with labels of ``folder/images`` and ``folder/labels``; `frames` of them, spread."""
    pairs = list(pair_files(folder / "images", folder / "labels"))
    if frames is None or frames >= len(pairs):
        return pairs
    return [pairs[index * len(pairs) // frames] for index in range(frames)]


def score(segment: Callable[[Frame], ClassMap], spec: ModelSpec, pairs: Sequence[Pair]) -> Scored:
    """By `bench.accuracy.evaluate`, at the frames' own size; counts per frame beside it."""
    maps: list[ClassMap] = []

    def kept(frame: Frame) -> ClassMap:
        maps.append(segment(frame))
        return maps[-1]

    report = evaluate(kept, spec, pairs, boundary=False)
    counts = []
    for pair, found in zip(pairs, maps, strict=True):
        label = read_label(pair.label, spec).resized(FrameSize(*found.shape))
        one = ConfusionMatrix(spec.classes)
        one.update(found, label.classes, label.valid)
        counts.append(one.counts)
    return Scored(report.miou, np.stack(counts), tuple(maps))


def miou_of(counts: Counts) -> npt.NDArray[np.float64]:
    """Percent, from counts [..., classes, classes]; classes without pixels take no part."""
    both = np.diagonal(counts, axis1=-2, axis2=-1).astype(np.float64)
    union = counts.sum(-1) + counts.sum(-2) - both
    iou = np.divide(both, union, out=np.full_like(both, np.nan), where=union > 0)
    mean: npt.NDArray[np.float64] = 100 * np.nanmean(iou, axis=-1)
    return mean


def difference(one: Counts, other: Counts, seed: int = 0) -> Interval:
    """mIoU of `one` less that of `other`, [frames, classes, classes] each, frames drawn anew."""
    rng, frames = np.random.default_rng(seed), len(one)
    drawn = rng.multinomial(frames, np.full(frames, 1 / frames), size=RESAMPLES)
    both = [np.tensordot(drawn, counts, axes=(1, 0)) for counts in (one, other)]
    low, high = np.percentile(miou_of(both[0]) - miou_of(both[1]), [2.5, 97.5])
    whole = float(miou_of(one.sum(0)) - miou_of(other.sum(0)))
    return Interval(whole, float(low), float(high))


def place_prior(spec: ModelSpec, pairs: Sequence[Pair]) -> ClassMap:
    """Each pixel's most frequent class in the labels of `pairs`, at the first label's size."""
    first = read_label(pairs[0].label, spec)
    votes = np.zeros((spec.classes, *first.classes.shape), np.int32)
    for pair in pairs:
        label = read_label(pair.label, spec).resized(first.size)
        for index in range(spec.classes):
            votes[index] += (label.classes == index) & label.valid
    prior: ClassMap = votes.argmax(0).astype(np.uint8)
    return prior


def frames_of(pairs: Sequence[Pair], resized: Callable[[Frame], Frame]) -> list[Frame]:
    return [resized(read_frame(pair.image)) for pair in pairs]
