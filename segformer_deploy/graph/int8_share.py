"""How much of a graph's arithmetic is INT8, as the file states it."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from segformer_deploy.graph.macs import COUNTED, VIEWS, macs_of_node, static_shapes
from segformer_deploy.graph.products import kind_and_block
from segformer_deploy.spec import FrameSize

_NO_CHANGE = ("Transpose", "Split", *VIEWS)
"""They change no number: INT8 may pass through them on its way to a product."""


@dataclass(frozen=True)
class CountedProduct:
    """One product with its multiply-accumulates for one frame."""

    node: str
    kind: str
    macs: int
    int8: bool


def counted_products(model: onnx.ModelProto, size: FrameSize) -> tuple[CountedProduct, ...]:
    """Every product of `model` for one frame that enters the network at `size`.

    A product counts as INT8 where both inputs come from DequantizeLinear, straight or through
    nodes that only change the layout. Whether an engine then computes it in INT8 is the engine's
    choice. OnnxFileError where a shape cannot be worked out.
    """
    shapes = static_shapes(model, size)
    writers = {name: node for node in model.graph.node for name in node.output}
    return tuple(
        CountedProduct(
            node.name,
            kind_and_block(node.name)[0],
            macs_of_node(node, shapes),
            all(_is_dequantised(name, writers) for name in node.input[:2]),
        )
        for node in model.graph.node
        if node.op_type in COUNTED
    )


@dataclass(frozen=True)
class KindShare:
    """Multiply-accumulates of one kind of product, and those of them in INT8."""

    macs: int
    int8: int


def int8_share(model: onnx.ModelProto, size: FrameSize) -> dict[str, KindShare]:
    """Per kind of product, largest first; the key ``all`` comes last."""
    totals: dict[str, KindShare] = {}
    for product in (products := counted_products(model, size)):
        before = totals.get(product.kind, KindShare(0, 0))
        in_int8 = product.macs if product.int8 else 0
        totals[product.kind] = KindShare(before.macs + product.macs, before.int8 + in_int8)
    ordered = dict(sorted(totals.items(), key=lambda item: -item[1].macs))
    ordered["all"] = KindShare(
        sum(p.macs for p in products), sum(p.macs for p in products if p.int8)
    )
    return ordered


def _is_dequantised(name: str, writers: dict[str, onnx.NodeProto]) -> bool:
    node = writers.get(name)
    while node is not None and node.op_type in _NO_CHANGE:
        node = writers.get(node.input[0])
    return node is not None and node.op_type == "DequantizeLinear"
