"""How much faster is INT8 than FP32 on our own CPU backend, and on ONNX Runtime?

::

    python benchmarks/int8_speed.py
    python benchmarks/int8_speed.py --model FP32.onnx --ranges R.json

Both graphs in one process, turn by turn, warm-up apart; raw samples go into the results. Without
names: the demo model with the ranges in `calibration/`.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from segformer_deploy import __version__
from segformer_deploy.calibrate.ranges import read_ranges
from segformer_deploy.cli.common import progress, say
from segformer_deploy.engine.backend import CPU_BACKENDS, EngineOptions
from segformer_deploy.errors import SegdeployError
from segformer_deploy.files import write_text
from segformer_deploy.graph.equalise import equalise
from segformer_deploy.graph.insert_qdq import Recipe, insert_qdq
from segformer_deploy.shipped import ONNX_FILE, shipped_file
from segformer_deploy.spec import FrameSize
from segformer_deploy.workflow.race import WARM_UP, race

ROOT = Path(__file__).resolve().parent.parent


def measured(model: Path, ranges: Path, size: FrameSize, rounds: int) -> dict[str, Any]:
    """Per backend: medians, the ratio with its spread over the rounds, raw samples."""
    found = read_ranges(ranges)
    even = equalise(onnx.load(model), found.scales())
    graph = insert_qdq(even, found.ranges, Recipe(attention=True))
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        int8 = Path(folder) / "int8.onnx"
        onnx.save(graph, int8)
        for backend in CPU_BACKENDS:
            options = EngineOptions(backend, threads=2)
            with progress(backend, WARM_UP + rounds) as advance:
                laps = race({"fp32": model, "int8": int8}, options, size, rounds, advance)
            ratios = np.divide(laps["fp32"].samples_ms, laps["int8"].samples_ms)
            low, middle, high = np.percentile(ratios, [10, 50, 90])
            result[backend] = {
                "ratio": {"median": middle, "p10": low, "p90": high},
                **{name: lap.to_dict() for name, lap in laps.items()},
            }
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=shipped_file(ONNX_FILE))
    parser.add_argument("--ranges", type=Path, default=ROOT / "calibration" / "model.ranges.json")
    parser.add_argument("--size", default="512x512")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--output", type=Path, help="results, as JSON")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    try:
        size = FrameSize.parse(options.size)
        backends = measured(options.model, options.ranges, size, options.rounds)
    except SegdeployError as error:
        say(f"error: {error}")
        return 1
    result = {
        "model": options.model.name,
        "size": str(size),
        "threads": 2,
        "machine": f"{platform.machine()}, {platform.system()}",
        "version": __version__,
        "backends": backends,
    }
    for backend, one in backends.items():
        ratio = one["ratio"]
        say(
            f"{one['int8']['engine']}: fp32 {one['fp32']['median_ms']:.1f} ms, int8 "
            f"{one['int8']['median_ms']:.1f} ms: {ratio['median']:.2f} times as fast "
            f"({ratio['p10']:.2f} to {ratio['p90']:.2f}, round by round)"
        )
        assert backend == one["int8"]["backend"]
    if options.output:
        write_text(options.output, json.dumps(result, indent=1) + "\n")
    if options.json:
        print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
