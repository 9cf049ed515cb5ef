"""The decode head and the class map, row by row.

Resizing and projecting commute, so for each token of the finest grid the four stages' channels
are gathered (three of them by bilinear interpolation) and go through one folded projection: no
map of `head_channels` ever exists. Two rows of logits are held; as soon as both rows around a
pixel row of the frame are there, its classes are decided and leave.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from floor.arena import Arena
from floor.grids import Numbers
from floor.layers import chunks, product, store
from floor.prepare import Ready
from floor.space import Space
from segformer_deploy.runtime.interpolation import Axis, axis
from segformer_deploy.spec import FrameSize

Stored = npt.NDArray[Any]
Sink = Callable[[int, int, Stored], object]
"""Takes pixels of the class map: row, first column, classes [P] (valid during the call)."""
_ALL_BELOW = np.float32(127)


class Head:
    """`maps`: stages 2 to 4 [h, w, C]; stage 1's rows come one by one."""

    def __init__(
        self, arena: Arena, space: Space, ready: Ready, numbers: Numbers, maps: list[Stored]
    ) -> None:
        self.arena, self.space, self.ready, self.numbers = arena, space, ready, numbers
        self.maps = maps
        first = space.stages[0]
        self.rows = [axis(len(one), first.height) for one in maps]
        self.columns = [axis(one.shape[1], first.width_px) for one in maps]

    def run(self, fine_rows: Iterator[Stored], out: FrameSize, sink: Sink) -> None:
        """Decide every pixel of a class map of size `out`."""
        first = self.space.stages[0]
        down, across = axis(first.height, out.height), axis(first.width_px, out.width)
        with self.arena.frame():
            logits = self.arena.take(self.space.logit_rows())
            done = 0
            for y, row in enumerate(fine_rows):
                with self.arena.frame():
                    self._logits(row, y, logits[y % 2])
                with self.arena.frame():
                    done = self._decide(logits, y, done, down, across, sink)

    def _logits(self, fine: Stored, y: int, target: Stored) -> None:
        buffers = self.arena.take_all(self.space.decoder())
        operand, corner, values, fused, result, stat = buffers
        for begin, end in chunks(len(fine), len(operand)):
            n = end - begin
            self._gather(fine, y, begin, end, operand[:n], corner, values)
            product(operand[:n], self.ready.fuse, fused[:n])
            np.maximum(fused[:n], self.ready.relu, out=fused[:n])
            self.numbers.settle("fused", fused[:n])
            product(fused[:n], self.ready.classifier, result[:n])
            if self.ready.quantised:
                # The same number less for all classes of a pixel changes no argmax, not even
                # between pixels, since bilinear weights are the same for all classes.
                np.maximum.reduce(result[:n], axis=1, keepdims=True, out=stat[:n])
                np.subtract(result[:n], stat[:n], out=result[:n])
                np.add(result[:n], _ALL_BELOW, out=result[:n])
            self.numbers.settle("logits", result[:n])
            store(result[:n].T, target[:, begin:end])

    def _gather(
        self,
        fine: Stored,
        y: int,
        begin: int,
        end: int,
        operand: Stored,
        corner: Stored,
        values: Stored,
    ) -> None:
        """operand [T, sum of C]: the four stages at tokens begin to end of row y."""
        n, at = end - begin, fine.shape[1]
        np.copyto(operand[:, :at], fine[begin:end])
        coarse = zip(self.maps, self.rows, self.columns, strict=True)
        for number, (one, rows, columns) in enumerate(coarse, 2):
            width = one.shape[2]
            some = corner[: n * width].reshape(n, width)
            real = values[: n * width].reshape(n, width)
            own = operand[:, at : at + width]
            own.fill(0)
            for row, w_row in ((rows.lower[y], rows.w_lower[y]), (rows.upper[y], rows.w_upper[y])):
                for index, weight in (
                    (columns.lower[begin:end], columns.w_lower[begin:end]),
                    (columns.upper[begin:end], columns.w_upper[begin:end]),
                ):
                    np.take(one[row], index, axis=0, out=some, mode="clip")
                    np.copyto(real, some)
                    np.multiply(real, w_row, out=real)
                    np.multiply(real, weight[:, None], out=real)
                    np.add(own, real, out=own)
            self.numbers.settle(f"stage{number}.resized", own)
            at += width

    def _decide(
        self, logits: Stored, y: int, done: int, down: Axis, across: Axis, sink: Sink
    ) -> int:
        """Rows of the class map between the two rows held; gives the next row to do."""
        buffers = self.arena.take_all(self.space.class_map())
        while done < down.outputs and down.upper[done] <= y:
            lower, upper = logits[down.lower[done] % 2], logits[down.upper[done] % 2]
            weights = down.w_lower[done], down.w_upper[done]
            for begin, end in chunks(across.outputs, len(buffers[2])):
                _winners(lower, upper, weights, across, begin, end, buffers)
                sink(done, begin, buffers[5][: end - begin])
            done += 1
        return done


def _winners(
    lower: Stored,
    upper: Stored,
    weights: tuple[np.float32, np.float32],
    across: Axis,
    begin: int,
    end: int,
    buffers: list[Stored],
) -> None:
    """buffers[5] = classes of pixels begin to end, in the arithmetic of `runtime.interpolation`."""
    mixed, other = buffers[:2]
    left, value, best, winner, wins = (buffer[: end - begin] for buffer in buffers[2:])
    w_left, w_right = across.w_lower[begin:end], across.w_upper[begin:end]
    for index in range(len(lower)):
        np.copyto(mixed, lower[index])
        np.multiply(mixed, weights[0], out=mixed)
        np.copyto(other, upper[index])
        np.multiply(other, weights[1], out=other)
        np.add(mixed, other, out=mixed)
        target = value if index else best
        np.take(mixed, across.lower[begin:end], out=left, mode="clip")
        np.multiply(left, w_left, out=left)
        np.take(mixed, across.upper[begin:end], out=target, mode="clip")
        np.multiply(target, w_right, out=target)
        np.add(left, target, out=target)
        if not index:
            winner.fill(0)
            continue
        np.greater(value, best, out=wins)
        np.copyto(best, value, where=wins)
        np.copyto(winner, winner.dtype.type(index), where=wins)
