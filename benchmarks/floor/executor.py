"""A frame through the whole network inside one arena."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from floor.arena import Arena
from floor.grids import Bytes, Numbers, Reals
from floor.head import Head, Sink
from floor.prepare import Ready
from floor.rows import RowAt, Rows, StageRows, Window
from floor.schedule import arena_bytes
from floor.space import LEAN, Plan, Space
from segformer_deploy.errors import FrameError, RunError
from segformer_deploy.spec import FrameSize

Stored = npt.NDArray[Any]
Pixels = npt.NDArray[np.uint8]
MOST_KEYS = (2**24 - 1) // (255 * 128)
"""More, and a sum of 8-bit weights times 8-bit values might not be exact in float32."""


class Executor:
    """One network at one size, cut by one plan, in an arena of its own.

    Args:
        ready: the constants; they decide whether activations are 8 bits or floats.
        size: the network's input.
        arena: where everything lives; by default exactly what the schedule asks for.
        numbers: to watch float activations; by default what `ready` is.

    Raises:
        RunError: the arena is too small, or too many keys for exact sums.
    """

    def __init__(
        self,
        ready: Ready,
        size: FrameSize,
        plan: Plan = LEAN,
        *,
        arena: Arena | None = None,
        numbers: Numbers | None = None,
    ) -> None:
        self.ready, self.size = ready, size
        self.numbers = numbers or (Bytes() if ready.quantised else Reals())
        self.space = Space(ready.network.config, size, plan, self.numbers.act)
        self.arena = arena or Arena(arena_bytes(self.space))
        self.stages = [
            StageRows(self.arena, self.space, stage, constants, self.numbers)
            for stage, constants in zip(self.space.stages, ready.stages, strict=True)
        ]
        most = max(stage.keys for stage in self.space.stages)
        if min(stage.keys for stage in self.space.stages) < 1:
            raise FrameError(
                f"a frame of {size}: a stage's reduced sequence is empty", "32x32 at least"
            )
        if ready.quantised and most > MOST_KEYS:
            raise RunError(f"{most} keys at {size}", f"at most {MOST_KEYS}", "a smaller size")

    def __call__(self, frame: Pixels, out: FrameSize, sink: Sink) -> None:
        """Segment `frame`, uint8 [H, W, 3] RGB at the network's size.

        Args:
            out: size of the class map.
            sink: takes its pixels as they are decided.
        """
        if frame.shape != (self.size.height, self.size.width, 3) or frame.dtype != np.uint8:
            raise FrameError(f"a frame of {frame.dtype} {list(frame.shape)}", f"uint8 {self.size}")
        with self.arena.frame():
            if self.space.plan.keep_c1:
                first, *coarse = self._maps(frame)
                fine = iter(first)
            else:
                key_values = self._stage1_key_values(frame)
                coarse = self._coarse_maps(frame, key_values)
                fine = self._stage1(frame, key_values, whole=True)
            Head(self.arena, self.space, self.ready, self.numbers, coarse).run(fine, out, sink)

    def class_map(self, frame: Pixels, out: FrameSize) -> npt.NDArray[Any]:
        """The class map as one array, which is outside of the arena."""
        classes = self.ready.network.config.classes
        whole = np.empty((out.height, out.width), np.uint8 if classes <= 256 else np.int32)

        def sink(y: int, x: int, pixels: Stored) -> None:
            whole[y, x : x + len(pixels)] = pixels

        self(frame, out, sink)
        return whole

    def _maps(self, frame: Pixels) -> list[Stored]:
        """The four stage outputs."""
        maps: list[Stored] = []
        for index in range(4):
            own = self.arena.take(self.space.map(self.stages[index].stage))
            with self.arena.frame():
                source: RowAt
                if index == 0:
                    ring = self.arena.take(self.space.frame_window())
                    source, size = Window(self._pixels(frame), ring), frame.shape[:2]
                else:
                    source, size = maps[-1].__getitem__, maps[-1].shape[:2]
                self._embed(index, source, size, own)
            self._blocks(index, own)
            maps.append(own)
        return maps

    def _embed(
        self, index: int, source: Callable[[int], Stored], size: tuple[int, ...], own: Stored
    ) -> None:
        stride = self.ready.network.config.strides[index]
        grid = (size[0], size[1])
        _exhaust(self.stages[index].embedded(source, grid, stride, own.__getitem__))

    def _blocks(self, index: int, own: Stored) -> None:
        """A stage's blocks and last norm, in place."""
        rows, space = self.stages[index], self.space
        for block in rows.ready.blocks:
            with self.arena.frame():
                key_value = self.arena.take(space.key_value(rows.stage))
                rows.fill_key_value(iter(own), block, key_value)
                _exhaust(rows.attended(iter(own), block, key_value))
            with self.arena.frame():
                ring = self.arena.take(space.ring(rows.stage))
                _exhaust(rows.fed_forward(iter(own), block, ring, own.__getitem__))
        _exhaust(rows.normed(iter(own), rows.ready.norm, f"{rows.ready.name}.out"))

    def _pixels(self, frame: Pixels) -> Rows:
        """The frame's rows as stored numbers, one at a time (they are copied into a window)."""
        for row in frame:
            if self.ready.quantised:
                # value - 128 as int8 is the byte with its highest bit turned over
                yield (row ^ np.uint8(0x80)).view(np.int8)
            else:
                yield row - self.ready.mean

    def _stage1(
        self, frame: Pixels, key_values: list[Stored], *, whole: bool = False
    ) -> Iterator[Stored]:
        """Stage 1's rows after as many blocks as have keys and values; `whole`: after its norm.

        Takes its rings at once: they are alive until the caller's arena frame ends.
        """
        rows, space, stage = self.stages[0], self.space, self.stages[0].stage
        window = Window(self._pixels(frame), self.arena.take(space.frame_window()))
        out = _always(self.arena.take(space.row(stage)))
        size, stride = (frame.shape[0], frame.shape[1]), self.ready.network.config.strides[0]
        source = rows.embedded(window, size, stride, out)
        for key_value, block in zip(key_values, rows.ready.blocks, strict=False):
            ring, out = (
                self.arena.take(space.ring(stage)),
                _always(self.arena.take(space.row(stage))),
            )
            source = rows.fed_forward(rows.attended(source, block, key_value), block, ring, out)
        return rows.normed(source, rows.ready.norm, "stage1.out") if whole else source

    def _stage1_key_values(self, frame: Pixels) -> list[Stored]:
        key_values: list[Stored] = []
        rows = self.stages[0]
        for block in rows.ready.blocks:
            own = self.arena.take(self.space.key_value(rows.stage))
            with self.arena.frame():
                rows.fill_key_value(self._stage1(frame, key_values), block, own)
            key_values.append(own)
        return key_values

    def _coarse_maps(self, frame: Pixels, key_values: list[Stored]) -> list[Stored]:
        """Stages 2 to 4, stage 1 passing by."""
        maps: list[Stored] = []
        first = self.stages[0].stage
        for index in (1, 2, 3):
            own = self.arena.take(self.space.map(self.stages[index].stage))
            with self.arena.frame():
                source: RowAt
                if maps:
                    source, size = maps[-1].__getitem__, maps[-1].shape[:2]
                else:
                    passing = self._stage1(frame, key_values, whole=True)
                    ring = self.arena.take(self.space.stage1_window())
                    source, size = Window(passing, ring), (first.height, first.width_px)
                self._embed(index, source, size, own)
            self._blocks(index, own)
            maps.append(own)
        return maps


def _always(row: Stored) -> Callable[[int], Stored]:
    return lambda y: row


def _exhaust(rows: Rows) -> None:
    for _ in rows:
        pass
