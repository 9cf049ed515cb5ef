"""``... -> logits``  ->  ``... -> logits -> (Cast) -> Resize -> ArgMax -> Cast -> class_map``.

Exact, because it is the definition: a class map is the argmax of the logits, enlarged with
bilinear weights (half-pixel centres, edges clamped) to the frame's size. The first of equal
classes wins. The logits are cast to FP32 *before* they are enlarged, so a network in FP16
rounds its logits, never the interpolation. Enlarging the argmax instead (nearest neighbour)
would be cheaper and wrong: it draws stairs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from segformer_deploy.graph.metadata import checked_spec, write_spec

LARGEST_UINT8_CLASSES = 256


def append_class_map(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` that gives ``class_map`` [batch, height, width] instead of ``logits``.

    uint8 for up to 256 classes, int32 above. The ModelSpec in the metadata says so.

    Raises:
        OnnxFileError: `model` has not the input, output or metadata of an exported graph.
    """
    spec = checked_spec(model)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    logits = graph.output[0]
    dtype = TensorProto.UINT8 if spec.classes <= LARGEST_UINT8_CLASSES else TensorProto.INT32
    is_float = logits.type.tensor_type.elem_type == TensorProto.FLOAT

    graph.initializer.append(
        numpy_helper.from_array(np.array([spec.classes], dtype=np.int64), "class_map.classes")
    )
    nodes = []
    if not is_float:
        nodes.append(_node("Cast", ["logits"], "class_map.logits", to=TensorProto.FLOAT))
    source = "logits" if is_float else "class_map.logits"
    nodes += [
        _node("Shape", ["image"], "class_map.batch", start=0, end=1),
        _node("Shape", ["image"], "class_map.frame", start=1, end=3),
        _node(
            "Concat",
            ["class_map.batch", "class_map.frame", "class_map.classes"],
            "class_map.size",
            axis=0,
        ),
        # Channels last: a CPU's resize then walks contiguous classes, and so does the argmax.
        _node("Transpose", [source], "class_map.nhwc", perm=[0, 2, 3, 1]),
        _node(
            "Resize",
            ["class_map.nhwc", "", "", "class_map.size"],
            "class_map.resized",
            mode="linear",
            coordinate_transformation_mode="half_pixel",
        ),
        _node(
            "ArgMax",
            ["class_map.resized"],
            "class_map.index",
            axis=-1,
            keepdims=0,
            select_last_index=0,
        ),
        _node("Cast", ["class_map.index"], "class_map", to=dtype),
    ]
    graph.node.extend(nodes)
    del graph.output[:]
    graph.output.append(
        helper.make_tensor_value_info("class_map", dtype, ["batch", "height", "width"])
    )
    write_spec(result, spec.with_(output="class_map"))
    return result


def _node(op: str, inputs: list[str], name: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs, [name], name=name, **attributes)
