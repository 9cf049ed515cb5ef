"""How much a graph holds at once: the bytes of all values that are alive, node by node.

Counted are the values that nodes write, from the node that writes one to the last that reads
it; weights and inputs are not. It is what a runtime needs that runs one node after another,
frees each value after its last use, and never lets two values share memory by plan. ONNX
Runtime does so without its arena, memory pattern and memory reuse; a kernel's own scratch,
and what it does with a graph's layout, come on top.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import onnx
from onnx import helper

from segformer_deploy.graph.chunk_edit import static_shapes

_FREE = ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")
"""They give the same bytes another shape: the value they read lives on in what they write."""


@dataclass(frozen=True)
class LiveSet:
    """The largest live set of a graph.

    Attributes:
        peak_bytes: its size.
        node: the node at which it is reached.
        values: the largest of its values, in bytes, largest first.
    """

    peak_bytes: int
    node: str
    values: tuple[tuple[str, int], ...]


def execution_order(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The order in which ONNX Runtime runs `graph` sequentially.

    Depth first from the nodes that nothing reads, the later of two inputs' writers first; a
    node runs once all that it reads is there. (GraphViewer's order "default"; what its
    optimisers add is not in it.) Recursion would overflow: a graph is thousands deep.
    """
    index = {name: i for i, node in enumerate(graph.node) for name in node.output}
    before = [sorted({index[name] for name in node.input if name in index}) for node in graph.node]
    read = {one for inputs in before for one in inputs}
    stack = [(i, False) for i in range(len(graph.node)) if i not in read]
    seen: set[int] = set()
    order = []
    while stack:
        at, leave = stack.pop()
        if leave:
            order.append(graph.node[at])
        elif at not in seen:
            seen.add(at)
            stack.append((at, True))
            stack += [(one, False) for one in before[at] if one not in seen]
    return order


def live_set(model: onnx.ModelProto) -> LiveSet:
    """The largest live set of `model`, whose sizes are all fixed; OnnxFileError otherwise."""
    sizes = _sizes(model)
    order = execution_order(model.graph)
    root = _roots(order)
    last = {root[name]: i for i, node in enumerate(order) for name in node.input if name in root}
    last |= {root[value.name]: len(order) for value in model.graph.output}
    alive: dict[str, int] = {}
    total, best = 0, LiveSet(0, "", ())
    for i, node in enumerate(order):
        for name in node.output:
            if name and root[name] == name:
                alive[name] = sizes[name]
                total += sizes[name]
        if total > best.peak_bytes:
            largest = sorted(alive.items(), key=lambda pair: -pair[1])[:8]
            best = LiveSet(total, node.name, tuple(largest))
        ended = {root[name] for name in (*node.input, *node.output) if name in root}
        for name in ended:
            if last.get(name, i) <= i and name in alive:
                total -= alive.pop(name)
    return best


def _roots(order: list[onnx.NodeProto]) -> dict[str, str]:
    """Value -> the value whose bytes it has: itself, but behind a reshape."""
    root: dict[str, str] = {}
    for node in order:
        for name in node.output:
            shares = node.op_type in _FREE and node.input[0] in root
            root[name] = root[node.input[0]] if shares else name
    return root


def _sizes(model: onnx.ModelProto) -> dict[str, int]:
    shapes = static_shapes(model)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    return {
        value.name: prod(shapes[value.name])
        * helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).itemsize
        for value in (*inferred.output, *inferred.value_info)
    }
