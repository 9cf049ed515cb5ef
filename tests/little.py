"""A little ONNX network with our borders and arithmetic that a test can redo in NumPy.

logits[c] = sum over RGB of weight[c, rgb] * (mean of the 4x4 block) + bias[c]
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from segformer_deploy.spec import FrameSize, ModelSpec, ResizeRule, default_palette

NAMES = ("red", "green", "blue")
WEIGHT = np.eye(3, dtype=np.float32)
BIAS = np.array([0.0, 0.25, -0.5], np.float32)


def little_spec(**changes: Any) -> ModelSpec:
    fields: dict[str, Any] = {
        "variant": "b0",
        "class_names": NAMES,
        "palette": default_palette(3),
        "resize": ResizeRule.stretch_to(FrameSize(64, 96)),
    }
    return ModelSpec(**{**fields, **changes})


def little_model(
    spec: ModelSpec | None = None, weight: npt.NDArray[np.float32] = WEIGHT
) -> onnx.ModelProto:
    spec = spec or little_spec()
    classes = weight.shape[0]
    bias = BIAS if classes == 3 else np.zeros(classes, np.float32)
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node(
            "AveragePool", ["nchw"], ["mean"], kernel_shape=[4, 4], strides=[4, 4], ceil_mode=1
        ),
        helper.make_node("Conv", ["mean", "weight", "bias"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "little",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["b", "h", "w", 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", classes, "h4", "w4"])],
        [
            numpy_helper.from_array(weight.reshape(classes, 3, 1, 1), "weight"),
            numpy_helper.from_array(bias, "bias"),
        ],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9, producer_name="test"
    )
    helper.set_model_props(model, {"segdeploy": spec.to_json()})
    return model


def write_little(path: Path, spec: ModelSpec | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(little_model(spec).SerializeToString())
    return path


def write_little_outside(path: Path, weights: str = "weights.bin") -> Path:
    """The little network, with its weights in another file."""
    onnx.save_model(
        little_model(),
        str(path),
        save_as_external_data=True,
        location=weights,
        size_threshold=0,
    )
    return path


def little_logits(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """The network's answer for uint8 RGB `[H, W, 3]` (H, W multiples of 4), in float64."""
    height, width, _ = image.shape
    blocks = image.reshape(height // 4, 4, width // 4, 4, 3).astype(np.float64).mean((1, 3))
    answer: npt.NDArray[np.float64] = np.moveaxis(blocks @ WEIGHT.T + BIAS, 2, 0)
    return answer
