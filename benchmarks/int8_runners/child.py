"""The quantising process's side of the pipe: a job in, one JSON object a line out.

    child: {"frame": 12}                                    after each frame that it took
    child: {"versions": {...}, "settings": {...}, "notes": [...]}       when the file is there

Answers leave through a private copy of stdout; stdout itself is turned to stderr, because
libraries print when they please. Imported in the peers' own environments: nothing of
segformer_deploy.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from int8_runners.reader import FrameReader


@dataclass(frozen=True)
class Job:
    """What a runner is given.

    Attributes:
        model: FP32 ONNX file, a copy that the tool may put its own files beside.
        frames: folder of calibration frames, `*.npy`, uint8 `[1, h, w, 3]` RGB.
        output: where the INT8 file goes.
        preset: which of the tool's ways of working; each runner knows its own.
    """

    model: Path
    frames: Path
    output: Path
    preset: str

    def arguments(self) -> list[str]:
        """The command line that `serve` reads."""
        paths = ("model", "frames", "output")
        named = [f"--{name}={getattr(self, name)}" for name in paths]
        return [*named, f"--preset={self.preset}"]


def versions_of(*packages: str) -> dict[str, str]:
    """Those of the packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def serve(quantise: Callable[[Job, FrameReader], dict[str, Any]]) -> None:
    """Read the job, call `quantise`, send what it returns."""
    parser = argparse.ArgumentParser(description="one tool; started by benchmarks/int8_peers.py")
    for name in ("model", "frames", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--preset", required=True)
    job = Job(**vars(parser.parse_args()))
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(data: dict[str, Any]) -> None:
        answers.write(json.dumps(data) + "\n")
        answers.flush()

    reader = FrameReader(job.frames, lambda done: answer({"frame": done}))
    answer(quantise(job, reader))
