"""One network in a process of its own: frame in, class map out, by ONNX Runtime or our engine.

Every network takes the same way: BGR frame -> `prepare` -> network -> `class_map_from_logits`, or
the class map that its graph makes. Only NumPy, OpenCV and the engine are loaded here. Without a
network it answers how much memory such a process holds before it loads one.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from peers_runners.child import answer_requests

from segformer_deploy.runtime.class_map import class_map_from_logits
from segformer_deploy.runtime.preprocess import prepare
from segformer_deploy.spec import FrameSize, ResizeRule


@dataclass(frozen=True)
class Job:
    """What a runner is given.

    Attributes:
        onnx: None loads no network.
        frame: ``.npy`` file, uint8 `[H, W, 3]`, RGB; the network sees it at its own size.
        engine: ``onnxruntime`` or ``native``, ours.
    """

    onnx: str | None
    frame: str
    threads: int
    engine: str = "onnxruntime"

    @classmethod
    def read(cls, path: Path) -> Job:
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")


class Runner:
    """See `peers_runners.child.Runner`."""

    def __init__(self, job: Job) -> None:
        import onnxruntime

        self._frame = np.ascontiguousarray(np.load(job.frame)[:, :, ::-1])
        self._size = FrameSize(*self._frame.shape[:2])
        self._rule = ResizeRule.stretch_to(self._size)
        self._threads = job.threads
        self.versions = {"onnxruntime": onnxruntime.__version__, "numpy": np.__version__}
        self.note = "no network"
        if job.onnx is not None:
            self._load(job.onnx, job.engine)

    def _load(self, onnx: str, engine: str) -> None:
        if engine == "native":
            from segformer_deploy.engine.backend import EngineOptions
            from segformer_deploy.engine.package import load_engine

            loaded = load_engine(Path(onnx), EngineOptions(backend=engine, threads=self._threads))
            session = loaded.engine.session()
            self.note = loaded.engine.name
            self._infer = lambda image: session.run({"image": image})["logits"]
            self._output = "logits"
            return
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 3
        ort = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
        self._output = ort.get_outputs()[0].name
        self.note = f"onnxruntime {onnxruntime.__version__}, defaults"
        self._infer = lambda image: ort.run(None, {"image": image})[0]

    def segment(self) -> tuple[Any, dict[str, float]]:
        begin = perf_counter()
        image = prepare(self._frame, self._rule, pixel_format="bgr", threads=self._threads)[None]
        prepared = perf_counter()
        answer = self._infer(image)[0]
        inferred = perf_counter()
        if self._output == "logits":
            answer = class_map_from_logits(answer, self._size, threads=self._threads)
        end = perf_counter()
        return answer, {
            "preprocess": 1e3 * (prepared - begin),
            "infer": 1e3 * (inferred - prepared),
            "class_map": 1e3 * (end - inferred),
        }

    def logits(self) -> None:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description="one network; started by benchmarks/rivals.py")
    parser.add_argument("--job", type=Path, required=True)
    job = Job.read(parser.parse_args().job)
    # Libraries print when they please: what they print goes to stderr.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    answer_requests(Runner(job), sys.stdin, answers)


if __name__ == "__main__":
    main()
