"""The GPU's kernels without a GPU: what they take of a multiprocessor, how many bytes they move.

::

    python benchmarks/kernel_report.py           # needs NVRTC: `make kernels` runs this too

Compiled for each GPU by NVRTC, and held against what is shipped; bytes are counted by
kernel_bytes.py. Nothing here was measured on a GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kernel_bytes import (
    Size,
    bilinear,
    class_map,
    class_map_sectors,
    confidence,
    overlay,
    resize,
    usual,
)

from segformer_deploy.cli.common import say
from segformer_deploy.cuda.compile import Compiled
from segformer_deploy.cuda.compiled import read_index
from segformer_deploy.cuda.compiled.__main__ import check, make
from segformer_deploy.errors import SegdeployError
from segformer_deploy.files import write_text

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "kernel-report.json"
PROOF = Path(sys.prefix) / "proof"
BASIS = "compiled and counted: nothing here was measured on a GPU"
MOST_BYTES = 6_000_000
PROMISED = "512x512, 150 classes, FP16"
# Name -> classes, logits, class map (the frame's size), bytes of a logit.
OUTPUTS: dict[str, tuple[int, Size, Size, int]] = {
    PROMISED: (150, (128, 128), (512, 512), 2),
    "512x512, 150 classes, FP32": (150, (128, 128), (512, 512), 4),
    "1024x2048, 19 classes, FP16": (19, (256, 512), (1024, 2048), 2),
    "1080x1920, 150 classes, FP16": (150, (128, 128), (1080, 1920), 2),
}
NETWORK: Size = (512, 512)
INPUTS: dict[str, tuple[Size, bool]] = {
    "1080x1920 BGR": ((1080, 1920), False),
    "1080x1920 NV12": ((1080, 1920), True),
}
SPILLS = ("spill_stores", "spill_loads", "stack")


def compiled(images: Sequence[Compiled]) -> dict[str, Any]:
    """What each kernel takes, by architecture."""
    return {
        image.architecture: {
            "compiler": image.compiler,
            "bytes": len(image.data),
            "kernels": {name: use.to_dict() for name, use in sorted(image.kernels.items())},
        }
        for image in images
        if image.kind == "cubin"
    }


def moved() -> dict[str, Any]:
    """Bytes of one frame, by size and kernel."""
    result: dict[str, Any] = {}
    for name, (classes, logits, size, item) in OUTPUTS.items():
        result[name] = {
            "class_map": class_map(classes, logits, size, item).to_dict(),
            "class_map_logit_sectors": class_map_sectors(classes, logits, item),
            "usual": usual(classes, logits, size, item).to_dict(),
            "confidence": confidence(classes, logits, size, item).to_dict(),
            "overlay": overlay(classes, size).to_dict(),
        }
    for name, (frame, nv12) in INPUTS.items():
        result[f"{name} to 512x512"] = {
            "pillow_bilinear": resize(frame, NETWORK, "bilinear", nv12).to_dict(),
            "pillow_bicubic": resize(frame, NETWORK, "bicubic", nv12).to_dict(),
            "opencv_bilinear": bilinear(frame, NETWORK, nv12).to_dict(),
        }
    return result


def broken(report: dict[str, Any]) -> list[str]:
    """What the report promises and does not keep."""
    found = [
        f"{architecture} {name}: {use[what]} bytes of {what}"
        for architecture, image in report["kernels"].items()
        for name, use in image["kernels"].items()
        for what in SPILLS
        if use[what]
    ]
    most = report["bytes"][PROMISED]["class_map"]["moved"]
    if most > MOST_BYTES:
        found.append(f"class map: {most} bytes at {PROMISED}, more than {MOST_BYTES}")
    return found


def tables(report: dict[str, Any]) -> list[str]:
    """The report as people read it, in Markdown."""
    return [*kernel_table(report["kernels"]), "", *byte_table(report["bytes"])]


def kernel_table(images: dict[str, Any]) -> list[str]:
    names = sorted(next(iter(images.values()))["kernels"])
    lines = [
        "| | NVRTC | " + " | ".join(names) + " | shared | spilled |",
        "|---|---|" + "---|" * len(names) + "---|---|",
    ]
    for architecture, image in images.items():
        uses = image["kernels"]
        registers = " | ".join(str(uses[name]["registers"]) for name in names)
        spilled = sum(use[what] for use in uses.values() for what in SPILLS)
        shared = max(use["shared"] for use in uses.values())
        lines.append(
            f"| {architecture} | {image['compiler']} | {registers} | {shared} | {spilled} |"
        )
    return lines


def byte_table(cases: dict[str, Any]) -> list[str]:
    lines = [
        "| MB of one frame | read once | read per block | written | per block + written |",
        "|---|---|---|---|---|",
    ]
    for case, launches in cases.items():
        for name, one in launches.items():
            if not isinstance(one, dict):
                continue
            keys = ("read_once", "read_per_block", "written", "moved")
            figures = " | ".join(f"{one[key] / 1e6:.2f}" for key in keys)
            said = "resize, then argmax" if name == "usual" else name.replace("_", " ")
            lines.append(f"| {case}: {said} | {figures} |")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--nvrtc", type=Path, default=PROOF, help=f"default: {PROOF}")
    parser.add_argument("--output", type=Path, default=RESULT, help=f"default: {RESULT}")
    options = parser.parse_args(arguments)
    try:
        images = make([options.nvrtc])
        check(images)
    except SegdeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    report = {
        "basis": BASIS,
        "sources_sha256": read_index()["sources_sha256"],
        "kernels": compiled(images),
        "bytes": moved(),
    }
    say("\n".join([f"{BASIS}\n\nregisters of a thread:\n", *tables(report)]))
    if wrong := broken(report):
        print("error: " + "; ".join(wrong), file=sys.stderr)
        return 1
    write_text(options.output, json.dumps(report, indent=1) + "\n")
    say(f"\n{options.output} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
