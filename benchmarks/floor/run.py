"""How little memory does SegFormer-B0 run in, and what is it worth there?

::

    python benchmarks/floor/run.py --data CAMVID --checkpoint FOLDER
    python benchmarks/floor/run.py --chart-only

CAMVID holds train/ and test/, each with images/ and labels/. Per size: mIoU of the float network
(PyTorch) and of the 8-bit executor on all test frames; then a few frames in an arena of the least
bytes, whose high-water mark, guard bytes and class maps are checked against the schedule's
arithmetic and the fast plan. Less than ten minutes of CPU time, one core.

Said before anything was measured: B0 *is useful* at a size while the 8-bit mIoU is at least half
of the float one at 512x512, and above the place prior (each pixel's most frequent class in the
training labels) by more than the 95 % interval.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if not __package__:  # run as a script: on one core, and `floor` is the folder it lies in
    for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(_name, "1")
    sys.path[0] = str(ROOT / "benchmarks")

import numpy as np  # noqa: E402

from floor import chart, measure, report  # noqa: E402
from floor.score import difference, pairs_of, place_prior, score  # noqa: E402
from segformer_deploy import __version__  # noqa: E402
from segformer_deploy.bench.labels import Pair  # noqa: E402
from segformer_deploy.cli.common import say  # noqa: E402
from segformer_deploy.errors import SegdeployError  # noqa: E402
from segformer_deploy.files import write_text  # noqa: E402
from segformer_deploy.spec import FrameSize  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
SIZES = (
    *("64x64", "72x96", "96x96", "96x128", "128x128", "128x160", "160x160", "160x208"),
    *("192x192", "192x256", "240x320", "256x256", "360x480", "512x512"),
)
USEFUL_SHARE = 0.5
BUDGETS = (100_000, 102_400)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    try:
        if not options.chart_only:
            _measure(options)
        data = json.loads(options.output.read_text("utf-8"))
        chart.write(data, RESULTS, options.chart)
    except SegdeployError as error:
        say(f"error: {error}")
        return 1
    print("\n".join([*report.table(data), "", *report.budget_table(data)]))
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with train/ and test/")
    parser.add_argument("--checkpoint", type=Path, help="a SegFormer checkpoint for that data")
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="HxW, the largest last")
    parser.add_argument("--frames", type=int, help="test frames, spread evenly; all if not given")
    parser.add_argument("--calibration", type=int, default=32, help="train frames for the grids")
    parser.add_argument("--lean-frames", type=int, default=1, help="frames in the least arena")
    parser.add_argument("--resume", action="store_true", help="keep the points of --output")
    parser.add_argument("--output", type=Path, default=RESULTS / "floor.json")
    parser.add_argument("--chart", type=Path, default=ROOT / "docs" / "floor.png")
    parser.add_argument("--chart-only", action="store_true", help="draw what was measured before")
    options = parser.parse_args(arguments)
    if not options.chart_only and not (options.data and options.checkpoint):
        parser.error("--data and --checkpoint are needed, or --chart-only")
    return options


def _measure(options: argparse.Namespace) -> None:
    task = measure.task_from(options.checkpoint)
    tests = pairs_of(options.data / "test", options.frames)
    calibration = pairs_of(options.data / "train", options.calibration)
    prior_map = place_prior(task.spec, pairs_of(options.data / "train"))
    prior = score(lambda frame: prior_map, task.spec, tests)
    result: dict[str, Any] = {
        "format": 1,
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "task": _task(options, task, len(tests)),
        "machine": {
            "processor": platform.machine(),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "segformer_deploy": __version__,
        },
        "prior_miou": prior.miou,
        "points": [],
    }
    if options.resume and options.output.exists():
        before = json.loads(options.output.read_text("utf-8"))
        if before["task"] == result["task"]:
            result["points"] = before["points"]
    done = {point["size"] for point in result["points"]}
    for text in (text for text in options.sizes if text not in done):
        size = FrameSize.parse(text)
        point, int8 = measure.point(task, size, tests, calibration, options.lean_frames)
        point["above_prior"] = vars(difference(int8.counts, prior.counts))
        result["points"].append(point)
        result["points"].sort(key=lambda one: int(one["pixels"]))
        _judge(result["points"])
        say(measure.line_of(point))
        write_text(options.output, json.dumps(result, indent=1) + "\n")
    result["budgets"] = list(_budgets(task, result["points"], calibration, tests[0]))
    write_text(options.output, json.dumps(result, indent=1) + "\n")


def _task(options: argparse.Namespace, task: measure.Task, tests: int) -> dict[str, Any]:
    return {
        "checkpoint": options.checkpoint.name,
        "classes": task.spec.classes,
        "weights_bytes": task.network.weights,
        "test_frames": tests,
        "calibration_frames": options.calibration,
        "useful": f"at least {USEFUL_SHARE} of FP32 at the largest size, and above the prior",
    }


def _budgets(
    task: measure.Task, points: list[dict[str, Any]], calibration: list[Pair], test: Pair
) -> Iterator[dict[str, Any]]:
    """For each budget and kind of schedule: the best size that fits, run in just that arena."""
    for budget in BUDGETS:
        for kind in ("keep", "again"):
            fitting = [p for p in points if p[kind]["finest_arena_bytes"] <= budget]
            if fitting:
                best = max(fitting, key=lambda point: point["int8_miou"])
                size = FrameSize.parse(best["size"])
                run = measure.budget_run(task, size, budget, calibration, test, kind == "keep")
                say(f"in {budget:,} bytes: {best['size']} {kind}, mIoU {best['int8_miou']:.2f}")
                yield {**run, "int8_miou": best["int8_miou"]}


def _judge(points: list[dict[str, Any]]) -> None:
    """Which sizes are useful, by the criterion that the top of this file states."""
    top = max(points, key=lambda point: point["pixels"])["fp32_miou"]
    for point in points:
        enough = point["int8_miou"] >= USEFUL_SHARE * top
        point["useful"] = bool(enough and point["above_prior"]["low"] > 0)


if __name__ == "__main__":
    sys.exit(main())
