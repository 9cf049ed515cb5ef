"""``fuse, resize, add, relu, classify``  ->  the same in strips of rows, joined at the logits.

In the deploy form each stage is projected at its own resolution, enlarged to stage 1's and
added; all that follows works on each pixel alone. A strip of the result needs the rows of the
coarser stages that its pixels lie between.

Exactness: bits, where a stage's height divides stage 1's: the strip of the coarse map takes
one row more at each inner end (its "halo"), is enlarged whole by that ratio, and the strip's
rows are cut out. Pixel centres then lie where they lay, shifted by whole rows.

Elsewhere algebra: such a ratio has no strip that could be enlarged by itself. The rows are
mixed by a small matrix of the weights (in float64, then rounded), then the columns by the
resize: the same four products per value, rounded in another order. A few units in the last
place of the largest of the four; `TOLERANCE` says how many.

What it saves: maps of 256 (B0, B1) or 768 channels at a quarter of the frame's resolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from segformer_deploy.graph.chunk_edit import GraphEdit, Rows, attribute, even_rows, pieces_for

TOLERANCE = 32 * float(np.finfo(np.float32).eps)
"""Of the largest logit: how far the logits may lie from the whole decoder's."""


@dataclass(frozen=True)
class _Decoder:
    """Nodes of the decoder, from stage 1's tokens and the other stages' projections.

    Attributes:
        own: from stage 1's tokens to its part of the sum.
        resizes: of the other stages.
        sums: in the order in which they run.
        tail: from the sum to the logits: relu, product, bias, channels first.
    """

    own: tuple[onnx.NodeProto, ...]
    resizes: tuple[onnx.NodeProto, ...]
    sums: tuple[onnx.NodeProto, ...]
    tail: tuple[onnx.NodeProto, ...]

    @property
    def nodes(self) -> tuple[onnx.NodeProto, ...]:
        return (*self.own, *self.resizes, *self.sums, *self.tail)


def strip_decoder(model: onnx.ModelProto, limit: int) -> onnx.ModelProto:
    """A copy of `model` in which no map of the decoder's channels takes more than `limit` bytes.

    `model` has fixed sizes. A decoder of another form (quantised, say) stays.
    """
    edit = GraphEdit(model)
    decoder = _decoder(edit)
    if decoder is None:
        return edit.finished()
    _, height, width, channels = edit.shapes[decoder.tail[0].output[0]]
    count = pieces_for(height, 4 * width * channels, limit)
    if count > 1:
        _cut(edit, decoder, height, count)
    return edit.finished()


def is_exact_to_the_bit(model: onnx.ModelProto) -> bool:
    """Whether every coarser stage's height divides stage 1's, so that strips change no bit."""
    edit = GraphEdit(model)
    decoder = _decoder(edit)
    return decoder is None or all(_ratio(edit, one) is not None for one in decoder.resizes)


def _decoder(edit: GraphEdit) -> _Decoder | None:
    last = edit.written_by("logits", "Transpose")
    bias = last and edit.written_by(last.input[0], "Add")
    product = bias and edit.written_by(bias.input[0], "MatMul")
    relu = product and edit.written_by(product.input[0], "Relu")
    if not (last and bias and product and relu):
        return None
    if list(attribute(last, "perm")) != [0, 3, 1, 2]:
        return None
    if not (edit.is_constant(product.input[1]) and edit.is_constant(bias.input[1])):
        return None
    sums, leaves = _sum(edit, relu.input[0])
    resizes = tuple(one for one in leaves if one.op_type == "Resize")
    own = tuple(one for one in leaves if one.op_type == "MatMul")
    if not sums or len(own) != 1 or len(resizes) + 1 != len(leaves):
        return None
    if not all(_is_plain(edit, one) for one in resizes):
        return None
    inner = [*sums, *leaves, relu, product, bias]
    if any(len(edit.readers[node.output[0]]) != 1 for node in inner):
        return None
    chain = _own_chain(edit, own[0])
    return None if chain is None else _Decoder(chain, resizes, sums, (relu, product, bias, last))


def _sum(
    edit: GraphEdit, value: str
) -> tuple[tuple[onnx.NodeProto, ...], tuple[onnx.NodeProto, ...]]:
    """The Adds that `value` comes from, innermost first, and the nodes whose values they add."""
    node = edit.writer.get(value)
    if node is None:
        return (), ()
    if node.op_type != "Add":
        return (), (node,)
    sums: tuple[onnx.NodeProto, ...] = ()
    leaves: tuple[onnx.NodeProto, ...] = ()
    for name in node.input:
        inner_sums, inner_leaves = _sum(edit, name)
        sums, leaves = sums + inner_sums, leaves + inner_leaves
    return (*sums, node), leaves


def _own_chain(edit: GraphEdit, product: onnx.NodeProto) -> tuple[onnx.NodeProto, ...] | None:
    """Stage 1's fuse, and before it its projection and ReLU where the head has them."""
    if not edit.is_constant(product.input[1]):
        return None
    relu = edit.written_by(product.input[0], "Relu")
    bias = relu and edit.written_by(relu.input[0], "Add")
    project = bias and edit.written_by(bias.input[0], "MatMul")
    if relu and bias and project and edit.is_constant(bias.input[1]):
        return project, bias, relu, product
    return (product,)


