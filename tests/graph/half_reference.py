"""A reference that rounds: an ONNX graph node by node, each in float64, each result to its type."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor
from torch.nn import functional

Array = npt.NDArray[Any]
Attributes = dict[str, Any]


def run_rounding(model: onnx.ModelProto, frames: npt.NDArray[np.uint8]) -> dict[str, Array]:
    """Every value of `model` for `frames`, in the type that the graph gives it."""
    values: dict[str, Array] = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    values["image"] = frames
    for node in model.graph.node:
        values.update(zip(node.output, run_node(node, values), strict=True))
    return values


def run_node(node: onnx.NodeProto, values: Mapping[str, Array]) -> list[Array]:
    """What one node gives for the inputs that `values` holds."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    inputs = [values[name] if name else None for name in node.input]
    with np.errstate(over="ignore", invalid="ignore"):
        return _results(node.op_type, inputs, attributes)


def _results(op: str, inputs: list[Any], attributes: Attributes) -> list[Array]:
    first = inputs[0]
    if op == "Shape":
        return [np.array(first.shape[attributes.get("start", 0) : attributes.get("end")], np.int64)]
    if op == "Cast":
        return [first.astype(helper.tensor_dtype_to_np_dtype(attributes["to"]))]
    if op == "Concat":
        return [np.concatenate(inputs, attributes["axis"])]
    if op == "Transpose":
        return [first.transpose(attributes["perm"])]
    if op == "Reshape":
        kept = [first.shape[i] if n == 0 else n for i, n in enumerate(inputs[1])]
        return [first.reshape(kept)]
    if op == "Split":
        return list(np.split(first, attributes["num_outputs"], attributes["axis"]))
    if op == "QuantizeLinear":
        limits = np.iinfo(inputs[2].dtype)
        # The quotient is rounded to an integer at once, never to FP16 in between.
        steps = np.rint(first.astype(np.float32) / inputs[1].astype(np.float32)) + inputs[2]
        return [np.clip(steps, limits.min, limits.max).astype(inputs[2].dtype)]
    if op == "DequantizeLinear":
        shape = [1] * first.ndim
        if inputs[1].ndim:
            shape[attributes["axis"]] = -1
        steps = first.astype(np.float64) - inputs[2].astype(np.float64).reshape(shape)
        exact = steps * inputs[1].astype(np.float64).reshape(shape)
        return [exact.astype(inputs[1].dtype)]
    tensors = [None if one is None or one.dtype == np.int64 else _double(one) for one in inputs]
    exact = _ARITHMETIC[op](tensors, inputs, attributes)
    return [exact.numpy().astype(first.dtype)]


def _double(array: Array) -> Tensor:
    return torch.from_numpy(array.astype(np.float64))


def _conv(tensors: list[Any], _inputs: list[Any], attributes: Attributes) -> Tensor:
    return functional.conv2d(
        *tensors,
        stride=attributes["strides"],
        padding=attributes["pads"][:2],
        groups=attributes["group"],
    )


def _norm(tensors: list[Any], _inputs: list[Any], attributes: Attributes) -> Tensor:
    value, gain, shift = tensors
    return functional.layer_norm(value, gain.shape, gain, shift, attributes["epsilon"])


def _resize(tensors: list[Any], inputs: list[Any], _attributes: Attributes) -> Tensor:
    image = tensors[0].permute(0, 3, 1, 2)
    size = [int(n) for n in inputs[3][1:3]]
    return functional.interpolate(image, size, mode="bilinear").permute(0, 2, 3, 1).contiguous()


_ARITHMETIC: dict[str, Callable[[list[Any], list[Any], Attributes], Tensor]] = {
    "Add": lambda t, _i, _a: t[0] + t[1],
    "Sub": lambda t, _i, _a: t[0] - t[1],
    "MatMul": lambda t, _i, _a: t[0] @ t[1],
    "Relu": lambda t, _i, _a: t[0].relu(),
    "Gelu": lambda t, _i, _a: functional.gelu(t[0]),
    "Softmax": lambda t, _i, _a: t[0].softmax(-1),
    "Conv": _conv,
    "LayerNormalization": _norm,
    "Resize": _resize,
}
