"""A segmenter's frames by overlapping windows: one window at a time, merged strip by strip.

The frame is resized as the model's rule says, as without tiles; the network then sees windows of
that picture. So memory is one window's, whatever the frame's size, besides the picture itself and
a strip of logits.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from segformer_deploy.engine.session import Array, Session
from segformer_deploy.engine.size_range import SizeRange
from segformer_deploy.engine.tiling import Tiling
from segformer_deploy.errors import RunError
from segformer_deploy.runtime.batch import Frame, size_of
from segformer_deploy.runtime.class_map import class_map_from_strips
from segformer_deploy.runtime.host_segment import Answer, answer_from_logits
from segformer_deploy.runtime.preprocess import PixelFormat, prepare
from segformer_deploy.runtime.tiles import Grid, Span, strips_from_windows, whole_from_strips
from segformer_deploy.spec import FrameSize, ModelSpec, ResizeRule


class TiledSegment:
    """Frames to class maps by windows, with any engine on arrays in host memory.

    Args:
        allowed: the sizes of windows that the engine takes; None where it takes any.

    Raises RunError where the graph gives class maps, which cannot be merged.
    """

    def __init__(
        self,
        session: Session,
        spec: ModelSpec,
        threads: int,
        tiling: Tiling,
        allowed: SizeRange | None = None,
    ) -> None:
        if spec.output != "logits":
            session.close()
            raise RunError(
                "tiles of a graph that gives class maps only",
                "a graph with logits, which are merged before the argmax",
                "segdeploy export without --class-map",
            )
        self._session, self._threads = session, threads
        self._tiling, self._allowed = tiling, allowed
        self._picture = np.empty((0, 0, 3), np.uint8)
        self._window = np.empty((0, 0, 0, 3), np.uint8)
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
        """Class map, or (class map, confidence), of each frame, one after the other.

        Args:
            network: the size to which all of them are resized by `rule`, and then cut.

        Raises FrameError where the engine does not take a window's size.
        """
        grid = Grid.over(network, self._tiling)
        if self._allowed is not None:
            for size in grid.sizes:
                self._allowed.check(size, 1)
        self.last_stages_ms = dict.fromkeys(("preprocess", "infer", "class_map"), 0.0)
        return [self._answer(grid, frame, rule, format, confidence) for frame in frames]

    def _answer(
        self, grid: Grid, frame: Frame, rule: ResizeRule, format: PixelFormat, confidence: bool
    ) -> Answer:
        started = time.perf_counter()
        shape = (grid.picture.height, grid.picture.width, 3)
        if self._picture.shape != shape:
            self._picture = np.empty(shape, np.uint8)
        prepare(frame, rule, pixel_format=format, out=self._picture)
        prepared = time.perf_counter()
        before = self.last_stages_ms["infer"]
        answer = self._merged(grid, size_of(frame), confidence)
        done = time.perf_counter()
        stages = self.last_stages_ms
        stages["preprocess"] += 1e3 * (prepared - started)
        stages["class_map"] += 1e3 * (done - prepared) - (stages["infer"] - before)
        return answer

    def _merged(self, grid: Grid, size: FrameSize, confidence: bool) -> Answer:
        strips = strips_from_windows(grid, self._logits)
        if confidence:
            # Both are read off the same logits, so here they are held at once.
            return answer_from_logits(whole_from_strips(strips), size, self._threads, confidence)
        return class_map_from_strips(
            strips, -(-grid.picture.height // 4), size, threads=self._threads
        )

    def _logits(self, row: Span, column: Span) -> Array:
        """The network's answer for one window, valid until the next."""
        started = time.perf_counter()
        part = self._picture[row.pixels, column.pixels]
        if self._window.shape[1:] != part.shape:
            self._window = np.empty((1, *part.shape), np.uint8)
        self._window[0] = part
        logits: Array = self._session.run({"image": self._window})["logits"][0]
        self.last_stages_ms["infer"] += 1e3 * (time.perf_counter() - started)
        return logits

    def close(self) -> None:
        """Give back the session; safe to call twice."""
        self._session.close()
