"""Accuracy of the shipped ONNX file on streets that nobody trained on.

    python models/segformer-b0-streets/evaluate.py                  # the model
    python models/segformer-b0-streets/evaluate.py --colour-only    # what colour alone tells

Training takes seeds from 0; these frames have seeds from ten million. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from segformer_deploy import Segmenter
from segformer_deploy.bench.accuracy import ConfusionMatrix
from segformer_deploy.spec import FrameSize
from segformer_deploy.streets import CLASS_NAMES, street_frame

HERE = Path(__file__).resolve().parent
FIRST_SEED = 10_000_000
SIDE = 512
BITS = 3
"""A colour histogram of 32 x 32 x 32 boxes."""


def score(segment: Callable[[Any], Any], frames: int) -> dict[str, Any]:
    matrix = ConfusionMatrix(len(CLASS_NAMES))
    for seed in range(FIRST_SEED, FIRST_SEED + frames):
        image, label = street_frame(seed, FrameSize(SIDE, SIDE))
        matrix.update(segment(image), label, np.ones(label.shape, bool))
    per_class = zip(CLASS_NAMES, matrix.per_class_iou, strict=True)
    return {
        "miou": 100 * (matrix.miou or 0.0),
        "pixel_accuracy": 100 * (matrix.pixel_accuracy or 0.0),
        "per_class_iou": {name: 100 * (iou or 0.0) for name, iou in per_class},
        "frames": frames,
        "first_seed": FIRST_SEED,
    }


def colour_classifier(frames: int) -> Callable[[Any], Any]:
    """The most frequent class of each colour, learnt from frames of the training seeds."""
    boxes = 1 << (8 - BITS)
    counts = np.zeros((boxes**3, len(CLASS_NAMES)), np.int64)

    def index(image: Any) -> Any:
        blue, green, red = (image[..., c].astype(np.int64) >> BITS for c in range(3))
        return (red * boxes + green) * boxes + blue

    for seed in range(frames):
        image, label = street_frame(seed, FrameSize(SIDE, SIDE))
        np.add.at(counts, (index(image).ravel(), label.ravel()), 1)
    best = counts.argmax(axis=1).astype(np.uint8)
    return lambda image: best[index(image)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--colour-only", action="store_true")
    options = parser.parse_args()
    if options.colour_only:
        print(json.dumps(score(colour_classifier(options.frames), options.frames)))
        return
    with Segmenter(HERE / "model.onnx") as segment:
        print(json.dumps(score(segment, options.frames)))


if __name__ == "__main__":
    main()
