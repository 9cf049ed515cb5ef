"""Tiles beside the whole frame: mIoU, the same pixels, memory and time, one network, one machine.

::

    python benchmarks/tiles.py --checkpoint FOLDER --data FOLDER   # images/ and labels/ in it

Each frame is resized to the network's size in question and segmented whole, then by each tiling in
turn; every class map is made at the frame's own size and scored against its label. A ratio of times
is formed frame by frame. Peaks are the kernel's (VmHWM) of processes of their own, which segment
frames of the network's size. Writes benchmarks/results/tiles.json, and prints the page's table;
`--page` prints it of the file that is there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from segformer_deploy.bench.accuracy import ConfusionMatrix
from segformer_deploy.bench.labels import Label, pair_files, read_label
from segformer_deploy.bench.memory import machine_facts
from segformer_deploy.cli.common import progress, say
from segformer_deploy.engine.backend import NATIVE, EngineOptions, engine_from_onnx
from segformer_deploy.engine.onnx_file import spec_from_onnx
from segformer_deploy.engine.session import Engine
from segformer_deploy.engine.tiling import Merge, Tiling, share_of
from segformer_deploy.errors import SegdeployError
from segformer_deploy.files import sha256_of_file, write_text
from segformer_deploy.runtime.segmenter import Segmenter
from segformer_deploy.runtime.tiles import Grid
from segformer_deploy.spec import FrameSize, ModelSpec
from segformer_deploy.video.images import read_image
from segformer_deploy.workflow.export import ExportOptions, export_onnx
from segformer_deploy.workflow.memory_trial import measure_peak

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks/results/tiles.json"
SIZES = ("480x640", "720x960")
TILES = ("256x256", "384x384", "480x480")
SHARES = (0.0, 1 / 4)
"""Overlaps, of a tile's side: none, and what `--tile` takes by itself."""
MERGES: tuple[Merge, ...] = ("average", "centre")
HEADING = (
    "| network sees | windows | overlap, px | merge | mIoU % | points gained | "
    "same pixels %, median | worst frame | peak MiB | times the whole's time |",
    "|---|---|---|---|---|---|---|---|---|---|",
)


@dataclass
class Case:
    """One way to segment a frame, and what was found of it; `tiling` None: whole."""

    size: FrameSize
    tiling: Tiling | None
    matrix: ConfusionMatrix
    same: list[float] = field(default_factory=list)
    ms: list[float] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        windows = len(Grid.over(self.size, self.tiling)) if self.tiling else 1
        miou = self.matrix.miou
        return {
            "size": str(self.size),
            "tiling": self.tiling.to_dict() if self.tiling else None,
            "windows": windows,
            "miou": None if miou is None else 100 * miou,
            "same": self.same,
            "ms": self.ms,
            "peak_mib": self.peaks,
        }


def cases_of(size: FrameSize, tiles: list[str], classes: int) -> list[Case]:
    """The whole frame first, then every tiling that has more than one window.

    The last window is shifted back to the edge, so that two overlaps may be the same windows: these
    are measured once, under the larger one.
    """
    tilings: dict[tuple[Grid, str], Tiling] = {}
    for tile in map(FrameSize.parse, tiles):
        for share in SHARES:
            for merge in MERGES:
                tiling = Tiling(tile, share_of(tile, share), merge)
                grid = Grid.over(size, tiling)
                if len(grid) > 1:
                    tilings[grid, merge] = tiling
    return [Case(size, one, ConfusionMatrix(classes)) for one in (None, *tilings.values())]


def frames_of(data: Path, spec: ModelSpec, every: int) -> Iterator[tuple[Any, Label]]:
    """(frame, label at its size) of every so many pairs."""
    for pair in list(pair_files(data / "images", data / "labels"))[::every]:
        frame = read_image(pair.image)
        label, size = read_label(pair.label, spec), FrameSize(*frame.shape[:2])
        yield frame, label if label.size == size else label.resized(size)


