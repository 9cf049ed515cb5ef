"""A segmenter's frames on a GPU: checked, queued, collected."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from segformer_deploy.cuda.device import find_gpus
from segformer_deploy.engine.session import DeviceEngine, Engine
from segformer_deploy.errors import BackendError, FrameError, RunError
from segformer_deploy.runtime.closing import close_all
from segformer_deploy.runtime.device_frame import foreign_frame, is_foreign
from segformer_deploy.runtime.device_kernels import Format, KernelCode
from segformer_deploy.runtime.lane import Layout
from segformer_deploy.runtime.pipeline import Array, Options, Pipeline, Ticket
from segformer_deploy.spec import FrameSize, ModelSpec, ResizeRule

DEVICES = ("auto", "cpu", "cuda")


def on_device(engine: Engine) -> bool:
    """Whether the engine's network runs on a GPU that we can hand memory to."""
    return hasattr(engine, "open_driver")


class DeviceSegment:
    """Frames to class maps by a GPU alone; only the class map comes back.

    Raises BackendError where the GPU, or our kernels on it, cannot be used, or the graph gives
    no logits.
    """

    def __init__(
        self,
        engine: DeviceEngine,
        spec: ModelSpec,
        rule: ResizeRule,
        options: Options | None = None,
    ) -> None:
        if spec.output != "logits":
            raise BackendError(
                "a graph that gives class maps, on --device cuda",
                "a graph with logits: the class map is made at the frame's size, on the GPU",
                "segdeploy export without --class-map; or --device cpu",
            )
        self._engine, self._rule = engine, rule
        self._options = options or Options()
        self._pipelines: dict[bool, Pipeline] = {}
        self._closed = False
        self.last_stages_ms: dict[str, float] = {}
        self.how = self._pipeline(confidence=False).how

    def _pipeline(self, *, confidence: bool) -> Pipeline:
        if self._closed:
            raise RunError("a closed segmenter was used", "an open one")
        found = self._pipelines.get(confidence)
        if found is None:
            found = self._pipelines[confidence] = self._open(confidence=confidence)
        return found

    def _open(self, *, confidence: bool) -> Pipeline:
        old = self._options
        options = Options(old.depth, old.graphs, old.timed, confidence)
        driver = self._engine.open_driver()
        try:
            code = KernelCode(driver, find_gpus().cuda_version)
        except BaseException:
            driver.close()
            raise
        return Pipeline(self._engine, self._rule, driver, code, options)

    @property
    def depth(self) -> int:
        return self._options.depth

    def submit(self, frames: Sequence[Any], format: Format, *, confidence: bool = False) -> Ticket:
        """Queue frames of one batch; `collect` gives their class maps."""
        pipeline = self._pipeline(confidence=confidence)
        if any(map(is_foreign, frames)):
            return self._submit_foreign(pipeline, frames, format)
        layout = Layout(tuple(frame_size(frame, format) for frame in frames), format)
        return pipeline.submit(frames, layout)

    def _submit_foreign(self, pipeline: Pipeline, frames: Sequence[Any], format: Format) -> Ticket:
        if len(frames) > 1:
            raise FrameError("a list of device frames", "one at a time")
        foreign = foreign_frame(frames[0], format, pipeline.compute_stream)
        return pipeline.submit_foreign(foreign, Layout((foreign.frame.size,), format))

    def collect(
        self, ticket: Ticket, *, confidence: bool = False
    ) -> list[tuple[Array, Array | None]]:
        """What `submit` was asked for, in turn."""
        return self._pipeline(confidence=confidence).collect(ticket)

    def __call__(
        self, frames: Sequence[Any], format: Format, *, confidence: bool = False
    ) -> list[tuple[Array, Array | None]]:
        """Submit and collect; `last_stages_ms` tells how long each took."""
        started = time.perf_counter()
        ticket = self.submit(frames, format, confidence=confidence)
        queued = time.perf_counter()
        answers = self.collect(ticket, confidence=confidence)
        done = time.perf_counter()
        self.last_stages_ms = self._pipeline(confidence=confidence).last_stages_ms or {
            "queue": 1e3 * (queued - started),
            "wait": 1e3 * (done - queued),
        }
        return answers

    def close(self) -> None:
        """Give back everything; safe to call twice."""
        self._closed = True
        pipelines = list(self._pipelines.values())
        self._pipelines.clear()
        close_all(pipelines)


def frame_size(frame: Any, format: Format) -> FrameSize:
    """The picture's size in a frame, whatever its format; FrameError where it is none."""
    expected = "uint8 [height, width, 3]"
    if format == "nv12":
        expected = "uint8 [height * 3 / 2, width], both even"
        fits = isinstance(frame, np.ndarray) and frame.ndim == 2 and frame.dtype == np.uint8
        if not fits or frame.shape[0] % 3 or frame.shape[1] % 2:
            raise FrameError(f"an NV12 frame of shape {getattr(frame, 'shape', None)}", expected)
        return FrameSize(frame.shape[0] // 3 * 2, frame.shape[1])
    fits = isinstance(frame, np.ndarray) and frame.ndim == 3 and frame.shape[2] == 3
    if not fits or frame.dtype != np.uint8 or 0 in frame.shape:
        about = f"{getattr(frame, 'dtype', type(frame).__name__)} {getattr(frame, 'shape', '')}"
        raise FrameError(f"a frame of {about}", expected)
    return FrameSize(frame.shape[0], frame.shape[1])
