"""Multiply-accumulates, nodes and bytes of a graph, from its shapes alone; nothing is run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import onnx
from onnx import TensorProto, helper, shape_inference

from segformer_deploy.errors import OnnxFileError
from segformer_deploy.spec import FrameSize

Shape = tuple[int, ...]
COUNTED = ("Conv", "MatMul", "Gemm")
VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity")
"""Another shape for the same bytes: they move nothing, and share their input's memory."""
COPIES = (
    *("Transpose", "Concat", "Split", "Slice", "Cast", "Expand", "Tile", "Pad"),
    *("Gather", "GatherElements", "GatherND", "ScatterElements", "ScatterND"),
    *("DepthToSpace", "SpaceToDepth"),
)
"""They compute nothing, and write every byte of their outputs."""
_WEIGHT_ELEMENTS = 64
"""Initializers above this many elements hold weights, not shapes."""


def count_macs(model: onnx.ModelProto, size: FrameSize, batch: int = 1) -> int:
    """Multiply-accumulates of one run on frames of `size`: what the paper calls FLOPs.

    Convolutions and matrix products count, as in the paper; additions, norms, activations and
    resizes do not. OnnxFileError where a shape cannot be worked out.
    """
    return sum(macs_by_kind(model, size, batch).values())


def macs_by_kind(model: onnx.ModelProto, size: FrameSize, batch: int = 1) -> dict[str, int]:
    """`count_macs` per operator type, largest first."""
    shapes = static_shapes(model, size, batch)
    totals: Counter[str] = Counter()
    for node in model.graph.node:
        if node.op_type in COUNTED:
            totals[node.op_type] += macs_of_node(node, shapes)
    return dict(totals.most_common())


def node_counts(model: onnx.ModelProto) -> dict[str, int]:
    """Number of nodes per operator type, most frequent first."""
    return dict(Counter(node.op_type for node in model.graph.node).most_common())


@dataclass(frozen=True)
class Moved:
    """Data movement of one operator type: how many nodes, and the bytes that they write."""

    nodes: int
    bytes: int


def data_movement(model: onnx.ModelProto, size: FrameSize, batch: int = 1) -> dict[str, Moved]:
    """What moves data without computing, per operator type, in the order of their names.

    A view is counted among the nodes and moves 0 bytes. OnnxFileError where a shape cannot be
    worked out.
    """
    sizes = value_bytes(model, size, batch)
    nodes: Counter[str] = Counter()
    moved: Counter[str] = Counter()
    for node in model.graph.node:
        if node.op_type in COPIES or node.op_type in VIEWS:
            nodes[node.op_type] += 1
        if node.op_type in COPIES:
            moved[node.op_type] += sum(_bytes_of(name, sizes) for name in node.output if name)
    return {kind: Moved(nodes[kind], moved[kind]) for kind in sorted(nodes)}


@dataclass(frozen=True)
class Activations:
    """Memory for what flows between nodes, in bytes.

    Attributes:
        total: of everything that nodes write.
        peak: the most that is alive at once when the nodes run in the graph's order.
        peak_node: the first node at which it is.
    """

    total: int
    peak: int
    peak_node: str


def activation_memory(model: onnx.ModelProto, size: FrameSize, batch: int = 1) -> Activations:
    """What an engine needs that works in no value's place and frees each after its last use.

    The graph's inputs are the caller's and live throughout; its outputs live to the end. A view
    is its input's memory. Weights do not count. OnnxFileError where a shape cannot be worked out.
    """
    sizes = value_bytes(model, size, batch)
    first, last = _lifetimes(model.graph)
    inputs = {value.name for value in model.graph.input}
    change = [0] * (len(model.graph.node) + 1)
    for name, index in first.items():
        change[index] += _bytes_of(name, sizes)
        change[last[name] + 1] -= _bytes_of(name, sizes)
    alive = list(accumulate(change[:-1]))
    at = alive.index(max(alive))
    node = model.graph.node[at]
    total = sum(sizes[name] for name in first if name not in inputs)
    return Activations(total, alive[at], node.name or node.op_type)


