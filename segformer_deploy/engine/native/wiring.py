"""How the exporter connects the deploy form's nodes, written out again from a network's sizes.

The kernels know the order of things by heart and read nothing but weights from a graph. So a graph
runs here only if each of its nodes is the one expected, between the values expected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from segformer_deploy.engine.onnx_graph import Node

if TYPE_CHECKING:
    from segformer_deploy.engine.native.weights import Block, Linear, Network, Stage

_NCHW, _NHWC = (0, 3, 1, 2), (0, 2, 3, 1)


@dataclass
class Wiring:
    """Expected nodes by name, and the integers that their shapes are made of.

    Attributes of nodes that compute are not among them, but for those of convolutions.
    """

    nodes: dict[str, Node] = field(default_factory=dict)
    integers: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def add(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        self.nodes[name] = Node(op, name, tuple(inputs), (name,), attributes)
        return name

    def shape(self, *values: int) -> str:
        name = "shape." + "_".join(str(value).replace("-", "minus") for value in values)
        self.integers[name] = values
        return name

    def transpose(self, value: str, name: str, perm: tuple[int, ...]) -> str:
        return self.add("Transpose", [value], name, perm=perm)

    def read(self, value: str, rounded: bool) -> str:
        """What reads `value` reads this: the value itself, or the grid that it is rounded to."""
        if not rounded:
            return value
        grid = [f"{value}.scale", f"{value}.zero_point"]
        self.add("QuantizeLinear", [value, *grid], f"{value}.quantized")
        inputs = [f"{value}.quantized", *grid]
        return self.add("DequantizeLinear", inputs, f"{value}.dequantized", axis=None)

    def weight(self, name: str, quantised: bool, axis: int) -> str:
        """The weight of the product `name`; `axis` is that of its outputs."""
        weight = f"{name}.weight"
        if not quantised:
            return weight
        inputs = [f"{weight}.{part}" for part in ("quantized", "scale", "zero_point")]
        return self.add("DequantizeLinear", inputs, f"{weight}.dequantized", axis=axis)

    def nchw(self, value: str, rounded: bool = False) -> str:
        return self.transpose(self.read(value, rounded), f"{value}.nchw", _NCHW)

    def nhwc(self, value: str, rounded: bool = False) -> str:
        return self.transpose(self.read(value, rounded), f"{value}.nhwc", _NHWC)

    def norm(self, value: str, name: str) -> str:
        return self.add("LayerNormalization", [value, f"{name}.weight", f"{name}.bias"], name)

    def convolution(self, value: str, name: str, quantised: bool = False, **attributes: Any) -> str:
        inputs = [value, self.weight(name, quantised, 0), f"{name}.bias"]
        return self.add("Conv", inputs, name, **{"group": 1, **attributes})

    def pointwise(self, value: str, name: str, layer: Linear) -> str:
        one: dict[str, Any] = {"kernel_shape": (1, 1), "strides": (1, 1), "pads": (0, 0, 0, 0)}
        return self.convolution(value, name, layer.quantised, **one)

    def depthwise(self, value: str, name: str, channels: int) -> str:
        square: dict[str, Any] = {"kernel_shape": (3, 3), "strides": (1, 1), "pads": (1, 1, 1, 1)}
        return self.convolution(value, name, group=channels, **square)

    def projection(self, value: str, name: str, *, bias: bool, quantised: bool) -> str:
        weight = self.weight(name, quantised, 1)
        if not bias:
            return self.add("MatMul", [value, weight], name)
        product = self.add("MatMul", [value, weight], f"{name}.product")
        return self.add("Add", [product, f"{name}.bias"], name)

    def linear(self, value: str, name: str, layer: Linear) -> str:
        return self.projection(value, name, bias=layer.biased, quantised=layer.quantised)


def wiring_of(network: Network) -> Wiring:
    """The graph that the exporter writes for such a network."""
    w = Wiring()
    w.add("Shape", ["image"], "frames.batch", start=0, end=1)
    frames = w.transpose(w.add("Cast", ["image"], "frames.float"), "frames.nchw", _NCHW)
    image = w.add("Sub", [frames, "mean"], "frames.centred")
    outputs: list[str] = []
    for number, stage in enumerate(network.stages, start=1):
        if outputs:
            image = w.nchw(outputs[-1], stage.embed.linear.quantised)
        outputs.append(_stage(w, stage, image, f"stage{number}"))
    _head(w, network, outputs)
    return w


def _stage(w: Wiring, stage: Stage, image: str, name: str) -> str:
    embedded = w.convolution(image, f"{name}.embed", stage.embed.linear.quantised)
    w.add("Shape", [embedded], f"{name}.size", start=2, end=4)
    tokens = w.norm(w.nhwc(embedded), f"{name}.embed_norm")
    sizes = ["frames.batch", f"{name}.size", w.shape(stage.channels)]
    shape = w.add("Concat", sizes, f"{name}.shape", axis=0)
    for index, block in enumerate(stage.blocks):
        tokens = _block(w, block, tokens, shape, f"{name}.block{index}")
    return w.norm(tokens, f"{name}.norm")


def _block(w: Wiring, block: Block, tokens: str, shape: str, name: str) -> str:
    normed = w.norm(tokens, f"{name}.norm1")
    mixed = _attention(w, block, normed, shape, f"{name}.attention")
    tokens = w.add("Add", [tokens, mixed], f"{name}.attended")
    hidden = w.nchw(w.norm(tokens, f"{name}.norm2"), block.expand.quantised)
    hidden = w.pointwise(hidden, f"{name}.ffn.expand", block.expand)
    hidden = w.depthwise(hidden, f"{name}.ffn.depthwise", block.expand.outputs)
    hidden = w.read(w.add("Gelu", [hidden], f"{name}.ffn.gelu"), block.contract.quantised)
    mixed = w.pointwise(hidden, f"{name}.ffn.contract", block.contract)
    mixed = w.nhwc(mixed, block.contract.rounded)
    return w.add("Add", [tokens, mixed], f"{name}.out")


def _attention(w: Wiring, block: Block, tokens: str, shape: str, name: str) -> str:
    source = tokens
    if block.reduce is not None:
        quantised = block.reduce.linear.quantised
        reduced = w.convolution(w.nchw(tokens, quantised), f"{name}.reduce", quantised)
        source = w.norm(w.nhwc(reduced), f"{name}.reduce_norm")
    query = w.linear(w.read(tokens, block.query.quantised), f"{name}.query", block.query)
    source = w.read(source, block.key_value.quantised)
    both = w.linear(source, f"{name}.key_value", block.key_value)
    key, value = f"{name}.key", f"{name}.value"
    split = {"axis": -1, "num_outputs": 2}
    w.nodes[f"{both}.split"] = Node("Split", f"{both}.split", (both,), (key, value), split)
    query, key, value = (_by_head(w, block, part) for part in (query, key, value))
    weights = w.add("Softmax", [w.add("MatMul", [query, key], f"{name}.scores")], f"{name}.softmax")
    weights = w.read(weights, block.grids is not None)
    mixed = w.add("MatMul", [weights, value], f"{name}.mixed")
    mixed = w.read(mixed, block.output.quantised)
    if block.heads > 1:
        mixed = w.transpose(mixed, f"{name}.joined_heads", (0, 2, 1, 3))
    mixed = w.add("Reshape", [mixed, shape], f"{name}.mixed_map")
    return w.read(w.linear(mixed, f"{name}.output", block.output), block.output.rounded)


def _by_head(w: Wiring, block: Block, value: str) -> str:
    channels, heads, is_key = block.query.outputs, block.heads, value.endswith(".key")
    split = (channels,) if heads == 1 else (heads, channels // heads)
    source = w.read(value, block.grids is not None)
    tokens = w.add("Reshape", [source, w.shape(0, -1, *split)], f"{value}.tokens")
    if heads > 1:
        return w.transpose(tokens, f"{value}.heads", (0, 2, 3, 1) if is_key else (0, 2, 1, 3))
    return w.transpose(tokens, f"{value}.heads", (0, 2, 1)) if is_key else tokens


def _head(w: Wiring, network: Network, stages: Sequence[str]) -> None:
    head, fused = network.head, []
    for number, (layer, value) in enumerate(zip(head, stages, strict=True), start=1):
        name = f"decoder.stage{number}"
        if layer.project is not None:
            value = w.read(value, layer.project.quantised)
            value = w.linear(value, f"{name}.project", layer.project)
            value = w.add("Relu", [value], f"{name}.relu")
        value = w.read(value, layer.fuse.quantised)
        fused.append(w.linear(value, f"{name}.fuse", layer.fuse))
    sizes = ["frames.batch", "stage1.size", w.shape(head[0].fuse.outputs)]
    shape = w.add("Concat", sizes, "decoder.shape", axis=0)
    total = ""
    for number in (4, 3, 2):
        inputs = [fused[number - 1], "", "", shape]
        resized = w.add("Resize", inputs, f"decoder.stage{number}.resized")
        total = w.add("Add", [total, resized], f"decoder.sum{number}") if total else resized
    total = w.add("Add", [fused[0], total], "decoder.sum1")
    quantised = network.classifier.quantised
    relu = w.read(w.add("Relu", [total], "decoder.relu"), quantised)
    logits = w.projection(relu, "decoder.classifier", bias=True, quantised=quantised)
    w.transpose(logits, "logits", _NCHW)