def measure(
    engine: Engine,
    spec: ModelSpec,
    cases: list[Case],
    frames: list[tuple[Any, Label]],
    threads: int,
) -> None:
    """All cases of one size, frame by frame in turns, so that what slows one slows all."""
    with ExitStack() as stack:
        ways = [
            stack.enter_context(
                Segmenter(engine, spec=spec, size=one.size, tiling=one.tiling, threads=threads)
            )
            for one in cases
        ]
        advance = stack.enter_context(progress(str(cases[0].size), len(frames)))
        for segment in ways:
            segment(frames[0][0])  # buffers and tables are made at the first
        for number, (frame, label) in enumerate(frames):
            whole = None
            for case, segment in zip(cases, ways, strict=True):
                started = time.perf_counter()
                class_map = segment(frame)
                case.ms.append(1e3 * (time.perf_counter() - started))
                whole = class_map if whole is None else whole
                case.same.append(100 * float(np.mean(class_map == whole)))
                case.matrix.update(class_map, label.classes, label.valid)
            advance(number + 1)


def measure_peaks(onnx: Path, cases: list[Case], runs: int) -> None:
    for case in cases:
        for _ in range(runs):
            peak = measure_peak(onnx, case.size, NATIVE, 2, tiling=case.tiling)
            case.peaks.append(peak.peak_mib)


def table(data: dict[str, Any]) -> list[str]:
    """The rows of docs/tiles.md."""
    rows = []
    for one in data["cases"]:
        tiling = one["tiling"]
        if tiling is None:
            whole = one
            rows.append(
                f"| **{one['size']}** | whole | | | {one['miou']:.2f} | | | | "
                f"{max(one['peak_mib']):.1f} | |"
            )
            continue
        ratios = [a / b for a, b in zip(one["ms"], whole["ms"], strict=True)]
        rows.append(
            f"| {one['size']} | {one['windows']} of {tiling['tile']} | {tiling['overlap']} | "
            f"{tiling['merge']} | {one['miou']:.2f} | {one['miou'] - whole['miou']:+.2f} | "
            f"{statistics.median(one['same']):.1f} | {min(one['same']):.1f} | "
            f"{max(one['peak_mib']):.1f} | {statistics.median(ratios):.2f} |"
        )
    return rows


def read_options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Tiles beside the whole frame.")
    add = parser.add_argument
    add("--checkpoint", help="what segdeploy export --checkpoint takes")
    add("--data", type=Path, help="folder with images/ and labels/")
    add("--every", type=int, default=2, help="take one frame of so many")
    add("--sizes", nargs="+", default=list(SIZES), metavar="HxW", help="of the network's input")
    add("--tiles", nargs="+", default=list(TILES), metavar="HxW")
    add("--threads", type=int, default=2)
    add("--runs", type=int, default=2, help="processes per peak")
    add("--output", type=Path, default=RESULT)
    add("--page", action="store_true", help="print the table of what was measured, and stop")
    options = parser.parse_args(arguments)
    if not options.page and not (options.checkpoint and options.data):
        parser.error("--checkpoint and --data, or --page")
    return options


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Export, measure, and say what was measured on what."""
    with tempfile.TemporaryDirectory() as folder:
        onnx = Path(folder) / "model.onnx"
        export_onnx(ExportOptions(checkpoint=options.checkpoint, output=onnx), say)
        spec = spec_from_onnx(onnx)
        frames = list(frames_of(options.data, spec, options.every))
        engine = engine_from_onnx(onnx, EngineOptions(NATIVE, threads=options.threads)).engine
        cases: list[Case] = []
        try:
            for size in map(FrameSize.parse, options.sizes):
                found = cases_of(size, options.tiles, spec.classes)
                measure(engine, spec, found, frames, options.threads)
                cases += found
        finally:
            engine.close()
        measure_peaks(onnx, cases, options.runs)
        digest = sha256_of_file(onnx)
    return {
        "format": 1,
        "what": "tiles",
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "model": {"checkpoint": Path(options.checkpoint).name, "onnx_sha256": digest},
        "machine": machine_facts().to_dict(),
        "engine": engine.name,
        "threads": options.threads,
        "trained_at": str(spec.resize.size),
        "images": len(frames),
        "every": options.every,
        "cases": [one.to_dict() for one in cases],
    }


def main(arguments: list[str] | None = None) -> int:
    options = read_options(arguments)
    try:
        if options.page:
            data = json.loads(options.output.read_text(encoding="utf-8"))
        else:
            data = run(options)
            write_text(options.output, json.dumps(data, indent=1) + "\n")
    except SegdeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join([*HEADING, *table(data)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
