"""What a SegFormer costs at a size: multiply-accumulates, bytes and live memory, without a graph.

The layers are written down from the paper's table and the shapes that follow from height and
width, so that a machine with neither torch nor onnx can ask for any variant at any size. Tests
hold the multiply-accumulates against the exported graphs, to the last one.

Two forms: ``deploy`` is what `segdeploy export` writes (the decode head works at each stage's own
size), ``published`` is what checkpoints describe and what published latencies were measured on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, get_args

from segformer_deploy.errors import FrameError, SpecError
from segformer_deploy.spec import SMALLEST_NETWORK_SIDE, FrameSize

Form = Literal["deploy", "published"]
Kind = Literal["conv", "gemm", "attention", "norm", "elementwise", "resize"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Grid = tuple[int, int]

HEADS = (1, 2, 5, 8)
REDUCTIONS = (8, 4, 2, 1)
MLP_RATIO = 4
PATCHES = (7, 3, 3, 3)
STRIDES = (4, 2, 2, 2)
FRAME = "frame"
"""The input: uint8, normalised by the first layer."""


@dataclass(frozen=True)
class Shape:
    """What distinguishes one variant from another: channels and blocks per stage, head channels."""

    widths: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    head: int


SHAPES = {
    "b0": Shape((32, 64, 160, 256), (2, 2, 2, 2), 256),
    "b1": Shape((64, 128, 320, 512), (2, 2, 2, 2), 256),
    "b2": Shape((64, 128, 320, 512), (3, 4, 6, 3), 768),
    "b3": Shape((64, 128, 320, 512), (3, 4, 18, 3), 768),
    "b4": Shape((64, 128, 320, 512), (3, 8, 27, 3), 768),
    "b5": Shape((64, 128, 320, 512), (3, 6, 40, 3), 768),
}
"""The paper's Table 6. `model.variants` has it too; the edge side may not import that room."""


@dataclass(frozen=True)
class Layer:
    """One step of the network.

    Attributes:
        name: unique; also the name of the value that it writes.
        kind: what an engine does for it. Elementwise layers are those that engines compute while
            a neighbour's tile is in the cache.
        macs: multiply-accumulates.
        weights: parameters, biases among them.
        reads: names of the values that it reads.
        writes: elements of the value that it writes.
        in_place: it may write over its first input, if nobody else needs that.
    """

    name: str
    kind: Kind
    macs: int
    weights: int
    reads: tuple[str, ...]
    writes: int
    in_place: bool = False


