"""``Shape(image) -> Concat -> Reshape``  ->  ``Reshape`` to sizes that stand in the graph.

Exactness: bits. Only sizes are computed before the run instead of in it; the nodes that touch
pixels stay as they are. A graph of one size can be cut into strips, whose rows are numbers.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from segformer_deploy.errors import SpecError
from segformer_deploy.graph.metadata import checked_spec
from segformer_deploy.spec import SMALLEST_NETWORK_SIDE, FrameSize


def fix_size(model: onnx.ModelProto, size: FrameSize) -> onnx.ModelProto:
    """A copy of `model` for frames of `size`, one at a time.

    Raises:
        OnnxFileError: `model` has not the input, output or metadata of an exported graph.
        SpecError: `size` is smaller than a network takes.
    """
    spec = checked_spec(model)
    if min(size.height, size.width) < SMALLEST_NETWORK_SIDE:
        raise SpecError(f"a network size of {size}", f"{SMALLEST_NETWORK_SIDE} or more each way")
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    _set_shape(graph.input[0], (1, size.height, size.width, 3))
    logits = (1, spec.classes, -(-size.height // 4), -(-size.width // 4))
    _set_shape(graph.output[0], logits)
    _fold_shapes(result)
    return result


def _set_shape(value: onnx.ValueInfoProto, shape: tuple[int, ...]) -> None:
    dims = value.type.tensor_type.shape
    del dims.dim[:]
    for number in shape:
        dims.dim.add(dim_value=number)


def _fold_shapes(model: onnx.ModelProto) -> None:
    graph = model.graph
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*inferred.input, *inferred.output, *inferred.value_info)
    }
    numbers = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if tensor.data_type == onnx.TensorProto.INT64
    }
    kept = []
    for node in graph.node:
        folded = _folded(node, shapes, numbers)
        if folded is None:
            kept.append(node)
            continue
        numbers[node.output[0]] = folded
        graph.initializer.append(numpy_helper.from_array(folded, node.output[0]))
    read = {name for node in kept for name in node.input}
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    del graph.node[:]
    graph.node.extend(copies)
    weights = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(weights)


def _folded(
    node: onnx.NodeProto, shapes: dict[str, list[int]], numbers: dict[str, np.ndarray]
) -> np.ndarray | None:
    """The sizes that `node` computes; None where it computes something else."""
    if node.op_type == "Shape" and all(shapes.get(node.input[0], [0])):
        ends = {one.name: one.i for one in node.attribute}
        return np.array(shapes[node.input[0]][ends.get("start", 0) : ends.get("end")], np.int64)
    if node.op_type == "Concat" and all(name in numbers for name in node.input):
        return np.concatenate([numbers[name] for name in node.input])
    return None
