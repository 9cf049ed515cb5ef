"""A segmenter's frames on the CPU's way: prepared here, run by any engine, argmax here."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np

from segformer_deploy.engine.session import Array, Session, StripSession
from segformer_deploy.errors import FrameError, RunError
from segformer_deploy.runtime.batch import Confidence, Frame, size_of
from segformer_deploy.runtime.class_map import (
    class_map_from_logits,
    class_map_from_strips,
    confidence_from_logits,
)
from segformer_deploy.runtime.preprocess import PixelFormat, prepare
from segformer_deploy.spec import FrameSize, ModelSpec, ResizeRule

Answer = Array | tuple[Array, Confidence]


class HostSegment:
    """Frames to class maps by a session and our kernels on the CPU.

    The engine itself may be on a GPU: it then copies the prepared frames and the logits.
    """

    def __init__(self, session: Session, spec: ModelSpec, threads: int) -> None:
        self._session, self._spec, self._threads = session, spec, threads
        self._input = np.empty((0, 0, 0, 3), np.uint8)
        self.last_stages_ms: dict[str, float] = {}

    def __call__(
        self,
        frames: Sequence[Frame],
        network: FrameSize,
        rule: ResizeRule,
        format: PixelFormat,
        *,
        confidence: bool,
    ) -> list[Answer]:
        """Class map, or (class map, confidence), of each frame of a batch.

        Args:
            network: the size at which all of them enter the network by `rule`.
        """
        started = time.perf_counter()
        image = self._prepared(frames, network, rule, format)
        prepared = time.perf_counter()
        if isinstance(self._session, StripSession) and not confidence:
            self.last_stages_ms = {"preprocess": 1e3 * (prepared - started)}
            return [
                self._in_strips(self._session, image[i : i + 1], f) for i, f in enumerate(frames)
            ]
        output = self._session.run({"image": image})
        inferred = time.perf_counter()
        answers = [self._answer(output, index, one, confidence) for index, one in enumerate(frames)]
        done = time.perf_counter()
        self.last_stages_ms = {
            "preprocess": 1e3 * (prepared - started),
            "infer": 1e3 * (inferred - prepared),
            "class_map": 1e3 * (done - inferred),
        }
        return answers

    def _in_strips(self, session: StripSession, image: Frame, frame: Frame) -> Array:
        """One frame's class map from logits that are never held as a whole; adds its times."""
        spent = 0.0

        def timed() -> Iterator[tuple[int, Array]]:
            nonlocal spent
            strips = session.strips({"image": image})
            while True:
                asked = time.perf_counter()
                strip = next(strips, None)
                spent += time.perf_counter() - asked
                if strip is None:
                    return
                yield strip

        begun = time.perf_counter()
        height = -(-image.shape[1] // 4)
        answer = class_map_from_strips(timed(), height, size_of(frame), threads=self._threads)
        done = time.perf_counter()
        stages = self.last_stages_ms
        for name, seconds in (("infer", spent), ("class_map", done - begun - spent)):
            stages[name] = stages.get(name, 0.0) + 1e3 * seconds
        return answer

    def _prepared(
        self, frames: Sequence[Frame], network: FrameSize, rule: ResizeRule, format: PixelFormat
    ) -> Frame:
        """The frames at network size in our input buffer, RGB `[B, h, w, 3]`."""
        shape = (len(frames), network.height, network.width, 3)
        if self._input.shape != shape:
            self._input = np.empty(shape, np.uint8)
        for index, frame in enumerate(frames):
            prepare(frame, rule, pixel_format=format, out=self._input[index])
        return self._input

    def _answer(
        self, output: dict[str, Array], index: int, frame: Frame, confidence: bool
    ) -> Answer:
        size = size_of(frame)
        if self._spec.output == "class_map":
            return _ready_class_map(output["class_map"][index], size, confidence)
        return answer_from_logits(output["logits"][index], size, self._threads, confidence)

    def close(self) -> None:
        """Give back the session; safe to call twice."""
        self._session.close()


def answer_from_logits(logits: Array, size: FrameSize, threads: int, confidence: bool) -> Answer:
    """Class map, or (class map, confidence), at `size`, of one frame's logits `[C, h, w]`."""
    class_map = class_map_from_logits(logits, size, threads=threads)
    if not confidence:
        return class_map
    return class_map, confidence_from_logits(logits, class_map, threads=threads)


def _ready_class_map(class_map: Array, size: FrameSize, confidence: bool) -> Array:
    if confidence:
        raise RunError(
            "confidence was asked of a graph that gives class maps only",
            "a graph with logits",
            "segdeploy export without --class-map",
        )
    if class_map.shape != (size.height, size.width):
        # Enlarging a class map would give stair-steps: argmax comes last, at frame size.
        raise FrameError(
            f"the graph made its class map at {class_map.shape[0]}x{class_map.shape[1]}, "
            f"the frame has {size}",
            "frames of the network's size, since this graph holds the argmax",
            "segdeploy export without --class-map",
        )
    own: Array = class_map.copy()
    return own
