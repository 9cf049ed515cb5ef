"""Weights and grids -> the constants that kernels read: what would lie in a device's flash.

Scales of the input's channels go into a weight's rows, the weight is then rounded to 8 bits per
output channel (-127 to 127), and what is left of all scales, zero points and biases becomes one
factor and one term per output channel::

    output in its grid's unit = (sum of stored inputs * integer weights) * factor + term

The sum is an integer below 2^24, checked here with the weights at hand, so float32 holds it
exactly, in any order of addition: BLAS computes what an int32 accumulator would.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from floor.grids import Grid, Grids, identity
from floor.network import Affine, Block, Network, Norm
from segformer_deploy.errors import RunError

Floats = npt.NDArray[np.float32]
EXACT = 2**24
LOGIT_STEP = 16 / 255
"""Logits are held below the pixel's largest, down to 16 less: a class further down never wins."""


@dataclass(frozen=True)
class Linear:
    """weight [K, O] or, for a convolution, [k, k*C, O]; factor, term [O]."""

    weight: Floats
    factor: Floats
    term: Floats


@dataclass(frozen=True)
class ReadyNorm:
    """LayerNorm of ``stored * scale + offset``; its answer in the output grid's unit."""

    scale: Floats
    offset: Floats
    gain: Floats
    bias: Floats
    eps: float


@dataclass(frozen=True)
class Residual:
    """A linear layer with the block's own input, times `carry` [C], added."""

    linear: Linear
    carry: Floats


@dataclass(frozen=True)
class ReadyBlock:
    """`score`: [heads], integer scores -> real; `mix_factor`, `mix_term`: values -> mix grid.

    `hidden_zero`: what a padded hidden pixel holds; `gelu_factor`, `gelu_term`: real -> grid.
    """

    name: str
    norm1: ReadyNorm
    query: Linear
    reduce: Linear | None
    reduce_norm: ReadyNorm | None
    key_value: Linear
    score: Floats
    mix_factor: Floats
    mix_term: Floats
    output: Residual
    norm2: ReadyNorm
    expand: Linear
    hidden_zero: Floats
    depthwise: Linear
    gelu_factor: Floats
    gelu_term: Floats
    contract: Residual


@dataclass(frozen=True)
class ReadyStage:
    name: str
    padding: Floats
    embed: Linear
    embed_norm: ReadyNorm
    blocks: tuple[ReadyBlock, ...]
    norm: ReadyNorm


@dataclass(frozen=True)
class Ready:
    """All constants; `relu`: [head channels], real 0 in the fused map's unit."""

    network: Network
    mean: Floats
    stages: tuple[ReadyStage, ...]
    fuse: Linear
    relu: Floats
    classifier: Linear
    quantised: bool


class _Maker:
    """With grids: integers; without (None): the float network."""

    def __init__(self, grids: Grids | None) -> None:
        self.grids = grids

    def grid(self, name: str, channels: int) -> Grid:
        return identity(channels) if self.grids is None else self.grids[name]

    def linear(self, affine: Affine, into: Grid, out: Grid) -> Linear:
        weight = np.atleast_2d(affine.weight).astype(np.float64)
        repeat = weight.shape[-2] // len(into.scale)
        scale, zero = (np.tile(v.astype(np.float64), repeat) for v in (into.scale, into.zero))
        weight = weight * scale[:, None]
        axes = tuple(range(weight.ndim - 1))
        step = np.ones(weight.shape[-1])
        if self.grids is not None:
            step = np.maximum(np.abs(weight).max(axis=axes), 1e-12) / 127
            weight = np.rint(weight / step)
            _check_exact(np.abs(weight).sum(axis=axes))
        shift = (weight * zero[:, None]).sum(axis=axes)
        factor = step / out.scale
        term = (affine.bias - step * shift) / out.scale + out.zero
        return Linear(*(np.ascontiguousarray(v, np.float32) for v in (weight, factor, term)))

    def depthwise(self, affine: Affine, into: Grid) -> Linear:
        """Per channel, so the input's scales stay outside; the answer is real."""
        weight = affine.weight.astype(np.float64)
        step = np.ones(weight.shape[-1])
        if self.grids is not None:
            step = np.maximum(np.abs(weight).max(axis=(0, 1)), 1e-12) / 127
            weight = np.rint(weight / step)
        factor = step * into.scale
        term = affine.bias - factor * into.zero * weight.sum(axis=(0, 1))
        return Linear(*(np.ascontiguousarray(v, np.float32) for v in (weight, factor, term)))

    def residual(self, affine: Affine, into: Grid, carried: Grid, out: Grid) -> Residual:
        linear = self.linear(affine, into, out)
        term = linear.term + carried.offset / out.scale
        return Residual(
            Linear(linear.weight, linear.factor, term.astype(np.float32)),
            carried.scale / out.scale,
        )