@dataclass(frozen=True)
class Network:
    """The layers of a variant at one size, in the order in which they run.

    Attributes:
        variant, form, size, classes, batch: what it is.
        layers: in order; each reads what earlier ones wrote, or `FRAME`.
        fused_attention: one layer per attention that never writes its scores to memory, as GPU
            engines do in FP16; otherwise scores, softmax and mix are layers of their own.
    """

    variant: str
    form: Form
    size: FrameSize
    classes: int
    batch: int
    fused_attention: bool
    layers: tuple[Layer, ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run: the paper's "FLOPs"."""
        return sum(layer.macs for layer in self.layers)

    @property
    def parameters(self) -> int:
        return sum(layer.weights for layer in self.layers)

    def macs_by_kind(self) -> dict[Kind, int]:
        """`macs` per kind of layer, in the order of `KINDS`."""
        totals: Counter[Kind] = Counter()
        for layer in self.layers:
            totals[layer.kind] += layer.macs
        return {kind: totals[kind] for kind in KINDS}


def network(
    variant: str,
    size: FrameSize,
    classes: int,
    *,
    batch: int = 1,
    form: Form = "deploy",
    fused_attention: bool = False,
) -> Network:
    """The layers of `variant` (``b0`` to ``b5``) for `batch` frames of `size`.

    Raises SpecError for another variant or fewer than 1 class or frame, FrameError for a side
    below 64 pixels.
    """
    if variant not in SHAPES:
        raise SpecError(f"variant '{variant}'", "one of " + ", ".join(SHAPES))
    if classes < 1 or batch < 1:
        raise SpecError(f"{classes} classes in a batch of {batch}", "at least 1 of each")
    if min(size.height, size.width) < SMALLEST_NETWORK_SIDE:
        raise FrameError(
            f"a network size of {size}", f"at least {SMALLEST_NETWORK_SIDE} pixels a side"
        )
    return _network(variant, size, classes, batch, form, fused_attention)


@lru_cache(maxsize=256)
def _network(
    variant: str, size: FrameSize, classes: int, batch: int, form: Form, fused: bool
) -> Network:
    work = _Work(batch)
    stages = _encoder(work, SHAPES[variant], size, fused, key_value_bias=form == "published")
    head = _deploy_head if form == "deploy" else _published_head
    head(work, SHAPES[variant].head, stages, classes)
    return Network(variant, form, size, classes, batch, fused, tuple(work.layers))


@dataclass(frozen=True)
class _Map:
    """A value [batch, h, w, channels]."""

    name: str
    grid: Grid
    channels: int


@dataclass
class _Work:
    """The layers so far; each method adds one and gives the value that it writes."""

    batch: int
    layers: list[Layer] = field(default_factory=list)

    def add(
        self, name: str, kind: Kind, macs: int, weights: int, reads: Sequence[str], out: _Map,
        *, in_place: bool = False,
    ) -> _Map:  # fmt: skip
        writes = self.batch * out.grid[0] * out.grid[1] * out.channels
        self.layers.append(
            Layer(name, kind, self.batch * macs, weights, tuple(reads), writes, in_place)
        )
        return out

    def gemm(self, name: str, x: _Map, channels: int, *, bias: bool = True) -> _Map:
        tokens = x.grid[0] * x.grid[1]
        out = _Map(name, x.grid, channels)
        weights = x.channels * channels + bias * channels
        return self.add(name, "gemm", tokens * x.channels * channels, weights, [x.name], out)

    def conv(
        self, name: str, x: _Map, channels: int, kernel: int, stride: int, padding: int,
        groups: int = 1,
    ) -> _Map:  # fmt: skip
        height, width = ((side + 2 * padding - kernel) // stride + 1 for side in x.grid)
        taps = x.channels // groups * kernel * kernel
        out = _Map(name, (height, width), channels)
        macs = height * width * channels * taps
        return self.add(name, "conv", macs, channels * taps + channels, [x.name], out)

    def norm(self, name: str, x: _Map) -> _Map:
        out = _Map(name, x.grid, x.channels)
        return self.add(name, "norm", 0, 2 * x.channels, [x.name], out)

    def elementwise(self, name: str, *inputs: _Map) -> _Map:
        out = _Map(name, inputs[0].grid, inputs[0].channels)
        return self.add(name, "elementwise", 0, 0, [x.name for x in inputs], out, in_place=True)

    def resize(self, name: str, x: _Map, grid: Grid) -> _Map:
        return self.add(name, "resize", 0, 0, [x.name], _Map(name, grid, x.channels))

    def attention(self, name: str, q: _Map, kv: _Map, heads: int, *, fused: bool) -> _Map:
        """softmax(q k) v: q [N, C], k and v [M, C]; two products of N*M*C each."""
        length, reduced = q.grid[0] * q.grid[1], kv.grid[0] * kv.grid[1]
        product = length * reduced * q.channels
        out = _Map(f"{name}.mix", q.grid, q.channels)
        if fused:
            return self.add(out.name, "attention", 2 * product, 0, [q.name, kv.name], out)
        scores = _Map(f"{name}.scores", (length, reduced), heads)
        self.add(scores.name, "attention", product, 0, [q.name, kv.name], scores)
        soft = _Map(f"{name}.softmax", (length, reduced), heads)
        self.add(soft.name, "attention", 0, 0, [scores.name], soft)
        return self.add(out.name, "attention", product, 0, [soft.name, kv.name], out)


def _encoder(
    work: _Work, shape: Shape, size: FrameSize, fused: bool, *, key_value_bias: bool
) -> list[_Map]:
    """The four stages' outputs, finest first.

    The deploy form has no bias on keys and values: softmax does not see the one, and the other
    goes into the output projection's.
    """
    frame = _Map(FRAME, (size.height, size.width), 3)
    x = work.elementwise("normalise", frame)
    stages = []
    for index, (width, depth) in enumerate(zip(shape.widths, shape.depths, strict=True)):
        name, patch = f"stage{index + 1}", PATCHES[index]
        x = work.conv(f"{name}.embed", x, width, patch, STRIDES[index], patch // 2)
        x = work.norm(f"{name}.embed_norm", x)
        for block in range(depth):
            x = _block(
                work, f"{name}.block{block}", x, HEADS[index], REDUCTIONS[index], fused,
                key_value_bias,
            )  # fmt: skip
        x = work.norm(f"{name}.norm", x)
        stages.append(x)
    return stages


def _block(
    work: _Work, name: str, x: _Map, heads: int, reduction: int, fused: bool, key_value_bias: bool
) -> _Map:
    """x + Attn(LN(x)), then x + MixFFN(LN(x)) (the paper's section 3.1)."""
    width = x.channels
    normed = source = work.norm(f"{name}.norm1", x)
    if reduction > 1:
        source = work.conv(f"{name}.reduce", normed, width, reduction, reduction, 0)
        source = work.norm(f"{name}.reduce_norm", source)
    key_value = work.gemm(f"{name}.key_value", source, 2 * width, bias=key_value_bias)
    query = work.gemm(f"{name}.query", normed, width)
    mixed = work.attention(f"{name}.attention", query, key_value, heads, fused=fused)
    mixed = work.gemm(f"{name}.output", mixed, width)
    x = work.elementwise(f"{name}.add1", mixed, x)
    hidden = work.norm(f"{name}.norm2", x)
    hidden = work.gemm(f"{name}.expand", hidden, MLP_RATIO * width)
    hidden = work.conv(f"{name}.depthwise", hidden, hidden.channels, 3, 1, 1, hidden.channels)
    hidden = work.elementwise(f"{name}.gelu", hidden)
    hidden = work.gemm(f"{name}.contract", hidden, width)
    return work.elementwise(f"{name}.add2", hidden, x)


def _deploy_head(work: _Work, channels: int, stages: Sequence[_Map], classes: int) -> None:
    """Each stage projected at its own size, enlarged, added up; coarsest first."""
    total: _Map | None = None
    for index in (3, 2, 1, 0):
        x = work.gemm(f"head.stage{index + 1}", stages[index], channels, bias=index == 3)
        if index:
            x = work.resize(f"head.resize{index + 1}", x, stages[0].grid)
        total = x if total is None else work.elementwise(f"head.add{index + 1}", total, x)
    assert total is not None
    work.gemm("logits", work.elementwise("head.relu", total), classes)


def _published_head(work: _Work, channels: int, stages: Sequence[_Map], classes: int) -> None:
    """Each stage projected, enlarged, joined with the others, fused by a 4C -> C convolution."""
    parts = []
    for index in (3, 2, 1, 0):
        x = work.gemm(f"head.linear{index + 1}", stages[index], channels)
        parts.append(work.resize(f"head.resize{index + 1}", x, stages[0].grid) if index else x)
    # Engines let the four resizes write into one buffer: joining moves nothing.
    tokens = stages[0].grid[0] * stages[0].grid[1]
    out = _Map("head.fuse", stages[0].grid, channels)
    macs, reads = tokens * 4 * channels * channels, [part.name for part in parts]
    # Without a bias of its own, but with BatchNorm's gamma and beta.
    work.add("head.fuse", "gemm", macs, 4 * channels * channels + 2 * channels, reads, out)
    work.gemm("logits", work.elementwise("head.relu", out), classes)
