"""What the stabiliser does to flicker and mIoU, and what it costs, on generated video with truth.

::

    python benchmarks/stabiliser.py                        # about three minutes
    python benchmarks/stabiliser.py --drives 2 --frames 20

The shipped model segments drives that no training has seen, at two frame rates, and parked
cameras: one picture with new noise in every frame. Each class map goes through a `Stabiliser`
right after the network, as in `segdeploy run`, so its caches are as cold as there; this process
runs on one core, and OpenCV on one thread. CPU milliseconds leave out what other processes took
from that core. Raw samples go into the results.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from segformer_deploy import __version__
from segformer_deploy.bench.accuracy import ConfusionMatrix
from segformer_deploy.bench.memory import machine_facts
from segformer_deploy.cli.common import progress, say
from segformer_deploy.errors import SegdeployError
from segformer_deploy.files import write_text
from segformer_deploy.runtime import native
from segformer_deploy.runtime.segmenter import Segmenter
from segformer_deploy.shipped import ONNX_FILE, shipped_file
from segformer_deploy.spec import FrameSize
from segformer_deploy.streets import StreetVideo
from segformer_deploy.video.flicker import flicker_against_labels, flicker_against_picture
from segformer_deploy.video.stabiliser import Stabiliser, StabiliserSettings

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "stabiliser.json"
FIRST_SEED = 20_000_007
"""The shipped model's training used smaller ones only."""
RATES = (30, 15)
NOISE = (3, 8)
"""Standard deviations of the parked cameras' noise, in grey levels."""
PARKED_AT = 30
WARM_UP = 3
"""Frames whose times do not count: the first begins anew, the next allocate."""

HEADING = """\
| video | flicker % | stabilised | less by | mIoU % | stabilised | ms, median | p99 | CPU ms |
|---|---|---|---|---|---|---|---|---|"""

Labelled = Iterator[tuple[np.ndarray, np.ndarray]]


def drive(seed: int, size: FrameSize, fps: int) -> Labelled:
    return iter(StreetVideo(seed, size, fps))


def parked(seed: int, size: FrameSize, noise: int) -> Labelled:
    """One frame of a drive for ever, with noise of its own in each frame."""
    picture, label = next(islice(StreetVideo(seed, size, 30), PARKED_AT, None))
    dice = np.random.default_rng(seed)
    while True:
        noisy = picture + dice.normal(0, noise, picture.shape)
        yield np.clip(np.rint(noisy), 0, 255).astype(np.uint8), label


class Side:
    """Scores of one sequence of class maps: as the network gives them, or stabilised."""

    def __init__(self, classes: int) -> None:
        self._matrix = ConfusionMatrix(classes)
        self._before: tuple[np.ndarray, ...] | None = None
        self.flicker: list[float | None] = []
        self.flicker_against_picture: list[float | None] = []

    def add(self, class_map: np.ndarray, label: np.ndarray, picture: np.ndarray) -> None:
        self._matrix.update(class_map, label)
        if self._before is not None:
            old, old_label, old_picture = self._before
            self.flicker.append(flicker_against_labels(old, class_map, old_label, label))
            self.flicker_against_picture.append(
                flicker_against_picture(old, class_map, old_picture, picture)
            )
        self._before = class_map.copy(), label.copy(), picture.copy()

    def to_dict(self) -> dict[str, Any]:
        return {
            "miou": self._matrix.miou,
            "flicker": _mean(self.flicker),
            "flicker_against_picture": _mean(self.flicker_against_picture),
            "flicker_samples": self.flicker,
        }


def _mean(samples: Sequence[float | None]) -> float | None:
    known = [one for one in samples if one is not None]
    return float(np.mean(known)) if known else None


def measured(segment: Segmenter, frames: Labelled, count: int) -> dict[str, Any]:
    """Scores before and after, and the stabiliser's milliseconds per frame."""
    stabilise = Stabiliser()
    before, after = (Side(segment.spec.classes) for _ in range(2))
    samples, cpu_samples = [], []
    for picture, label in islice(frames, count):
        class_map = segment(picture)
        start, cpu_start = time.perf_counter(), time.thread_time()
        shown = stabilise(picture, class_map)
        samples.append(1e3 * (time.perf_counter() - start))
        cpu_samples.append(1e3 * (time.thread_time() - cpu_start))
        before.add(class_map, label, picture)
        after.add(shown, label, picture)
    timed = samples[WARM_UP:]
    found = {"before": before.to_dict(), "after": after.to_dict()}
    return {
        **found,
        "reduction": 1 - found["after"]["flicker"] / found["before"]["flicker"],
        "median_ms": float(np.median(timed)),
        "p99_ms": float(np.percentile(timed, 99)),
        "median_cpu_ms": float(np.median(cpu_samples[WARM_UP:])),
        "resets": stabilise.resets,
        "samples_ms": samples,
        "samples_cpu_ms": cpu_samples,
    }


def line(name: str, one: dict[str, Any]) -> str:
    """One row of the table, in percent, points of mIoU and milliseconds."""
    before, after = one["before"], one["after"]
    return (
        f"| {name} | {100 * before['flicker']:.2f} | {100 * after['flicker']:.2f} "
        f"| {100 * one['reduction']:.0f} % | {100 * before['miou']:.1f} "
        f"| {100 * after['miou']:.1f} | {one['median_ms']:.2f} | {one['p99_ms']:.2f} "
        f"| {one['median_cpu_ms']:.2f} |"
    )


def all_of_it(options: argparse.Namespace, size: FrameSize) -> dict[str, Any]:
    runs: dict[str, Any] = {}
    seeds = range(FIRST_SEED, FIRST_SEED + options.drives)
    jobs = [(f"drive {seed}, {fps} fps", drive, seed, fps) for fps in RATES for seed in seeds]
    jobs += [
        (f"parked {seed}, noise {noise}", parked, seed, noise) for noise in NOISE for seed in seeds
    ]
    with Segmenter(options.model, threads=1) as segment, progress("video", len(jobs)) as advance:
        engine = segment.engine_name
        for done, (name, frames, seed, value) in enumerate(jobs, 1):
            runs[name] = measured(segment, frames(seed, size, value), options.frames)
            advance(done)
    return {"engine": engine, "runs": runs}


def on_one_core() -> list[int] | None:
    """Keep to one core; which one, or None where the system does not offer that."""
    cv2.setNumThreads(1)
    if not hasattr(os, "sched_setaffinity"):
        return None
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    return sorted(os.sched_getaffinity(0))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", type=Path, default=shipped_file(ONNX_FILE))
    parser.add_argument("--size", default="512x512")
    parser.add_argument("--drives", type=int, default=6)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    machine, cores = machine_facts().to_dict(), on_one_core()
    try:
        size = FrameSize.parse(options.size)
        found = all_of_it(options, size)
    except SegdeployError as error:
        say(f"error: {error}")
        return 1
    result = {
        "format": 1,
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "size": str(size),
        "frames": options.frames,
        "settings": asdict(StabiliserSettings()),
        "kernels": native.describe(),
        "opencv": cv2.__version__,
        "version": __version__,
        "machine": {**machine, "cores_used": cores},
        **found,
    }
    print(HEADING)
    for name, one in found["runs"].items():
        print(line(name, one))
    write_text(options.output, json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
