"""Does the simulation behind `segdeploy fit --cameras` foretell what a real run drops?

    python benchmarks/queueing.py                       # one to two minutes
    python benchmarks/queueing.py --cameras 2 6 --seconds 5

Generated live cameras (`test:`) share one native engine on one thread, as `segdeploy run` with
several sources has it: the newest frame of the one that has waited longest. Frames are small, so
that drawing them takes little of the processor; the network's size is not. What the run drops, and
how old its answers are, is held against two simulations: with the engine's times as bench measures
them alone, just before (what a user has beforehand), and with the times that it took in the run
itself, beside the cameras and whatever else the machine does (what tells the queue's model from the
engine's times).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
if str(HERE.parent) not in sys.path:
    sys.path.insert(0, str(HERE.parent))

from segformer_deploy.bench.fleet import Allowed, Fleet, Trial  # noqa: E402
from segformer_deploy.bench.latency import measure_latency  # noqa: E402
from segformer_deploy.bench.memory import machine_facts  # noqa: E402
from segformer_deploy.cli.common import progress, say, table  # noqa: E402
from segformer_deploy.files import write_text  # noqa: E402
from segformer_deploy.runtime.golden import golden_frame  # noqa: E402
from segformer_deploy.runtime.segmenter import Segmenter  # noqa: E402
from segformer_deploy.shipped import ONNX_FILE, shipped_file  # noqa: E402
from segformer_deploy.spec import FrameSize  # noqa: E402
from segformer_deploy.video.live.grabber import CaptureOptions  # noqa: E402
from segformer_deploy.video.loop import Stream, run_streams  # noqa: E402
from segformer_deploy.video.source import open_source  # noqa: E402
from segformer_deploy.video.tally import Progress  # noqa: E402

RESULT = HERE / "results" / "queueing.json"
ALONE_RUNS = 50


def main() -> int:
    options = _options()
    model = shipped_file(ONNX_FILE)
    assert model is not None
    size, frame = FrameSize.parse(options.size), FrameSize.parse(options.frame)
    with Segmenter(model, backend="native", threads=1, size=size) as segment:
        cases = []
        with progress("runs", len(options.cameras)) as advance:
            for number, cameras in enumerate(options.cameras, 1):
                cases.append(measure(segment, cameras, frame, options))
                advance(number)
        engine = segment.engine_name
    data = {
        "what": "queueing",
        "engine": f"SegFormer-B0 (shipped), {options.size}, {engine}, 1 thread",
        "frame": options.frame,
        "fps": options.fps,
        "seconds": options.seconds,
        "cases": cases,
        "machine": machine_facts().to_dict(),
    }
    _print(data)
    write_text(options.output, json.dumps(data) + "\n")
    say(f"{options.output} written")
    return 0


def measure(
    segment: Segmenter,
    cameras: int,
    frame: FrameSize,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """One run of so many cameras, and the two simulations of it."""
    report = measure_latency(segment, golden_frame(frame, seed=0), runs=ALONE_RUNS)
    alone = tuple(round(ms, 3) for ms in report.samples_ms)
    capture = CaptureOptions(size=frame, fps=options.fps)
    frames = int(options.fps * options.seconds)
    names = [f"test:seed={seed},frames={frames}" for seed in range(1, cameras + 1)]
    streams = [Stream(open_source(name, capture), ()) for name in names]
    took: list[float] = []

    def on_frame(done: Progress) -> None:
        took.append(round(done.stages_ms["segment"], 3))

    reports = run_streams(streams, segment, on_frame=on_frame)
    live = [report.live for report in reports if report.live is not None]
    came, shown = sum(one.frames_in for one in live), sum(one.shown for one in live)
    # Cameras that draw on a busy processor are slower than they were asked to be.
    fps = came / sum(report.seconds for report in reports)
    return {
        "cameras": cameras,
        "fps_in": fps,
        "run": {
            "frames_in": came,
            "shown": shown,
            "drops_percent": 100 * (came - shown) / came,
            "age_p50_ms": sum(one.p50_ms or 0.0 for one in live) / len(live),
            "age_p99_ms": max(one.p99_ms or 0.0 for one in live),
        },
        "alone_mean_ms": sum(alone) / len(alone),
        "in_run_mean_ms": sum(took) / len(took),
        "foretold": foretold(cameras, options.fps, alone),
        "foretold_from_its_times": foretold(cameras, fps, tuple(took)),
        "alone_ms": alone,
        "in_run_ms": took,
    }


def foretold(cameras: int, fps: float, ms: tuple[float, ...]) -> dict[str, float]:
    """What the simulation says of one device with these times."""
    found = Trial(Fleet(cameras, fps), ms, Allowed(None)).standing(1)
    return {
        "busy_percent": found.busy,
        "drops_percent": found.drops,
        "age_p50_ms": found.age_ms["p50"],
        "age_p99_ms": found.age_ms["p99"],
    }


def _print(data: dict[str, Any]) -> None:
    rows = []
    for case in data["cases"]:
        three = (case["run"], case["foretold"], case["foretold_from_its_times"])
        rows.append(
            [
                str(case["cameras"]),
                *(f"{one['drops_percent']:.1f}" for one in three),
                *(f"{one['age_p50_ms']:.0f}" for one in three),
            ]
        )
    beside = ["foretold", "from its times"]
    table(
        f"{data['engine']}; cameras of {data['fps']:g} frames/s",
        ["cameras", "dropped %", *beside, "age p50 ms", *beside],
        rows,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cameras", type=int, nargs="+", default=[1, 2, 3, 4, 6])
    parser.add_argument("--fps", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each run")
    parser.add_argument("--size", default="512x512", help="of the network, HxW")
    parser.add_argument("--frame", default="96x128", help="of the cameras' frames, HxW")
    parser.add_argument("--output", type=Path, default=RESULT)
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
