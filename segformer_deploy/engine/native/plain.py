"""Is a graph the plain deploy form? Only then do its weights alone say what it computes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from segformer_deploy.engine.onnx_graph import Node
from segformer_deploy.errors import BackendError

if TYPE_CHECKING:
    from segformer_deploy.engine.native.weights import Linear, Network

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
}
_LANES = 8
"""The widest vector of any variant: maps that are walked by vectors must be multiples of it."""


def unsupported(found: str) -> BackendError:
    return BackendError(
        f"the native backend cannot run this graph: {found}",
        "an FP32 graph with logits, as segdeploy export writes it",
        "use --backend onnxruntime",
    )


def check_plain(nodes: Sequence[Node], network: Network) -> None:
    """BackendError where `nodes` are not the operations of `network`, or do something else."""
    _check_operations(nodes, network)
    for node in nodes:
        if node.op not in _MOVES:
            _check_attributes(node)
    widths = [block.expand.outputs for stage in network.stages for block in stage.blocks]
    for width in (*widths, network.head[0].fuse.outputs):
        if width % _LANES:
            raise unsupported(f"a map of {width} channels, no multiple of {_LANES}")


def _linears(network: Network) -> Iterator[Linear]:
    for stage in network.stages:
        for block in stage.blocks:
            yield from (block.query, block.key_value, block.output)
    for head in network.head:
        yield from [head.fuse] if head.project is None else [head.project, head.fuse]


def _check_operations(nodes: Sequence[Node], network: Network) -> None:
    blocks = [block for stage in network.stages for block in stage.blocks]
    reduced = sum(block.reduce is not None for block in blocks)
    linears = list(_linears(network))
    relus = 1 + sum(head.project is not None for head in network.head)
    expected = Counter(
        Cast=1,
        Sub=1,
        Conv=4 + 3 * len(blocks) + reduced,
        LayerNormalization=8 + 2 * len(blocks) + reduced,
        Gelu=len(blocks),
        Softmax=len(blocks),
        # Two products of each attention and the classifier have no Linear of their own.
        MatMul=len(linears) + 2 * len(blocks) + 1,
        # Biases, two residuals per block, three sums in the head.
        Add=sum(x.bias is not None for x in linears) + 1 + 2 * len(blocks) + 3,
        Relu=relus,
        Resize=3,
    )
    found = Counter(node.op for node in nodes if node.op not in _MOVES)
    for op in sorted(found.keys() | expected.keys()):
        if found[op] != expected[op]:
            raise unsupported(f"{found[op]} nodes of type {op}, its plain form has {expected[op]}")


def _check_attributes(node: Node) -> None:
    own = _OWN.get(node.op, set())
    found = {name: value for name, value in node.attributes.items() if name not in own}
    if found != _ATTRIBUTES.get(node.op, {}):
        raise unsupported(f"{node.op} {node.name} has the attributes {found}")
    if node.op == "Conv":
        for name in ("kernel_shape", "pads", "strides"):
            if len(set(node.attributes[name])) > 1:
                raise unsupported(f"Conv {node.name} has {name} {node.attributes[name]}")
