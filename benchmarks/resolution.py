"""mIoU of one engine over input sizes: what SegFormer's missing positional encoding is worth.

::

    python benchmarks/resolution.py --checkpoint FOLDER --data FOLDER   # images/ and labels/ in it

Each frame enters the network at the size in question, resized as the model's own rule resizes, and
its class map is made at the frame's own size and scored against its own label; so everything but
the network's input size stays the same. The paper's Table 1 (c) asks the same of one lower size.
Writes benchmarks/results/resolution.json and docs/resolution.png, and prints the page's table.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from segformer_deploy.bench.accuracy import evaluate
from segformer_deploy.bench.labels import Pairing, pair_files
from segformer_deploy.bench.memory import machine_facts
from segformer_deploy.cli.common import say
from segformer_deploy.errors import SegdeployError
from segformer_deploy.files import sha256_of_file, write_text
from segformer_deploy.runtime.segmenter import Segmenter
from segformer_deploy.spec import FrameSize
from segformer_deploy.workflow.export import ExportOptions, export_onnx

ROOT = Path(__file__).resolve().parent.parent
KEPT = ("96x128", "144x192", "192x256", "240x320", "288x384", "360x480", "480x640", "576x768",
        "720x960")  # fmt: skip
"""The test frames' own aspect ratio, 3:4."""
STRETCHED = ("128x160", "256x256", "360x360", "480x480", "512x512", "240x480", "360x720", "480x360",
             "720x480")  # fmt: skip
HEADING = (
    "| network sees | aspect ratio | pixels x trained | mIoU % | points gained |",
    "|---|---|---|---|---|",
)


def measured(engine: Path, pairs: Pairing, sizes: Sequence[str], threads: int) -> dict[str, Any]:
    """``trained_at``, and per size mIoU in percent, in the order of `sizes`."""
    rows = []
    for text in sizes:
        size = FrameSize.parse(text)
        with Segmenter(engine, size=size, threads=threads) as segment:
            report = evaluate(segment, segment.spec, pairs, boundary=False)
            own = segment.spec.resize.size
            rows.append(
                {
                    "size": str(size),
                    "aspect": "stretched" if text in STRETCHED else "kept",
                    "miou": report.miou,
                    "pixel_accuracy": report.pixel_accuracy,
                    "per_class_iou": dict(report.per_class_iou),
                }
            )
            name = segment.engine_name
        say(f"{text}: mIoU {report.miou:.2f} %")
    return {"engine": name, "trained_at": str(own), "images": len(pairs), "sizes": rows}


def table(data: dict[str, Any]) -> list[str]:
    """The rows of docs/resolution.md, smallest first; the size trained at in bold."""
    trained = FrameSize.parse(data["trained_at"])
    best = next(one["miou"] for one in data["sizes"] if one["size"] == data["trained_at"])
    rows = []
    for one in sorted(data["sizes"], key=lambda one: FrameSize.parse(one["size"]).pixels):
        size = FrameSize.parse(one["size"])
        own = size == trained
        name = f"**{size}**, trained at" if own else str(size)
        gained = "" if own else f"{one['miou'] - best:+.2f}"
        share = size.pixels / trained.pixels
        rows.append(f"| {name} | {one['aspect']} | {share:.2f} | {one['miou']:.2f} | {gained} |")
    return rows


def draw(data: dict[str, Any], path: Path) -> None:
    """mIoU against the pixels that the network sees; one line per kind of resize."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    trained = FrameSize.parse(data["trained_at"])
    figure, axes = pyplot.subplots(figsize=(7.2, 3.6), dpi=100)
    for aspect, colour, line, up in (
        ("kept", "#1d5795", "-", 6),
        ("stretched", "#98a1ad", "", -12),
    ):
        found = [one for one in data["sizes"] if one["aspect"] == aspect]
        found.sort(key=lambda one: FrameSize.parse(one["size"]).pixels)
        shares = [FrameSize.parse(one["size"]).pixels / trained.pixels for one in found]
        scores = [one["miou"] for one in found]
        axes.plot(shares, scores, line + "o", color=colour, label=f"aspect ratio {aspect}")
        for share, one in zip(shares, found, strict=True):
            axes.annotate(
                one["size"], (share, one["miou"]), xytext=(0, up), textcoords="offset points",
                fontsize=7, ha="center", color=colour,
            )  # fmt: skip
    axes.axvline(1, color="#c3c8d0", linestyle="--", zorder=0)
    axes.text(
        0.97,
        axes.get_ylim()[0] + 0.5,
        f"trained at {trained}",
        fontsize=8,
        color="#6c7683",
        ha="right",
    )
    axes.set_xscale("log", base=2)
    axes.set_xticks([2.0**power for power in range(-4, 3)])
    axes.set_xticklabels(["1/16", "1/8", "1/4", "1/2", "1", "2", "4"])
    axes.set_xlim(0.05, 5)
    axes.set_xlabel("pixels that the network sees, of those it was trained at")
    axes.set_ylabel("mIoU %")
    axes.legend(frameon=False, loc="lower right", fontsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def read_options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="mIoU of one engine over input sizes.")
    add = parser.add_argument
    add("--checkpoint", required=True, help="what segdeploy export --checkpoint takes")
    add("--data", type=Path, required=True, help="folder with images/ and labels/")
    add("--sizes", nargs="+", default=[*KEPT, *STRETCHED], metavar="HxW")
    add("--threads", type=int, default=2)
    add("--output", type=Path, default=ROOT / "benchmarks/results/resolution.json")
    add("--figure", type=Path, default=ROOT / "docs" / "resolution.png")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Export, measure, and say what was measured on what."""
    pairs = pair_files(options.data / "images", options.data / "labels")
    with tempfile.TemporaryDirectory() as folder:
        onnx = Path(folder) / "model.onnx"
        report = export_onnx(ExportOptions(checkpoint=options.checkpoint, output=onnx), say)
        own = str(report.spec.resize.size)
        sizes = list(dict.fromkeys([*options.sizes, own]))
        found = measured(onnx, pairs, sizes, options.threads)
        digest = sha256_of_file(onnx)
    return {
        "format": 1,
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "model": {"checkpoint": Path(options.checkpoint).name, "onnx_sha256": digest},
        "machine": machine_facts().to_dict(),
        **found,
    }


def main(arguments: list[str] | None = None) -> int:
    options = read_options(arguments)
    try:
        data = run(options)
        write_text(options.output, json.dumps(data, indent=1) + "\n")
    except SegdeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    draw(data, options.figure)
    print("\n".join([*HEADING, *table(data)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
