"""``FP16 node -> y``  ->  ``FP32 node -> Cast(FP16) -> Cast(FP32) -> y``: FP16, seen on a CPU.

ONNX Runtime's CPU provider computes FP16 nodes in FP32 and drops the casts between them, so it
shows nothing of what FP16 does. Here every result is really rounded to FP16 and every weight has
been. It is what a GPU does that accumulates in FP32, which all of NVIDIA's tensor cores do;
only the order of additions differs.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from segformer_deploy.graph.metadata import values_of_type

_HALF, _FULL = int(TensorProto.FLOAT16), int(TensorProto.FLOAT)


def round_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` in FP32 that rounds to FP16 wherever `model` holds an FP16 value.

    The output keeps its name; it is FP32, rounded where `model` gives FP16.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    half = set(values_of_type(model, _HALF))
    for tensor in graph.initializer:
        if tensor.data_type == _HALF:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    nodes = []
    for node in model.graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        nodes += _rounded(copy, half)
    del graph.node[:]
    graph.node.extend(nodes)
    graph.output[0].type.tensor_type.elem_type = _FULL
    return result


def _rounded(node: onnx.NodeProto, half: set[str]) -> list[onnx.NodeProto]:
    if node.op_type == "Cast":
        to = next(a for a in node.attribute if a.name == "to")
        if to.i == _HALF:
            to.i = _FULL
    after = []
    for index, name in enumerate(node.output):
        if name in half:
            node.output[index] = f"{name}.unrounded"
            after += [
                _cast(f"{name}.unrounded", f"{name}.half", _HALF),
                _cast(f"{name}.half", name, _FULL),
            ]
    return [node, *after]


def _cast(source: str, target: str, to: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"{source}.cast", to=to)
