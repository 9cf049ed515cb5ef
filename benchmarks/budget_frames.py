"""What one frame allocates on its way through `Segmenter`: counted, not timed.

NumPy's and Python's memory. What ONNX Runtime and the compiled kernels take for themselves is
not seen.
"""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import CodeType, FrameType

import numpy as np
import onnx
from budget_graphs import Counts

import segformer_deploy
from segformer_deploy.errors import BackendError
from segformer_deploy.graph.append_class_map import append_class_map
from segformer_deploy.model.export import onnx_from_model
from segformer_deploy.model.segformer import Segformer
from segformer_deploy.runtime import native
from segformer_deploy.runtime.segmenter import Segmenter
from segformer_deploy.spec import FrameSize
from tests.model.tiny import TINY, spec_for

CONFIG = replace(TINY, head_channels=24)
"""The compiled network walks maps a multiple of eight channels wide, as those of B0 to B5."""
FRAME, NETWORK = FrameSize(512, 768), FrameSize(128, 192)
LARGE = 16 * 1024
"""Bytes; less than this is bookkeeping. The frame's smallest array, its logits, has 42 KiB."""
GRAIN, PEAK_GRAIN = 4 * 1024, 64 * 1024
"""Python's own objects come on top, up to some 30 KiB that differ between its versions. An
allocation is rounded to the first of these, a peak down to the second."""
FRAMES = 3
"""So many warm up, and so many are counted."""


def count_frames(folder: Path) -> dict[str, Counts]:
    """What one frame allocates, per way a tiny network runs; its files go to `folder`."""
    if not native.available():
        raise BackendError(
            f"class maps and resizes run on {native.describe()}",
            "the compiled kernels: without them every frame allocates",
            f"unset {native.VARIABLE}, or install the package where a C compiler is",
        )
    logits, class_map = folder / "logits.onnx", folder / "class_map.onnx"
    graph = onnx_from_model(Segformer(CONFIG), spec_for(CONFIG))
    onnx.save(graph, logits)
    onnx.save(append_class_map(graph), class_map)
    return {
        "frame-native": count_frame(logits, "native", NETWORK),
        "frame-onnxruntime": count_frame(logits, "onnxruntime", NETWORK),
        # Such a graph gives class maps at its own size only.
        "frame-onnxruntime-class-map": count_frame(class_map, "onnxruntime", FRAME),
    }


def count_frame(path: Path, backend: str, network: FrameSize) -> Counts:
    """Allocations of one frame after warm-up; the most of a few frames."""
    rng = np.random.default_rng(0)
    shape = (FRAME.height, FRAME.width, 3)
    frames = [rng.integers(0, 256, shape, np.uint8) for _ in range(FRAMES)]
    with Segmenter(path, size=network, threads=1, backend=backend) as segment:
        for frame in frames:
            segment(frame)
        found = [allocations(partial(segment, frame)) for frame in frames]
    return max(found, key=lambda one: tuple(one.values.values()))


def allocations(work: Callable[[], object]) -> Counts:
    """What `work` allocates in pieces of at least `LARGE` bytes, freed again or not.

    Looked at line by line: the highest mark that a line of Python reaches above its start.
    Arrays that one line holds together count with all their bytes, as one allocation; of arrays
    that it makes one after the other, the largest counts.
    """
    marks = _Marks()
    with _traced(marks):
        kept = work()
    del kept
    values = {
        "allocations": len(marks.found),
        "bytes": sum(size for _, size in marks.found),
        "peak": marks.highest // PEAK_GRAIN * PEAK_GRAIN,
    }
    note = ", ".join(f"{size} by {place}" for place, size in marks.found)
    return Counts(values, dict.fromkeys(values, note) if note else {})


class _Marks:
    """Follows the traced memory from line to line."""

    def __init__(self) -> None:
        self.found: list[tuple[str, int]] = []
        self.highest = 0
        self._level = 0
        self._code: CodeType | None = None

    def step(self, frame: FrameType, event: str, _: object) -> Callable[..., object]:
        """A trace function: what came since the last event belongs to the code of that."""
        self.look()
        after = frame.f_back if event == "return" else frame
        self._code = after.f_code if after else None
        return self.step

    def look(self) -> None:
        peak = tracemalloc.get_traced_memory()[1]
        if peak - self._level >= LARGE:
            size = round((peak - self._level) / GRAIN) * GRAIN
            self.found.append((_place(self._code), size))
        self.highest = max(self.highest, peak)
        tracemalloc.reset_peak()
        self._level = tracemalloc.get_traced_memory()[0]


@contextmanager
def _traced(marks: _Marks) -> Iterator[None]:
    """Follow this thread's lines; memory that was there before does not count."""
    if tracemalloc.is_tracing():
        raise BackendError(
            "tracemalloc is already tracing",
            "memory that is counted from nothing",
            "unset PYTHONTRACEMALLOC",
        )
    before, collecting = sys.gettrace(), gc.isenabled()
    gc.collect()
    gc.disable()  # a collection in the middle would hide what was allocated before it
    tracemalloc.start()
    sys.settrace(marks.step)
    try:
        yield
    finally:
        sys.settrace(before)
        marks.look()
        tracemalloc.stop()
        if collecting:
            gc.enable()


def _place(code: CodeType | None) -> str:
    if code is None:
        return "elsewhere"
    path = Path(code.co_filename)
    package = Path(segformer_deploy.__file__).parent
    name = path.relative_to(package).as_posix() if path.is_relative_to(package) else path.name
    return f"{name}:{code.co_name}"
