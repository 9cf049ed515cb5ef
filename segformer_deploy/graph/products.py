"""The nodes that multiply and accumulate, as precision sees them: products, kinds and blocks.

A *product* is a Conv, MatMul or Gemm. Its *kind* is its place within a block (``ffn.expand``),
its *block* the unit that precision is given to or taken from (``stage2.block0.ffn``).
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import onnx

PRODUCTS = ("Conv", "MatMul", "Gemm")
LAYOUT = ("Transpose", "Reshape")
"""They move values and change none, so a range holds before them as well as behind."""

FIRST_CONVOLUTION = "first_convolution"
CLASSIFIER = "classifier"
DEPTHWISE = "ffn.depthwise"
ATTENTION_PRODUCTS = ("attention.scores", "attention.mixed")
_NAME = re.compile(r"(?P<block>stage\d+\.block\d+\.(?P<part>attention|ffn))\.(?P<what>\w+)")


@dataclass(frozen=True)
class Product:
    """One product.

    Attributes:
        node: its name in the graph (``stage1.block0.attention.query.product``).
        kind: ``attention.query``, ``ffn.expand``, ``embed``, ``decoder.fuse``, …
        block: what it belongs to.
        weight: the initializer on its second input; None where both inputs are activations.
        sources: per activation input, where a Q/DQ pair for it goes: the value itself or, where
            only layout lies between and nothing else reads it, the value before that layout.
    """

    node: str
    op: str
    kind: str
    block: str
    weight: str | None
    sources: tuple[str, ...]


def products_of(model: onnx.ModelProto) -> tuple[Product, ...]:
    """Every product of `model`, in the order in which they run."""
    flow = Flow(model.graph)
    weights = {tensor.name for tensor in model.graph.initializer}
    found = []
    for node in model.graph.node:
        if node.op_type not in PRODUCTS:
            continue
        kind, block = kind_and_block(node.name)
        weight = node.input[1] if node.input[1] in weights else None
        activations = [name for name in node.input[:2] if name not in weights]
        sources = tuple(flow.before_layout(name) for name in activations)
        found.append(Product(node.name, node.op_type, kind, block, weight, sources))
    return tuple(found)


def kind_and_block(node: str) -> tuple[str, str]:
    """``stage1.block0.ffn.expand`` -> ``ffn.expand``, ``stage1.block0.ffn``."""
    name = node.removesuffix(".product")
    inner = _NAME.fullmatch(name)
    if inner:
        return f"{inner['part']}.{inner['what']}", inner["block"]
    if name == "stage1.embed":
        return FIRST_CONVOLUTION, name
    if name == "decoder.classifier":
        return CLASSIFIER, name
    first, _, last = name.rpartition(".")
    if first.startswith("decoder."):
        return f"decoder.{last}", first
    return (last, name) if first else (name, name)


class Flow:
    """Who writes and who reads each value of a graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.writer = {name: node for node in graph.node for name in node.output}
        self.readers = Counter(name for node in graph.node for name in node.input)
        self.readers.update(value.name for value in graph.output)

    def layout_before(self, value: str) -> list[str]:
        """The values that only layout separates from `value` and nothing else reads, nearest
        first; `value` itself is the first."""
        chain = [value]
        while True:
            node = self.writer.get(chain[-1])
            if node is None or node.op_type not in LAYOUT or self.readers[chain[-1]] != 1:
                return chain
            chain.append(node.input[0])

    def before_layout(self, value: str) -> str:
        return self.layout_before(value)[-1]
