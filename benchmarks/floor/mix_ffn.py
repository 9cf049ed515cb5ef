"""Mix-FFN in tiles: three rows in, one row out, a few columns and hidden channels at a time.

The hidden map is four times as wide as the tokens. It never exists: a tile computes its hidden
pixels, one of halo on each side included, from the normalised rows and forgets them. The smaller
the tile, the more often a hidden pixel is made: (columns + 2) / columns times across, 3 down.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from floor.arena import Arena
from floor.grids import Numbers
from floor.layers import chunks, depthwise, gelu, layer_norm, product, scale_and_shift, store
from floor.prepare import Linear, ReadyBlock
from floor.space import Space, Stage

Stored = npt.NDArray[Any]
Near = Sequence["Stored | None"]
"""Row above, own row, row below, [w, C] each; None outside of the map."""


class _Buffers(NamedTuple):
    """As `Space.ffn` lists them."""

    normal: Stored
    state: Stored
    work: Stored
    stat: Stored
    wide: Stored
    hidden: Stored
    four: Stored
    result: Stored
    part: Stored


class MixFfn:
    """One stage's Mix-FFN; its buffers live during one call of `row`."""

    def __init__(self, arena: Arena, space: Space, stage: Stage, numbers: Numbers) -> None:
        self.arena, self.space, self.stage, self.numbers = arena, space, stage, numbers

    def row(self, near: Near, block: ReadyBlock, out: Stored) -> Stored:
        """`out` [w, C] = own row + Mix-FFN; `out` may lie where a row above or own once lay."""
        own = near[1]
        assert own is not None
        contract, carry = block.contract.linear, block.contract.carry
        with self.arena.frame():
            b = _Buffers(*self.arena.take_all(self.space.ffn(self.stage)))
            for begin, end in chunks(len(own), len(b.result)):
                result, part = b.result[: end - begin], b.part[: end - begin]
                self._tile(near, begin, end, block, b)
                scale_and_shift(result, contract.factor, contract.term)
                np.copyto(part, own[begin:end])
                np.multiply(part, carry, out=part)
                np.add(result, part, out=result)
                self.numbers.settle(f"{block.name}.out", result)
                store(result, out[begin:end])
        return out

    def _tile(self, near: Near, begin: int, end: int, block: ReadyBlock, b: _Buffers) -> None:
        """`result` = the contracting projection's sums for columns begin to end."""
        n = end - begin
        # Columns of the tile that lie in the map, counted from the tile's left halo.
        inside = max(0, 1 - begin), min(n + 2, self.stage.width_px + 1 - begin)
        self._normalise(near, begin - 1, inside, block, b)
        b.result[:n] = 0
        for low, high in chunks(self.stage.hidden, b.hidden.shape[2]):
            tile = b.hidden[:, : n + 2, : high - low]
            self._expand(near, inside, block, (low, high), tile, b)
            x, *three = (plane[:n, : high - low] for plane in b.four)
            depthwise(tile, block.depthwise.weight[:, :, low:high], x, three[0])
            scale_and_shift(x, block.depthwise.factor[low:high], block.depthwise.term[low:high])
            gelu(x, *three)
            scale_and_shift(x, block.gelu_factor[low:high], block.gelu_term[low:high])
            self.numbers.settle(f"{block.name}.gelu", x, low)
            np.matmul(x, block.contract.linear.weight[low:high], out=b.part[:n])
            np.add(b.result[:n], b.part[:n], out=b.result[:n])

    def _normalise(
        self, near: Near, left: int, inside: tuple[int, int], block: ReadyBlock, b: _Buffers
    ) -> None:
        """The tile's rows after LayerNorm, at 8 bits; its first column is the map's `left`."""
        for number, row in enumerate(near):
            if row is None:
                continue
            for low, high in chunks(inside[1] - inside[0], len(b.state)):
                n, at = high - low, inside[0] + low
                np.copyto(b.state[:n], row[left + at : left + at + n])
                layer_norm(b.state[:n], b.work[:n], b.stat[:n], block.norm2)
                self.numbers.settle(f"{block.name}.norm2", b.work[:n])
                store(b.work[:n], b.normal[number, at : at + n])

    def _expand(
        self,
        near: Near,
        inside: tuple[int, int],
        block: ReadyBlock,
        channels: tuple[int, int],
        tile: Stored,
        b: _Buffers,
    ) -> None:
        """Hidden channels of the tile; what lies outside of the map is the zero padding."""
        low, high = channels
        some = slice(low, high)
        expand = block.expand
        linear = Linear(expand.weight[:, some], expand.factor[some], expand.term[some])
        np.copyto(tile, block.hidden_zero[some], casting="unsafe")
        for number, row in enumerate(near):
            if row is None:
                continue
            for first, end in chunks(inside[1] - inside[0], len(b.state)):
                n, at = end - first, inside[0] + first
                np.copyto(b.state[:n], b.normal[number, at : at + n])
                wide = b.wide[:n, : high - low]
                product(b.state[:n], linear, wide)
                self.numbers.settle(f"{block.name}.hidden", wide, low)
                store(wide, tile[number, at : at + n])
