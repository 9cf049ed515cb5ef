"""A stage, row by row: embedding, keys and values, blocks.

Rows come in order and are views of the arena that live until the next one is asked for. A block
is two passes, attention and Mix-FFN; the second lags one row behind its source, because it looks
one row ahead. Both can write into the very map they read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from floor.arena import Arena
from floor.grids import Numbers
from floor.layers import chunks, layer_norm, product, scale_and_shift, softmax, store
from floor.mix_ffn import MixFfn
from floor.prepare import ReadyBlock, ReadyNorm, ReadyStage
from floor.space import Space, Stage

Stored = npt.NDArray[Any]
Rows = Iterator[Stored]
RowAt = Callable[[int], Stored]


class Window:
    """The last rows of a source, by number; `ring` [n, w, C] holds n of them."""

    def __init__(self, source: Rows, ring: Stored) -> None:
        self._source, self._ring, self._read = source, ring, 0

    def __call__(self, y: int) -> Stored:
        count = len(self._ring)
        while self._read <= y:
            np.copyto(self._ring[self._read % count], next(self._source))
            self._read += 1
        assert y >= self._read - count
        view: Stored = self._ring[y % count]
        return view


class StageRows:
    """One stage's kernels over rows; every buffer is taken from `arena` as `space` lists it."""

    def __init__(
        self, arena: Arena, space: Space, stage: Stage, ready: ReadyStage, numbers: Numbers
    ) -> None:
        self.arena, self.space, self.stage = arena, space, stage
        self.ready, self.numbers = ready, numbers
        self.feed_forward = MixFfn(arena, space, stage, numbers)

    def embedded(self, source: RowAt, size: tuple[int, int], stride: int, out: RowAt) -> Rows:
        """The stage's input rows, each written to ``out(y)``.

        Args:
            source: rows [w_in, C_in] of the stage before, or of the frame.
            size: rows and columns of the source.
        """
        for y in range(self.stage.height):
            row = out(y)
            # Read ahead first: a source that computes its rows needs the workspace for itself.
            source(min(stride * y + self.stage.patch // 2, size[0] - 1))
            with self.arena.frame():
                self._embed_row(source, size, stride, y, row)
            yield row

    def _embed_row(
        self, source: RowAt, size: tuple[int, int], stride: int, y: int, row: Stored
    ) -> None:
        operand, total, part, stat = self.arena.take_all(self.space.embedding(self.stage))
        patch, ready = self.stage.patch, self.ready
        for begin, end in chunks(self.stage.width_px, len(operand)):
            n = end - begin
            total[:n] = 0
            for ky in range(patch):
                iy = stride * y - patch // 2 + ky
                line = source(iy) if 0 <= iy < size[0] else None
                _gather(operand[:n], line, begin * stride - patch // 2, stride, ready.padding)
                joined = operand[:n].reshape(n, -1)
                np.matmul(joined, ready.embed.weight[ky], out=part[:n])
                np.add(total[:n], part[:n], out=total[:n])
            scale_and_shift(total[:n], ready.embed.factor, ready.embed.term)
            layer_norm(total[:n], part[:n], stat[:n], ready.embed_norm)
            self.numbers.settle(f"{ready.name}.in", part[:n])
            store(part[:n], row[begin:end])

    def fill_key_value(self, rows: Rows, block: ReadyBlock, target: Stored) -> None:
        """Keys and values [N', 2C] of a block from the rows of its input."""
        reduction = self.stage.reduction
        height, width = self.stage.reduced
        with self.arena.frame():
            total = self.arena.take(self.space.reduction_sum(self.stage))
            for y, row in enumerate(rows):
                if y >= height * reduction:
                    continue  # what does not fill a kernel is left out, as a convolution does
                place = target[y // reduction * width : (y // reduction + 1) * width]
                with self.arena.frame():
                    self._key_value_row(row, block, y % reduction, total, place)

    def _key_value_row(
        self, row: Stored, block: ReadyBlock, ky: int, total: Stored, place: Stored
    ) -> None:
        buffers = self.arena.take_all(self.space.reduction(self.stage))
        state, work, part, result, stat = buffers
        r, numbers = self.stage.reduction, self.numbers
        for begin, end in chunks(self.stage.reduced[1], len(result)):
            n = end - begin
            source, normal, stats = state[: n * r], work[: n * r], stat[: n * r]
            np.copyto(source, row[begin * r : end * r])
            layer_norm(source, normal, stats, block.norm1)
            numbers.settle(f"{block.name}.norm1", normal)
            if block.reduce is not None and block.reduce_norm is not None:
                sums = total[begin:end]
                joined = normal.reshape(n, -1)
                np.matmul(joined, block.reduce.weight[ky], out=part[:n] if ky else sums)
                if ky:
                    np.add(sums, part[:n], out=sums)
                if ky < r - 1:
                    continue
                scale_and_shift(sums, block.reduce.factor, block.reduce.term)
                normal = work[:n]
                layer_norm(sums, normal, stat[:n], block.reduce_norm)
                numbers.settle(f"{block.name}.reduced", normal)
            product(normal, block.key_value, result[:n])
            numbers.settle(f"{block.name}.key_value", result[:n])
            store(result[:n], place[begin:end])

    def attended(self, rows: Rows, block: ReadyBlock, key_value: Stored) -> Rows:
        """The block's rows after attention, in place: no query looks at another."""
        for row in rows:
            self._attend(row, block, key_value)
            yield row

    def fed_forward(self, rows: Rows, block: ReadyBlock, ring: Stored, out: RowAt) -> Rows:
        """The block's rows after Mix-FFN, each written to ``out(y)``, one behind the source.

        ring: [2, w, C], for the row and the one above it; the one below is the source's newest.
        """
        last = self.stage.height - 1
        for y, row in enumerate(rows):
            if y:
                above = ring[y % 2] if y > 1 else None
                yield self.feed_forward.row([above, ring[(y - 1) % 2], row], block, out(y - 1))
            np.copyto(ring[y % 2], row)
        above = ring[(last - 1) % 2] if last else None
        yield self.feed_forward.row([above, ring[last % 2], None], block, out(last))

    def normed(self, rows: Rows, norm: ReadyNorm, name: str) -> Rows:
        """Rows after the stage's last LayerNorm, in place."""
        for row in rows:
            with self.arena.frame():
                state, work, stat = self.arena.take_all(self.space.stage_norm(self.stage))
                for begin, end in chunks(len(row), len(state)):
                    n = end - begin
                    np.copyto(state[:n], row[begin:end])
                    layer_norm(state[:n], work[:n], stat[:n], norm)
                    self.numbers.settle(name, work[:n])
                    store(work[:n], row[begin:end])
            yield row

    def _attend(self, row: Stored, block: ReadyBlock, key_value: Stored) -> None:
        with self.arena.frame():
            buffers = self.arena.take_all(self.space.attention(self.stage))
            state, work, scores, keys, part, stat, sums = buffers
            for begin, end in chunks(len(row), len(state)):
                n = end - begin
                s, w, statistics = state[:n], work[:n], stat[:n]
                np.copyto(s, row[begin:end])
                layer_norm(s, w, statistics, block.norm1)
                self.numbers.settle(f"{block.name}.norm1", w)
                product(w, block.query, s)
                self.numbers.settle(f"{block.name}.query", s)
                self._mix(
                    s, block, key_value, w, (scores[:n], keys, part[:n], statistics, sums[:n])
                )
                self.numbers.settle(f"{block.name}.mix", w)
                product(w, block.output.linear, s)
                np.copyto(w, row[begin:end])
                np.multiply(w, block.output.carry, out=w)
                np.add(s, w, out=s)
                self.numbers.settle(f"{block.name}.mid", s)
                store(s, row[begin:end])

    def _mix(
        self,
        query: Stored,
        block: ReadyBlock,
        key_value: Stored,
        out: Stored,
        space: tuple[Stored, ...],
    ) -> None:
        """out [T, C] = softmax(query keys) values, head by head."""
        scores, keys, part, stat, sums = space
        width, d = self.stage.channels, self.stage.head_width
        for head in range(self.stage.heads):
            own = slice(head * d, (head + 1) * d)
            for begin, end in chunks(self.stage.keys, len(keys)):
                some = keys[: end - begin]
                np.copyto(some, key_value[begin:end, own])
                np.matmul(query[:, own], some.T, out=scores[:, begin:end])
            softmax(scores, block.score[head], stat, sums, self.numbers.act == "int8")
            out[:, own] = 0
            for begin, end in chunks(self.stage.keys, len(keys)):
                some = keys[: end - begin]
                np.copyto(some, key_value[begin:end, width + own.start : width + own.stop])
                np.matmul(scores[:, begin:end], some, out=part)
                np.add(out[:, own], part, out=out[:, own])
            np.divide(out[:, own], sums, out=out[:, own])
        scale_and_shift(out, block.mix_factor, block.mix_term)


def _gather(operand: Stored, line: Stored | None, left: int, stride: int, padding: Stored) -> None:
    """operand [T, k, C] = the k columns under the kernel of each of T outputs, or padding."""
    count, patch, _ = operand.shape
    if line is None:
        np.copyto(operand, padding)
        return
    width = len(line)
    for kx in range(patch):
        start = left + kx
        first = min(count, max(0, -(start // stride)))
        end = max(first, min(count, -(-(width - start) // stride)))
        operand[:first, kx] = padding
        operand[end:, kx] = padding
        if end > first:
            begin = start + first * stride
            np.copyto(
                operand[first:end, kx],
                line[begin : begin + (end - first - 1) * stride + 1 : stride],
            )
