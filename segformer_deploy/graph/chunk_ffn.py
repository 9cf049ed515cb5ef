"""``norm -> expand -> depthwise 3x3 -> gelu -> contract -> add``  ->  the same, rows by rows.

Exactness: bits. Everything in a Mix-FFN but the depthwise 3x3 works on each pixel alone, and
that one reads one row above and below; so a chunk of rows takes one more row at each inner
end (its "halo"), and pads with zeros only where the whole map would. Each value is computed
from the same numbers by the same operation. (Which order a library adds products in is its
own; ONNX Runtime's does not depend on the number of rows: see the tests.)

What it saves: the hidden maps are 4 (B0: 4 or 8) times as wide as the tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from segformer_deploy.graph.chunk_edit import GraphEdit, attribute, even_rows, pieces_for


@dataclass(frozen=True)
class _Ffn:
    before: tuple[onnx.NodeProto, ...]
    """Norm, transpose, expand."""
    depthwise: onnx.NodeProto
    after: tuple[onnx.NodeProto, ...]
    """Gelu, contract, transpose."""
    add: onnx.NodeProto

    @property
    def tokens(self) -> str:
        return str(self.before[0].input[0])

    @property
    def nodes(self) -> tuple[onnx.NodeProto, ...]:
        return (*self.before, self.depthwise, *self.after, self.add)


def chunk_ffn(model: onnx.ModelProto, limit: int) -> onnx.ModelProto:
    """A copy of `model` in which no hidden map of a Mix-FFN takes more than `limit` bytes.

    `model` has fixed sizes. A Mix-FFN of another form (quantised, padded otherwise) stays.
    """
    edit = GraphEdit(model)
    found = [ffn for node in edit.graph.node if (ffn := _ffn_around(edit, node)) is not None]
    for ffn in found:
        _, hidden, height, width = edit.shapes[ffn.depthwise.output[0]]
        count = pieces_for(height, 4 * hidden * width, limit)
        if count > 1:
            _cut(edit, ffn, height, count)
    return edit.finished()


def _ffn_around(edit: GraphEdit, node: onnx.NodeProto) -> _Ffn | None:
    """The Mix-FFN whose depthwise convolution `node` is; None where it is no such thing."""
    if not _is_depthwise(node, edit):
        return None
    expand = edit.written_by(node.input[0], "Conv")
    first = expand and edit.written_by(expand.input[0], "Transpose")
    norm = first and edit.written_by(first.input[0], "LayerNormalization")
    gelu = edit.sole_reader(node.output[0], "Gelu")
    contract = gelu and edit.sole_reader(gelu.output[0], "Conv")
    last = contract and edit.sole_reader(contract.output[0], "Transpose")
    add = last and edit.sole_reader(last.output[0], "Add")
    if not (expand and first and norm and gelu and contract and last and add):
        return None
    inner = (norm.output[0], first.output[0], expand.output[0])
    alone = all(len(edit.readers[value]) == 1 for value in inner)
    layouts = [attribute(t, "perm") for t in (first, last)] == [[0, 3, 1, 2], [0, 2, 3, 1]]
    pointwise = all(_is_pointwise(conv, edit) for conv in (expand, contract))
    by_channel = attribute(norm, "axis", -1) in (-1, 3)
    residual = norm.input[0] in add.input and norm.input[0] != last.output[0]
    if not (alone and layouts and pointwise and by_channel and residual):
        return None
    return _Ffn((norm, first, expand), node, (gelu, contract, last), add)


def _is_depthwise(node: onnx.NodeProto, edit: GraphEdit) -> bool:
    if node.op_type != "Conv" or not edit.is_constant(node.input[1]):
        return False
    shape = edit.shapes[node.input[1]]
    return (
        shape[1:] == (1, 3, 3)
        and attribute(node, "group", 1) == shape[0]
        and list(attribute(node, "pads", [])) == [1, 1, 1, 1]
        and list(attribute(node, "strides", [1, 1])) == [1, 1]
        and list(attribute(node, "dilations", [1, 1])) == [1, 1]
    )


def _is_pointwise(node: onnx.NodeProto, edit: GraphEdit) -> bool:
    return (
        edit.is_constant(node.input[1])
        and edit.shapes[node.input[1]][2:] == (1, 1)
        and list(attribute(node, "pads", [0] * 4)) == [0] * 4
        and list(attribute(node, "strides", [1, 1])) == [1, 1]
    )


def _cut(edit: GraphEdit, ffn: _Ffn, height: int, count: int) -> None:
    parts = []
    for index, (start, end) in enumerate(even_rows(height, count)):
        part = f"rows{index}"
        above, below = min(start, 1), min(height - end, 1)
        source = edit.rows(ffn.tokens, (start - above, end + below), f"{ffn.tokens}.ffn.{part}")
        values = {ffn.tokens: source}
        edit.copies(ffn.before, values, part)
        pads = [1 - above, 1, 1 - below, 1]
        hidden = edit.copy(ffn.depthwise, values, part, pads=pads)
        values[ffn.depthwise.output[0]] = hidden
        edit.copies(ffn.after, values, part)
        values[ffn.tokens] = edit.rows(ffn.tokens, (start, end), f"{ffn.tokens}.kept.{part}")
        parts.append(edit.copy(ffn.add, values, part))
    edit.node("Concat", parts, ffn.add.output[0], axis=1)
    edit.replace(ffn.nodes, ffn.add)