def _lifetimes(graph: onnx.GraphProto) -> tuple[dict[str, int], dict[str, int]]:
    """First and last node, by index, at which a value's memory is needed; weights left out."""
    end = len(graph.node) - 1
    weights = {tensor.name for tensor in graph.initializer}
    inputs = {value.name for value in graph.input} - weights
    first, last = dict.fromkeys(inputs, 0), dict.fromkeys(inputs, end)
    # The value whose memory a value lies in: its own, or that of a view's input.
    home = {name: name for name in inputs | weights}
    for index, node in enumerate(graph.node):
        # What outlives the graph (an input) stays at its end.
        last.update(
            {home[name]: max(index, last.get(home[name], 0)) for name in node.input if name}
        )
        for name in filter(None, node.output):
            if node.op_type in VIEWS:
                home[name] = home[node.input[0]]
            else:
                home[name] = name
                first[name] = last[name] = index
    last.update({home[value.name]: end for value in graph.output})
    return first, last


def static_shapes(model: onnx.ModelProto, size: FrameSize, batch: int = 1) -> dict[str, Shape]:
    """The shape of every value in the graph for `batch` frames of `size`."""
    graph = _inferred(model, size, batch)
    shapes: dict[str, Shape] = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    return shapes | {name: shape for name, (shape, _) in _values(graph).items()}


def value_bytes(model: onnx.ModelProto, size: FrameSize, batch: int = 1) -> dict[str, int]:
    """Bytes of the inputs and of what nodes write, for `batch` frames of `size`; no weights."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return {
        name: math.prod(shape) * np.dtype(helper.tensor_dtype_to_np_dtype(kind)).itemsize
        for name, (shape, kind) in _values(_inferred(model, size, batch)).items()
        if name not in weights
    }


def _values(graph: onnx.GraphProto) -> dict[str, tuple[Shape, int]]:
    """Shape and element type of the values whose shapes are known."""
    found = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        # Without a shape not even the rank is known; a scalar has one, without dimensions.
        if kind.HasField("shape") and all(d.HasField("dim_value") for d in kind.shape.dim):
            shape = tuple(dimension.dim_value for dimension in kind.shape.dim)
            found[value.name] = shape, kind.elem_type
    return found


def _inferred(model: onnx.ModelProto, size: FrameSize, batch: int) -> onnx.GraphProto:
    fixed = _without_weights(model)
    wanted = (batch, size.height, size.width, 3)
    for dimension, value in zip(
        fixed.graph.input[0].type.tensor_type.shape.dim, wanted, strict=True
    ):
        dimension.dim_value = value
    # Free output dimensions would be kept by their names.
    for output in fixed.graph.output:
        output.type.tensor_type.ClearField("shape")
    try:
        inferred = shape_inference.infer_shapes(fixed, strict_mode=True, data_prop=True)
    except shape_inference.InferenceError as error:
        raise OnnxFileError(
            f"the shapes of the graph do not fit at {size}: {str(error).splitlines()[0]}",
            "a graph that this package exported",
            "export it again: segdeploy export",
        ) from error
    return inferred.graph


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which weights are inputs: their shapes without their megabytes."""
    light = onnx.ModelProto(ir_version=model.ir_version)
    light.opset_import.extend(model.opset_import)
    light.graph.name = model.graph.name
    light.graph.node.extend(model.graph.node)
    light.graph.input.append(model.graph.input[0])
    light.graph.output.extend(model.graph.output)
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) > _WEIGHT_ELEMENTS or tensor.data_type != TensorProto.INT64:
            info = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            light.graph.input.append(info)
        else:
            light.graph.initializer.append(tensor)
    return light


def macs_of_node(node: onnx.NodeProto, shapes: dict[str, Shape]) -> int:
    """Multiply-accumulates of a node of `COUNTED`; OnnxFileError where a shape is unknown."""
    try:
        first, second = shapes[node.input[0]], shapes[node.input[1]]
        output = shapes[node.output[0]]
    except KeyError as error:
        raise _unknown(f"{error} in {node.op_type} '{node.name}'") from error
    if node.op_type == "Conv":
        # Weights are [out, in / groups, kernel height, kernel width].
        return math.prod(output) * math.prod(second[1:])
    if node.op_type == "Gemm":
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        return math.prod(output) * first[0 if transposed else 1]
    return math.prod(output) * first[-1]


def _bytes_of(name: str, sizes: Mapping[str, int]) -> int:
    if name not in sizes:
        raise _unknown(f"'{name}'")
    return sizes[name]


def _unknown(what: str) -> OnnxFileError:
    return OnnxFileError(
        f"the shape of {what} cannot be worked out",
        "shapes that follow from the input's",
        "count a graph that segdeploy export wrote",
    )
