"""What TensorRT-RTX builds on a machine without a GPU: seconds, and device memory by its own count.

::

    python benchmarks/rtx_builds.py                      # B0 to B5, three precisions, two ranges
    python benchmarks/rtx_builds.py --variants b0        # about two minutes

Every figure comes from `segdeploy` commands, as a user types them, and from the manifests that they
wrote. Weights are random: no figure here depends on them.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2

from segformer_deploy import __version__
from segformer_deploy.cli.common import progress, say
from segformer_deploy.files import write_text
from segformer_deploy.runtime.golden import golden_frame
from segformer_deploy.spec import FrameSize

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "rtx-builds.json"
VARIANTS = ("b0", "b1", "b2", "b3", "b4", "b5")
PRECISIONS = ("fp32", "fp16", "int8")
SHAPES = {"static": "512x512", "dynamic": "256x256,512x512,1024x2048"}
BACKEND = ("--backend", "tensorrt-rtx")
CLASSES = 150
FRAMES = 4


def segdeploy(work: Path, *arguments: object) -> tuple[dict[str, Any], float]:
    """(the command's JSON, its seconds); SystemExit with what it said where it fails."""
    words = [sys.executable, "-m", "segformer_deploy", *map(str, arguments), "--json"]
    started = time.perf_counter()
    done = subprocess.run(words, cwd=work, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}\n{done.stderr}")
    return json.loads(done.stdout), seconds


def frames_in(work: Path) -> Path:
    """A few pictures: enough for a range, and random weights have no accuracy to lose."""
    folder = work / "frames"
    folder.mkdir()
    for seed in range(FRAMES):
        frame = golden_frame(FrameSize(512, 512), seed)
        cv2.imwrite(str(folder / f"{seed}.png"), frame)
    return folder


def graphs(work: Path, variant: str) -> dict[str, Path]:
    """The ONNX file of each precision, as `--onnx-only` writes it."""
    fp32 = work / f"{variant}.onnx"
    segdeploy(
        *(work, "export", "--variant", variant, "--classes", CLASSES, "--random-weights"),
        *("--output", fp32),
    )
    frames = work / "frames"
    asked = ("--onnx-only", "--force", "--gate-images", frames, "--calibration", frames, *BACKEND)
    paths = {"fp32": fp32}
    for precision in PRECISIONS[1:]:
        paths[precision] = work / f"{variant}-{precision}.onnx"
        logits = ("--logits", "fp16")
        segdeploy(
            *(work, "build-engine", fp32, f"--{precision}", *asked, *logits),
            *("--output", paths[precision]),
        )
    return paths


def built(work: Path, graph: Path, profile: str, *more: object) -> dict[str, Any]:
    """What the manifest of one build says."""
    folder = work / "engine"
    arguments = ("build-engine", graph, *BACKEND, "--profile", profile, *more, "--output", folder)
    report, seconds = segdeploy(work, *arguments)
    plan = report["plan"]
    keys = ("activation_memory_bytes", "weights_memory_bytes", "peak_device_bytes", "seconds")
    return {
        "command_seconds": round(seconds, 2),
        "plan_bytes": (folder / "model.plan").stat().st_size,
        "verified": report["verified"],
        "library": f"{report['backend']} {report['backend_version']}",
        **{key: plan[key] for key in keys},
    }


def measured(work: Path, variants: Sequence[str]) -> dict[str, Any]:
    """Per variant, precision and range of sizes: one build; for B0 also what streams cost."""
    result: dict[str, Any] = {}
    frames_in(work)
    with progress("building", len(variants) * len(PRECISIONS) * len(SHAPES)) as advance:
        done = 0
        for variant in variants:
            paths = graphs(work, variant)
            for precision, path in paths.items():
                for shape, profile in SHAPES.items():
                    one = built(work, path, profile)
                    result[f"{variant} {precision} {shape}"] = one
                    say(line(f"{variant} {precision} {shape}", one))
                    done += 1
                    advance(done)
            if variant == "b0":
                name = "b0 fp16 static, 3 auxiliary streams"
                result[name] = built(work, paths["fp16"], "512x512", "--aux-streams", 3)
                say(line(name, result[name]))
    return result


def line(name: str, one: dict[str, Any]) -> str:
    """One build, as people read it."""
    return (
        f"{name:36} {one['command_seconds']:6.1f} s (plan {one['seconds']:5.1f} s)  peak "
        f"{one['peak_device_bytes'] / 1e6:8.2f} MB, activations "
        f"{one['activation_memory_bytes'] / 1e6:8.2f}, weights "
        f"{one['weights_memory_bytes'] / 1e6:7.2f}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--output", type=Path, default=None, help=f"default, for all: {RESULT}")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        builds = measured(Path(folder), options.variants)
    report = {
        "classes": CLASSES,
        "logits": "fp16 where the graph is not fp32",
        "ranges": SHAPES,
        "segformer-deploy": __version__,
        "machine": f"{platform.machine()}, no GPU",
        "device_memory": "stated by the builder; no device has run these plans",
        "builds": builds,
    }
    whole = tuple(options.variants) == VARIANTS
    output = options.output or (RESULT if whole else None)
    if output is not None:
        write_text(output, json.dumps(report, indent=1) + "\n")
        say(f"{output} written")


if __name__ == "__main__":
    main()
