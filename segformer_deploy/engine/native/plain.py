"""Is a graph the plain deploy form? Only then do its weights alone say what it computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from segformer_deploy.engine.native.wiring import Wiring, wiring_of
from segformer_deploy.engine.onnx_graph import Node
from segformer_deploy.errors import BackendError

if TYPE_CHECKING:
    from segformer_deploy.engine.native.weights import (
        Block,
        Convolution,
        Linear,
        Network,
        Norm,
    )

_MOVES = {"Transpose", "Reshape", "Shape", "Concat", "Split"}
_ATTRIBUTES: dict[str, dict[str, Any]] = {
    "Cast": {"to": 1},
    "LayerNormalization": {"axis": -1},
    "Gelu": {"approximate": "none"},
    "Softmax": {"axis": -1},
    "Resize": {"coordinate_transformation_mode": "half_pixel", "mode": "linear"},
}
"""What an operation's attributes must be; those named in _OWN are read from the node."""
_OWN = {
    "LayerNormalization": {"epsilon"},
    "Conv": {"group", "kernel_shape", "pads", "strides"},
    "DequantizeLinear": {"axis"},
}
_LANES = 8
"""Maps that are walked by vectors must be multiples of it: of all vectors but AVX-512's, which have
masks, it is the widest."""


def unsupported(found: str) -> BackendError:
    return BackendError(
        f"the native backend cannot run this graph: {found}",
        "an FP32 or INT8 graph with logits, as segdeploy writes it",
        "use --backend onnxruntime",
    )


def check_plain(
    nodes: Sequence[Node], weights: Mapping[str, npt.NDArray[Any]], network: Network
) -> None:
    """BackendError where the graph is not the one that the exporter writes for `network`."""
    _check_shapes(network)
    wiring = wiring_of(network)
    _check_nodes(nodes, wiring)
    for name, values in wiring.integers.items():
        if name not in weights or not np.array_equal(weights[name], values):
            raise unsupported(f"{name} is not {list(values)}")
    for node in nodes:
        if node.op not in _MOVES:
            _check_attributes(node)


def _check_nodes(nodes: Sequence[Node], wiring: Wiring) -> None:
    found = {node.name: node for node in nodes}
    for node in nodes:
        if node.name not in wiring.nodes:
            raise unsupported(f"{node.op} '{node.name}' is not of its plain form")
    for name, expected in wiring.nodes.items():
        if name not in found:
            raise unsupported(f"{expected.op} '{name}' is missing")
        node = found[name]
        if node.op != expected.op:
            raise unsupported(f"'{name}' is a node of type {node.op}, not {expected.op}")
        if (node.inputs, node.outputs) != (expected.inputs, expected.outputs):
            raise unsupported(f"{node.op} '{name}' lies between other values")
        attributes = {"group": 1, **node.attributes} if node.op == "Conv" else node.attributes
        for key, value in expected.attributes.items():
            if attributes.get(key) != value:
                raise unsupported(f"{node.op} '{name}' has {key} {attributes.get(key)}")
    if len(nodes) != len(found):
        raise unsupported("two of its nodes have one name")


def _check_attributes(node: Node) -> None:
    own = _OWN.get(node.op, set())
    found = {name: value for name, value in node.attributes.items() if name not in own}
    if found != _ATTRIBUTES.get(node.op, {}):
        raise unsupported(f"{node.op} {node.name} has the attributes {found}")
    if node.op == "Conv":
        for name in ("kernel_shape", "pads", "strides"):
            # Left out they would have defaults that the exporter never leaves to chance.
            if len(set(node.attributes.get(name, ()))) != 1:
                raise unsupported(f"Conv {node.name} has {name} {node.attributes.get(name)}")


# Shapes ---------------------------------------------------------------------------------------


def _expect(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise unsupported(f"{what} is {found}, not {expected}")


def _check_shapes(network: Network) -> None:
    """What ONNX would broadcast, or refuse when it runs, the kernels would read past its end."""
    _expect("the size of 'mean'", network.mean.shape, (3,))
    channels = 3
    for number, stage in enumerate(network.stages, start=1):
        name = f"stage{number}"
        _check_convolution(f"{name}.embed", stage.embed, channels, stage.channels)
        channels = stage.channels
        for norm in (stage.embed_norm, stage.norm):
            _check_norm(f"a norm of {name}", norm, channels)
        for index, block in enumerate(stage.blocks):
            _check_block(f"{name}.block{index}", block, channels)
    first = network.stages[0].embed
    if first.stride != 4 or 2 * first.padding + 1 != first.kernel:
        raise unsupported("its first stage does not have a quarter of the frame's sides")
    _check_head(network)


def _check_block(name: str, block: Block, channels: int) -> None:
    for norm in (block.norm1, block.norm2):
        _check_norm(f"a norm of {name}", norm, channels)
    hidden = block.expand.outputs
    _check_linear(f"{name}.query", block.query, channels, channels)
    _check_linear(f"{name}.key_value", block.key_value, channels, 2 * channels)
    _check_linear(f"{name}.output", block.output, channels, channels)
    _check_linear(f"{name}.expand", block.expand, channels, hidden)
    _check_linear(f"{name}.contract", block.contract, hidden, channels)
    _expect(f"the depthwise weight of {name}", block.depthwise.shape, (9, hidden))
    _expect(f"the depthwise bias of {name}", block.depthwise_bias.shape, (hidden,))
    if channels % block.heads:
        raise unsupported(f"{name} has {block.heads} heads for {channels} channels")
    if block.grids is not None and channels // block.heads % 2:
        raise unsupported(f"{name} has integers in heads of {channels // block.heads} channels")
    if hidden % _LANES:
        raise unsupported(f"a map of {hidden} channels, no multiple of {_LANES}")
    if block.reduce is not None:
        _check_convolution(f"{name}.reduce", block.reduce, channels, channels)
        if block.reduce_norm is None:
            raise unsupported(f"{name} reduces without a norm")
        _check_norm(f"{name}.reduce_norm", block.reduce_norm, channels)


def _check_head(network: Network) -> None:
    width = network.head[0].fuse.outputs
    for number, (stage, head) in enumerate(zip(network.stages, network.head, strict=True), start=1):
        name, inputs = f"decoder.stage{number}", stage.channels
        if head.project is not None:
            _check_linear(f"{name}.project", head.project, inputs, head.project.outputs)
            inputs = head.project.outputs
        _check_linear(f"{name}.fuse", head.fuse, inputs, width)
    if width % _LANES:
        raise unsupported(f"a map of {width} channels, no multiple of {_LANES}")
    _expect("the classifier's weight", network.classifier.weight.shape, (network.classes, width))
    _expect("the classifier's bias", network.classifier.bias.shape, (network.classes,))


def _check_linear(name: str, layer: Linear, inputs: int, outputs: int) -> None:
    _expect(f"the weight of {name}", (layer.inputs, layer.outputs), (inputs, outputs))


def _check_norm(name: str, norm: Norm, width: int) -> None:
    _expect(f"the size of {name}", (norm.gamma.shape, norm.beta.shape), ((width,), (width,)))


def _check_convolution(name: str, layer: Convolution, inputs: int, outputs: int) -> None:
    _expect(f"the channels of {name}", (layer.channels, layer.linear.outputs), (inputs, outputs))
    if min(layer.stride, layer.kernel) < 1 or layer.padding < 0:
        raise unsupported(f"{name} has stride {layer.stride} and padding {layer.padding}")
