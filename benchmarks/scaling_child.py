"""One point in a process of its own, started by `scaling.py`; speaks as `peers_runners` do.

Asked for time it loads once and then answers each request with one turn. Asked for memory it
runs the point a few times and answers with what that took; nothing else ever ran in it.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import perf_counter, process_time, sleep
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from segformer_deploy.bench.memory import current_rss_mib, peak_rss_mib, reset_peak
from segformer_deploy.engine.backend import AUTO, EngineOptions
from segformer_deploy.engine.package import LoadedEngine, load_engine
from segformer_deploy.errors import SegdeployError
from segformer_deploy.runtime.segmenter import Segmenter
from segformer_deploy.spec import FrameSize

Purpose = Literal["time", "network-memory", "frame-memory", "product"]
Frames = npt.NDArray[np.uint8]
MEMORY_RUNS = 3
"""The first takes what it needs; a second and third show what it fails to give back."""

LOOK_S = 0.01


@dataclass(frozen=True)
class Job:
    """What a child is to do.

    Attributes:
        onnx: the exported network.
        frame: ``.npy`` file, uint8 `[H, W, 3]`, BGR, at the network's size.
        backend: as `Segmenter` takes it.
        side: of the matrices, for ``product``.
    """

    purpose: Purpose
    threads: int
    onnx: str = ""
    frame: str = ""
    batch: int = 1
    backend: str = AUTO
    side: int = 0

    def command(self) -> list[str]:
        return [sys.executable, "-m", "scaling_child", json.dumps(asdict(self))]

    def frames(self) -> list[Frames]:
        frame = np.load(self.frame)
        return [frame.copy() for _ in range(self.batch)]

    def images(self) -> Frames:
        """The frames as the network takes them: RGB `[B, H, W, 3]`."""
        return np.ascontiguousarray(np.stack(self.frames())[..., ::-1])

    def engine(self) -> LoadedEngine:
        return load_engine(Path(self.onnx), EngineOptions(self.backend, threads=self.threads))


class PointTimer:
    """The whole frame with its stages, after one frame that is not timed.

    Between two turns other processes had the caches, and threads slept: a stream of frames
    knows neither, and small points would suffer most.
    """

    def __init__(self, job: Job) -> None:
        self._frames = job.frames()
        self._segment = segmenter(job, self._frames)
        self.hello = {"engine": self._segment.engine_name, "note": self._segment.note}

    def turn(self) -> dict[str, Any]:
        frame_ms = _second_call(lambda: self._segment(self._frames))
        stages = self._segment.last_stages_ms
        return {"ms": frame_ms, "stages": {name: round(ms, 3) for name, ms in stages.items()}}


class ProductTimer:
    """A float32 matrix product by NumPy's own library: what this machine can do at its best."""

    def __init__(self, job: Job) -> None:
        rng = np.random.default_rng(0)
        shape = (job.side, job.side)
        self._a, self._b = (rng.standard_normal(shape, np.float32) for _ in range(2))
        self._out = np.empty(shape, np.float32)
        self.hello = {"engine": f"numpy {np.__version__}", "note": None}

    def turn(self) -> dict[str, Any]:
        busy = process_time()
        begin = perf_counter()
        ms = _second_call(lambda: np.matmul(self._a, self._b, out=self._out))
        # How many threads were asked for is no proof of how many came.
        cores = (process_time() - busy) / (perf_counter() - begin)
        _wait_until_asleep()
        return {"ms": ms, "stages": {"cores_busy": round(cores, 3)}}


def _wait_until_asleep() -> None:
    """Return once no thread of this process works any more, or after half a second.

    OpenBLAS's threads look for work for some 20 ms after a product, as long as a turn's pause:
    the next one in turn would not have its core.
    """
    end = perf_counter() + 0.5
    busy = LOOK_S
    while busy > 0.02 * LOOK_S and perf_counter() < end:
        before = process_time()
        sleep(LOOK_S)
        busy = process_time() - before


def segmenter(job: Job, frames: list[Frames]) -> Segmenter:
    """One that takes `frames` at the size that they have."""
    size = FrameSize(*frames[0].shape[:2])
    return Segmenter(job.onnx, size=size, threads=job.threads, backend=job.backend)


def _second_call(work: Callable[[], object]) -> float:
    """Milliseconds of a call that follows one of its kind, to the microsecond."""
    work()
    begin = perf_counter()
    work()
    return round((perf_counter() - begin) * 1e3, 3)


def measure_memory(job: Job) -> dict[str, Any]:
    """Resident memory in MiB before the engine is loaded, before it runs, and at its peak.

    Loading leaves freed memory in the heap, which a small network would run in and so seem to
    need none: it is given back before each reading.
    """
    run: Callable[[], object]
    # The engine stays referenced through `run`.
    if job.purpose == "network-memory":
        images = job.images()
        start = _settled_mib()
        run = partial(job.engine().engine.session().run, {"image": images})
    else:
        frames = job.frames()
        start = _settled_mib()
        run = partial(segmenter(job, frames), frames)
    ready, fresh = _settled_mib(), reset_peak()
    for _ in range(MEMORY_RUNS):
        run()
    peak = peak_rss_mib()
    if peak <= ready:
        # Its logarithm would be missing from the fit, minutes later.
        raise SegdeployError(
            f"running took no memory that shows: {ready} MiB before, {peak} MiB at the peak",
            "a peak above what was resident before",
            "measure larger frames",
        )
    return {"start_mib": start, "ready_mib": ready, "peak_mib": peak, "peak_was_reset": fresh}


def _settled_mib() -> float:
    """Resident memory once what is free has gone back to the system."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, musl has not
    if trim is not None:
        trim(0)
    resident = current_rss_mib()
    if resident is None:
        raise SegdeployError(
            "this system does not tell a process's resident memory",
            "/proc/self/status with VmRSS",
            "measure on Linux",
        )
    return resident


def main() -> None:
    job = Job(**json.loads(sys.argv[1]))
    # Answers leave through a copy of stdout: libraries print there when they please.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(data: dict[str, Any]) -> None:
        answers.write(json.dumps(data) + "\n")
        answers.flush()

    if job.purpose.endswith("memory"):
        answer(measure_memory(job))
        return
    timer = ProductTimer(job) if job.purpose == "product" else PointTimer(job)
    answer(timer.hello)
    for _ in sys.stdin:  # each line asks for one turn
        answer(timer.turn())


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except SegdeployError as error:
        # The parent repeats the last line.
        sys.exit(" | ".join(str(error).splitlines()))