def _check_exact(row_sums: npt.NDArray[Any]) -> None:
    if 128 * row_sums.max() >= EXACT:
        raise RunError(
            f"a weight's integers may sum to {128 * row_sums.max():.0f}",
            f"less than {EXACT}, which float32 holds exactly",
            "split that product's inner dimension",
        )


def _norm(norm: Norm, into: Grid, out: Grid) -> ReadyNorm:
    bias = norm.bias / out.scale + out.zero
    return ReadyNorm(into.scale, into.offset, norm.gain / out.scale, bias, norm.eps)


def ready_from_network(network: Network, grids: Grids | None = None) -> Ready:
    """Constants of the 8-bit network, or without grids of the float one."""
    maker, config = _Maker(grids), network.config
    image = identity(3)
    if grids is not None:
        # Stored: pixel value - 128. The mean is no integer, so padding is off by its fraction.
        image = Grid(np.ones(3, np.float32), network.mean - 128)
    stages, before = [], image
    for index, weights in enumerate(network.stages):
        name, width = f"stage{index + 1}", config.widths[index]
        grid = maker.grid(f"{name}.in", width)
        blocks, embed_out = [], grid
        for number, block in enumerate(weights.blocks):
            inner = f"{name}.block{number}"
            after = maker.grid(f"{inner}.out", width)
            blocks.append(_block(maker, inner, block, config.heads[index], grid, after))
            grid = after
        out = maker.grid(f"{name}.out", width)
        stages.append(
            ReadyStage(
                name,
                np.rint(before.zero),
                maker.linear(weights.embed, before, identity(width)),
                _norm(weights.embed_norm, identity(width), embed_out),
                tuple(blocks),
                _norm(weights.norm, grid, out),
            )
        )
        before = out
    return _with_head(maker, network, stages)


def _with_head(maker: _Maker, network: Network, stages: list[ReadyStage]) -> Ready:
    config = network.config
    outs = [maker.grid(f"stage{index + 1}.out", width) for index, width in enumerate(config.widths)]
    joined = Grid(np.concatenate([g.scale for g in outs]), np.concatenate([g.zero for g in outs]))
    fused = maker.grid("fused", config.head_channels)
    logits = identity(config.classes)
    if maker.grids is not None:
        logits = Grid(np.full(config.classes, LOGIT_STEP, np.float32), logits.zero)
    return Ready(
        network,
        network.mean,
        tuple(stages),
        maker.linear(network.fuse, joined, fused),
        fused.zero,
        maker.linear(network.classifier, fused, logits),
        maker.grids is not None,
    )


def _block(
    maker: _Maker, name: str, block: Block, heads: int, before: Grid, after: Grid
) -> ReadyBlock:
    width, hidden = len(before.scale), block.expand.weight.shape[1]
    grid = {
        part: maker.grid(f"{name}.{part}", channels)
        for part, channels in (
            *(("norm1", width), ("query", width), ("key_value", 2 * width), ("mix", width)),
            *(("mid", width), ("norm2", width), ("hidden", hidden), ("gelu", hidden)),
        )
    }
    source, reduce, reduce_norm = grid["norm1"], None, None
    if block.reduce is not None and block.reduce_norm is not None:
        reduce = maker.linear(block.reduce, source, identity(width))
        source = maker.grid(f"{name}.reduced", width)
        reduce_norm = _norm(block.reduce_norm, identity(width), source)
    values = grid["key_value"]
    # A key's scale goes into the query's channel; its zero point adds one number to all scores
    # of a query, which softmax cancels.
    query = Affine(
        block.query.weight * values.scale[:width], block.query.bias * values.scale[:width]
    )
    scale, zero, mix = values.scale[width:], values.zero[width:], grid["mix"]
    return ReadyBlock(
        name=name,
        norm1=_norm(block.norm1, before, grid["norm1"]),
        query=maker.linear(query, grid["norm1"], grid["query"]),
        reduce=reduce,
        reduce_norm=reduce_norm,
        key_value=maker.linear(block.key_value, source, values),
        score=grid["query"].scale.reshape(heads, -1)[:, 0].copy(),
        mix_factor=scale / mix.scale,
        mix_term=(-zero * scale / mix.scale + mix.zero).astype(np.float32),
        output=maker.residual(block.output, mix, before, grid["mid"]),
        norm2=_norm(block.norm2, grid["mid"], grid["norm2"]),
        expand=maker.linear(block.expand, grid["norm2"], grid["hidden"]),
        hidden_zero=grid["hidden"].zero,
        depthwise=maker.depthwise(block.depthwise, grid["hidden"]),
        gelu_factor=np.float32(1) / grid["gelu"].scale,
        gelu_term=grid["gelu"].zero,
        contract=maker.residual(block.contract, grid["gelu"], grid["mid"], after),
    )
