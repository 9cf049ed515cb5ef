"""``query -> scores -> softmax -> mixed -> output -> add``  ->  the same, queries by queries.

Exactness: bits. Keys and values are made once, of all tokens; each query's scores, softmax and
answer depend on no other query. So the rows of the map go through one chunk after another.
(Which order a library adds products in is its own; see the tests.)

What it saves: the scores, [heads, h*w, reduced h*w], which are the largest thing in stage 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import onnx

from segformer_deploy.graph.chunk_edit import GraphEdit, attribute, even_rows, pieces_for

_TO_HEADS = [0, 2, 1, 3]


@dataclass(frozen=True)
class _Attention:
    """From the normed tokens to the residual sum.

    Attributes:
        before: query's product and layout, scores, softmax, mixed, heads joined.
        join: the reshape to a map.
        after: output's product.
    """

    tokens: str
    before: tuple[onnx.NodeProto, ...]
    join: onnx.NodeProto
    after: tuple[onnx.NodeProto, ...]
    add: onnx.NodeProto
    residual: str

    @property
    def nodes(self) -> tuple[onnx.NodeProto, ...]:
        return (*self.before, self.join, *self.after, self.add)


def chunk_attention(model: onnx.ModelProto, limit: int) -> onnx.ModelProto:
    """A copy of `model` in which no map of scores takes more than `limit` bytes.

    `model` has fixed sizes. An attention of another form (quantised, say) stays.
    """
    edit = GraphEdit(model)
    found = [one for node in edit.graph.node if (one := _attention_around(edit, node)) is not None]
    for attention in found:
        softmax = next(node for node in attention.before if node.op_type == "Softmax")
        height = edit.shapes[attention.tokens][1]
        count = pieces_for(height, 4 * prod(edit.shapes[softmax.output[0]]) // height, limit)
        if count > 1:
            _cut(edit, attention, count)
    return edit.finished()


def _attention_around(edit: GraphEdit, node: onnx.NodeProto) -> _Attention | None:
    """The attention whose softmax `node` is; None where it is no such thing."""
    if node.op_type != "Softmax" or attribute(node, "axis", -1) not in (-1, 2, 3):
        return None
    scores = edit.written_by(node.input[0], "MatMul")
    mixed = edit.sole_reader(node.output[0], "MatMul")
    if scores is None or mixed is None or mixed.input[0] != node.output[0]:
        return None
    query = _query(edit, scores.input[0])
    after = _after(edit, mixed)
    if query is None or after is None or len(edit.shapes[query[0].input[0]]) != 4:
        return None
    heads, join, output, add = after
    residual = next((name for name in add.input if name != output[-1].output[0]), "")
    shape = edit.shapes[query[0].input[0]]
    if shape[0] != 1 or edit.shapes[join.output[0]] != shape or edit.shapes.get(residual) != shape:
        return None
    before = (*query, scores, node, mixed, *heads)
    inner = {name for one in before for name in one.output}
    if any(len(edit.readers[name]) != 1 for name in inner):
        return None
    return _Attention(query[0].input[0], before, join, output, add, residual)


def _query(edit: GraphEdit, value: str) -> tuple[onnx.NodeProto, ...] | None:
    """Product (with its bias), reshape by -1, heads first where there are several."""
    found: list[onnx.NodeProto] = []
    layout = edit.written_by(value, "Transpose")
    if layout is not None:
        if list(attribute(layout, "perm")) != _TO_HEADS:
            return None
        found.append(layout)
        value = layout.input[0]
    reshape = edit.written_by(value, "Reshape")
    if reshape is None or not edit.is_constant(reshape.input[1]):
        return None
    found.append(reshape)
    bias = edit.written_by(reshape.input[0], "Add")
    if bias is not None:
        found.append(bias)
    source = bias.input[0] if bias is not None else reshape.input[0]
    product = edit.written_by(source, "MatMul")
    if product is None or not edit.is_constant(product.input[1]):
        return None
    if bias is not None and not edit.is_constant(bias.input[1]):
        return None
    # A reshape to sizes that stand there would not fit a chunk.
    if edit.numbers(reshape.input[1])[:2] != [0, -1]:
        return None
    return (product, *reversed(found))


_After = tuple[
    tuple[onnx.NodeProto, ...], onnx.NodeProto, tuple[onnx.NodeProto, ...], onnx.NodeProto
]


def _after(edit: GraphEdit, mixed: onnx.NodeProto) -> _After | None:
    """(heads joined, reshape to a map, output's product and bias, residual sum)."""
    value, heads = mixed.output[0], ()  # type: str, tuple[onnx.NodeProto, ...]
    layout = edit.sole_reader(value, "Transpose")
    if layout is not None:
        if list(attribute(layout, "perm")) != _TO_HEADS:
            return None
        value, heads = layout.output[0], (layout,)
    join = edit.sole_reader(value, "Reshape")
    product = join and edit.sole_reader(join.output[0], "MatMul")
    bias = product and edit.sole_reader(product.output[0], "Add")
    add = bias and edit.sole_reader(bias.output[0], "Add")
    if not (join and product and bias and add):
        return None
    if not (edit.is_constant(product.input[1]) and edit.is_constant(bias.input[1])):
        return None
    return heads, join, (product, bias), add


def _cut(edit: GraphEdit, attention: _Attention, count: int) -> None:
    _, height, width, channels = edit.shapes[attention.tokens]
    parts = []
    for index, (start, end) in enumerate(even_rows(height, count)):
        part = f"rows{index}"
        tokens, residual = attention.tokens, attention.residual
        values = {tokens: edit.rows(tokens, (start, end), f"{tokens}.{part}")}
        edit.copies(attention.before, values, part)
        values[attention.join.input[1]] = edit.integers(1, end - start, width, channels)
        edit.copies((attention.join, *attention.after), values, part)
        values[residual] = edit.rows(residual, (start, end), f"{residual}.kept.{part}")
        parts.append(edit.copy(attention.add, values, part))
    edit.node("Concat", parts, attention.add.output[0], axis=1)
    edit.replace(attention.nodes, attention.add)
