"""Are spoilt calibration frames noticed, and honest ones left in peace?

::

    python benchmarks/calibration_faults.py --model FP32.onnx --images FOLDER

Each trial draws 32 to 64 frames at random, spoils them in one way (or not), and asks what
`segdeploy calibrate` asks. A table on stderr; `--json` prints the counts on stdout. Without
`--model` and `--images`: the demo model on generated streets.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from segformer_deploy.calibrate.channel_order import MOST_ASKED, channel_order_warning
from segformer_deploy.calibrate.frame_checks import FrameChecker
from segformer_deploy.calibrate.frames import StreetFrames, frames_from_source
from segformer_deploy.cli.common import progress, say, table
from segformer_deploy.engine.onnx_file import spec_from_onnx
from segformer_deploy.errors import SegdeployError
from segformer_deploy.shipped import ONNX_FILE, shipped_file
from segformer_deploy.workflow.judge import as_written

Frame = npt.NDArray[np.uint8]
Random = np.random.Generator
TRIALS = 20
STREETS = 100
MEAN = np.array([123.675, 116.28, 103.53])
STD = np.array([58.395, 57.12, 57.375])


@dataclass(frozen=True)
class Fault:
    """A way to spoil frames, and the kind of warning that it must raise; None: honest."""

    name: str
    kind: str | None
    spoil: Callable[[list[Frame], Random], list[Frame]]


def each(change: Callable[[Frame, Random], npt.NDArray[np.generic]]) -> Callable[..., list[Frame]]:
    return lambda frames, random: [
        np.ascontiguousarray(change(frame, random), np.uint8) for frame in frames
    ]


def wrapped(values: npt.NDArray[np.float64]) -> Frame:
    """What a cast to uint8 makes of numbers below 0."""
    return values.astype(np.int64).astype(np.uint8)


FAULTS = (
    Fault("honest", None, lambda frames, _: frames),
    Fault("BGR for RGB", "swapped", each(lambda frame, _: frame[..., ::-1])),
    Fault("divided by 255 twice", "scaled", each(lambda frame, _: np.round(frame / 255))),
    Fault("normalised twice", "scaled", each(lambda frame, _: wrapped((frame - MEAN) / STD))),
    Fault(
        "uniform noise",
        "noise",
        each(lambda frame, random: random.integers(0, 256, frame.shape, dtype=np.uint8)),
    ),
    Fault(
        "gaussian noise",
        "noise",
        each(lambda frame, random: np.clip(random.normal(128, 40, frame.shape), 0, 255)),
    ),
    Fault("one frame repeated", "repeated", lambda frames, _: [frames[0]] * len(frames)),
    Fault(
        "one frame, sensor noise",
        "repeated",
        lambda frames, random: each(
            lambda _, again: np.clip(frames[0] + again.normal(0, 4, frames[0].shape), 0, 255)
        )(frames, random),
    ),
)


def warned(frames: Sequence[Frame], run: Callable[[Frame], npt.NDArray[np.float32]]) -> set[str]:
    """Kinds of the warnings that `segdeploy calibrate` would give."""
    checker = FrameChecker()
    for index, frame in enumerate(frames):
        checker.add(frame, str(index))
    kinds = {warning.kind for warning in checker.warnings()}
    chosen = np.linspace(0, len(frames) - 1, MOST_ASKED).round().astype(int)
    order = channel_order_warning(run, [frames[index] for index in chosen])
    return kinds | ({order.kind} if order else set())


def trials(
    fault: Fault,
    frames: Sequence[Frame],
    run: Callable[[Frame], npt.NDArray[np.float32]],
    advance: Callable[[], None],
) -> dict[str, int]:
    """How often which kind was told, over `TRIALS` draws; ``any``: how often anything was."""
    told: dict[str, int] = {"any": 0}
    for seed in range(TRIALS):
        random = np.random.default_rng(seed)
        count = min(len(frames), int(random.integers(32, 65)))
        drawn = [frames[i] for i in sorted(random.choice(len(frames), count, replace=False))]
        kinds = warned(fault.spoil(drawn, random), run)
        told["any"] += bool(kinds)
        for kind in kinds:
            told[kind] = told.get(kind, 0) + 1
        advance()
    return told


def measured(model: Path, images: Path | None) -> dict[str, dict[str, int]]:
    spec = spec_from_onnx(model)
    source = (
        StreetFrames(STREETS, spec.resize)
        if images is None
        else frames_from_source(images, spec.resize, 10**6)
    )
    frames = [frame.image for frame in source]
    network = as_written(onnx.load(model))

    def run(batch: Frame) -> npt.NDArray[np.float32]:
        return np.stack([network(image) for image in batch])

    found = {}
    with progress("trials", TRIALS * len(FAULTS)) as bar:
        done = 0

        def advance() -> None:
            nonlocal done
            done += 1
            bar(done)

        for fault in FAULTS:
            found[fault.name] = trials(fault, frames, run, advance)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=shipped_file(ONNX_FILE))
    parser.add_argument("--images", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    try:
        found = measured(options.model, options.images)
    except SegdeployError as error:
        say(f"error: {error}")
        return 1
    rows = [_row(fault, found[fault.name]) for fault in FAULTS]
    table("calibration frames, spoilt", ["fault", "to be told", "rightly", "also told"], rows)
    if options.json:
        print(json.dumps(found))
    return 0


def _row(fault: Fault, told: dict[str, int]) -> list[str]:
    right = TRIALS - told["any"] if fault.kind is None else told.get(fault.kind, 0)
    others = [f"{kind} {n}" for kind, n in told.items() if kind not in ("any", fault.kind)]
    return [fault.name, fault.kind or "nothing", f"{right}/{TRIALS}", ", ".join(others)]


if __name__ == "__main__":
    sys.exit(main())
