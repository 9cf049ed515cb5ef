"""Multiply-accumulates and node counts of a graph, from its shapes alone; nothing is run."""

from __future__ import annotations

import math
from collections import Counter

import onnx
from onnx import TensorProto, helper, shape_inference

from segformer_deploy.errors import OnnxFileError
from segformer_deploy.spec import FrameSize

Shape = tuple[int, ...]
COUNTED = ("Conv", "MatMul", "Gemm")
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
            totals[node.op_type] += _macs_of_node(node, shapes)
    return dict(totals.most_common())


def node_counts(model: onnx.ModelProto) -> dict[str, int]:
    """Number of nodes per operator type, most frequent first."""
    return dict(Counter(node.op_type for node in model.graph.node).most_common())


def static_shapes(model: onnx.ModelProto, size: FrameSize, batch: int = 1) -> dict[str, Shape]:
    """The shape of every value in the graph for `batch` frames of `size`."""
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
    graph = inferred.graph
    shapes: dict[str, Shape] = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dimensions = value.type.tensor_type.shape.dim
        if all(dimension.HasField("dim_value") for dimension in dimensions):
            shapes[value.name] = tuple(dimension.dim_value for dimension in dimensions)
    return shapes


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


def _macs_of_node(node: onnx.NodeProto, shapes: dict[str, Shape]) -> int:
    try:
        first, second = shapes[node.input[0]], shapes[node.input[1]]
        output = shapes[node.output[0]]
    except KeyError as error:
        raise OnnxFileError(
            f"the shape of {error} in {node.op_type} '{node.name}' cannot be worked out",
            "shapes that follow from the input's",
            "count a graph that segdeploy export wrote",
        ) from error
    if node.op_type == "Conv":
        # Weights are [out, in / groups, kernel height, kernel width].
        return math.prod(output) * math.prod(second[1:])
    if node.op_type == "Gemm":
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        return math.prod(output) * first[0 if transposed else 1]
    return math.prod(output) * first[-1]
