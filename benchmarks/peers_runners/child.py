"""The child's side of the pipe: load once, then one frame per request, idle in between.

Every runner calls `serve` from its ``main``. Requests and answers are one JSON object a line:

    child:  {"ready": true, "versions": {...}, "note": "..."}
    parent: {"op": "go"}                      child: {"ms": 93.1, "stages": {"preprocess": ...}}
    parent: {"op": "memory"}                  child: {"peak_mb": 412.0}
    parent: {"op": "save", "folder": "..."}   child: {"class_map": "...", "logits": "..." or null}
    parent: {"op": "stop"}                    (the child ends)

Answers leave through a private copy of stdout; stdout itself is turned to stderr, because
libraries print when they please. While it waits the child blocks in a read and costs nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import numpy as np

STAGES = ("preprocess", "infer", "class_map")


@dataclass(frozen=True)
class Job:
    """What every runner is given; the parent writes it as ``job.json`` in the work folder.

    Attributes:
        weights: folder in transformers' format, with its ``preprocessor_config.json``.
        frame: ``.npy`` file, uint8 `[H, W, 3]`, RGB.
        onnx: the transformers export with free height and width, output ``logits``.
        onnx_class_map: the same with resize and argmax to the frame's size in the graph.
        engine: engine folder of segformer_deploy.
        threads: of the library that runs the network, and of its post-processing.
        network: height and width at which the network sees the frame.
    """

    weights: Path
    frame: Path
    onnx: Path
    onnx_class_map: Path
    engine: Path
    threads: int
    network: tuple[int, int]

    @classmethod
    def read(cls, path: Path) -> Job:
        data = json.loads(path.read_text(encoding="utf-8"))
        paths = {
            key: Path(data[key]) for key in ("weights", "frame", "onnx", "onnx_class_map", "engine")
        }
        height, width = data["network"]
        return cls(**paths, threads=int(data["threads"]), network=(height, width))

    def write(self, path: Path) -> None:
        data = {
            key: str(value) if isinstance(value, Path) else value
            for key, value in vars(self).items()
        }
        path.write_text(json.dumps(data, indent=2), encoding="utf-8")


class Runner(Protocol):
    """A loaded peer. `frame` is RGB; a runner that wants BGR swaps it once, while loading."""

    versions: dict[str, str]
    note: str

    def segment(self) -> tuple[Any, dict[str, float]]:
        """Frame to class map, once: the map (any array) and milliseconds per stage."""

    def logits(self) -> Any | None:
        """float32 `[classes, h, w]` of the same frame, untimed; None where it has none."""


def peak_memory_mb() -> float | None:
    """The largest resident size so far, in MB of 1e6 bytes; None where the system hides it."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    return None


def _save(folder: Path, class_map: Any, logits: Any | None) -> dict[str, str | None]:
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "class_map.npy", np.asarray(class_map))
    if logits is None:
        return {"class_map": str(folder / "class_map.npy"), "logits": None}
    np.save(folder / "logits.npy", np.asarray(logits, dtype=np.float32))
    return {"class_map": str(folder / "class_map.npy"), "logits": str(folder / "logits.npy")}


def answer_requests(runner: Runner, requests: Any, answers: Any) -> None:
    """Answer until ``stop`` or the end of the pipe."""

    def answer(data: dict[str, Any]) -> None:
        answers.write(json.dumps(data) + "\n")
        answers.flush()

    answer({"ready": True, "versions": runner.versions, "note": runner.note})
    class_map: Any = None
    for line in requests:
        request = json.loads(line)
        if request["op"] == "go":
            begin = perf_counter()
            class_map, stages = runner.segment()
            ms = (perf_counter() - begin) * 1e3
            # To the microsecond: what follows is the clock's own noise.
            stages = {name: round(stages[name], 3) for name in STAGES}
            answer({"ms": round(ms, 3), "stages": stages})
        elif request["op"] == "memory":
            answer({"peak_mb": peak_memory_mb()})
        elif request["op"] == "save":
            answer(dict(_save(Path(request["folder"]), class_map, runner.logits())))
        elif request["op"] == "stop":
            return


def serve(build: Any) -> None:
    """Read ``--job FILE``, build the runner (`build(job) -> Runner`), answer requests."""
    parser = argparse.ArgumentParser(description="one peer; started by benchmarks/peers.py")
    parser.add_argument("--job", type=Path, required=True, help="job.json of the work folder")
    arguments = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    answer_requests(build(Job.read(arguments.job)), sys.stdin, answers)