def _is_plain(edit: GraphEdit, resize: onnx.NodeProto) -> bool:
    """Whether it enlarges rows and columns bilinearly, to sizes, with pixel centres at halves."""
    source, target = edit.shapes[resize.input[0]], edit.shapes[resize.output[0]]
    return (
        len(resize.input) == 4
        and not any(resize.input[1:3])
        and attribute(resize, "mode", b"nearest") == b"linear"
        and attribute(resize, "coordinate_transformation_mode", b"half_pixel") == b"half_pixel"
        and not attribute(resize, "antialias", 0)
        and source[0] == target[0] == 1
        and source[3] == target[3]
        and source[1] <= target[1]
    )


def _ratio(edit: GraphEdit, resize: onnx.NodeProto) -> int | None:
    source, target = edit.shapes[resize.input[0]][1], edit.shapes[resize.output[0]][1]
    return target // source if target % source == 0 else None


def _cut(edit: GraphEdit, decoder: _Decoder, height: int, count: int) -> None:
    tokens = decoder.own[0].input[0]
    parts = []
    for index, rows in enumerate(even_rows(height, count)):
        part = f"rows{index}"
        values = {}
        # Written last, run first: the coarsest stage's halo is the widest, and then alone.
        for resize in reversed(decoder.resizes):
            enlarge = _enlarged if _ratio(edit, resize) else _mixed
            values[resize.output[0]] = enlarge(edit, resize, rows, part)
        values[tokens] = edit.rows(tokens, rows, f"{tokens}.{part}")
        edit.copies(decoder.own, values, part)
        edit.copies(decoder.sums, values, part)
        parts.append(edit.copies(decoder.tail, values, part))
    edit.node("Concat", parts, "logits", axis=2)
    edit.replace(decoder.nodes, decoder.tail[-1])


def _enlarged(edit: GraphEdit, resize: onnx.NodeProto, rows: Rows, part: str) -> str:
    """The rows of an enlarged map, by a whole ratio: with a halo, then cut."""
    ratio = _ratio(edit, resize)
    assert ratio is not None
    name = resize.output[0]
    _, height, _, _ = edit.shapes[resize.input[0]]
    _, _, width, channels = edit.shapes[name]
    # The rows that the strip's pixel centres lie between. Above the first centre it is the first
    # two as well, with weights 1 and 0: of a single row the library would take two halves.
    low, last = (max(0, (2 * row + 1 - ratio) // (2 * ratio)) for row in (rows[0], rows[1] - 1))
    high = min(height, last + 2)
    source = edit.rows(resize.input[0], (low, high), f"{name}.source.{part}")
    size = edit.integers(1, (high - low) * ratio, width, channels)
    whole = edit.node(
        "Resize",
        [source, "", "", size],
        f"{name}.whole.{part}",
        mode="linear",
        coordinate_transformation_mode="half_pixel",
    )
    start, end = rows[0] - low * ratio, rows[1] - low * ratio
    if (start, end) == (0, (high - low) * ratio):
        return whole
    ends = [edit.integers(start), edit.integers(end), edit.integers(1)]
    return edit.node("Slice", [whole, *ends], f"{name}.{part}")


def _mixed(edit: GraphEdit, resize: onnx.NodeProto, rows: Rows, part: str) -> str:
    """The rows of an enlarged map, by any ratio: rows by their weights, then columns."""
    name = resize.output[0]
    _, height, narrow, channels = edit.shapes[resize.input[0]]
    _, target, width, _ = edit.shapes[name]
    weights = bilinear_rows(height, target)[rows[0] : rows[1]]
    used = np.flatnonzero(weights.any(axis=0))
    low, high = int(used[0]), int(used[-1]) + 1
    source = edit.rows(resize.input[0], (low, high), f"{name}.source.{part}")
    flat = edit.integers(high - low, narrow * channels)
    source = edit.node("Reshape", [source, flat], f"{name}.flat.{part}")
    matrix = edit.constant(f"{name}.weights.{part}", weights[:, low:high].astype(np.float32))
    mixed = edit.node("MatMul", [matrix, source], f"{name}.mixed.{part}")
    count = rows[1] - rows[0]
    shape = edit.integers(1, count, narrow, channels)
    mixed = edit.node("Reshape", [mixed, shape], f"{name}.rows.{part}")
    return edit.node(
        "Resize",
        [mixed, "", "", edit.integers(1, count, width, channels)],
        f"{name}.{part}",
        mode="linear",
        coordinate_transformation_mode="half_pixel",
    )


def bilinear_rows(source: int, target: int) -> npt.NDArray[np.float64]:
    """[target, source]: which rows a row of the enlarged map is mixed from; half_pixel, clamped."""
    at = np.clip((np.arange(target) + 0.5) * (source / target) - 0.5, 0, source - 1)
    low = np.minimum(np.floor(at).astype(np.int64), source - 1)
    high = np.minimum(low + 1, source - 1)
    weights = np.zeros((target, source))
    np.add.at(weights, (np.arange(target), low), 1 - (at - low))
    np.add.at(weights, (np.arange(target), high), at - low)
    return weights
