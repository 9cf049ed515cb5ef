"""An exported graph, FP32 or INT8, as a PyTorch function that has gradients.

Each node is carried out as its definition says, in FP32. A Q/DQ pair rounds to the file's grid;
its gradient is that of the identity inside the grid's range and 0 outside (straight-through), since
the derivative of rounding is 0 almost everywhere and says nothing of what a value depends on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor
from torch.nn import functional

Node = tuple[Callable[..., Any], list[str], list[str], dict[str, Any]]


class TorchGraph:
    """Runs `model` on a frame; the operators are those of our own exports."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self._constants = {
            tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy())
            for tensor in graph.initializer
        }
        self._nodes: list[Node] = [
            (
                OPERATORS[node.op_type],
                list(node.input),
                list(node.output),
                {one.name: helper.get_attribute_value(one) for one in node.attribute},
            )
            for node in graph.node
        ]

    def __call__(self, image: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """The values `names` for `image`: float32 [B, H, W, 3], RGB, 0 to 255."""
        values: dict[str, Any] = {**self._constants, "image": image, "": None}
        for operator, inputs, outputs, attributes in self._nodes:
            answer = operator(*(values[name] for name in inputs), **attributes)
            found = answer if isinstance(answer, tuple) else (answer,)
            values.update(zip(outputs, found, strict=True))
        return {name: values[name] for name in names}


def _shape(value: Tensor, start: int = 0, end: int | None = None) -> Tensor:
    return torch.tensor(value.shape[start:end])


def _reshape(value: Tensor, shape: Tensor, **_: Any) -> Tensor:
    sides = [value.shape[i] if side == 0 else side for i, side in enumerate(shape.tolist())]
    return value.reshape(sides)


def _split(value: Tensor, sizes: Tensor | None = None, axis: int = 0, **_: Any) -> Any:
    if sizes is None:
        return tuple(value.chunk(2, axis))
    return tuple(value.split(sizes.tolist(), axis))


def _convolution(
    value: Tensor, weight: Tensor, bias: Tensor | None = None, **attributes: Any
) -> Tensor:
    return functional.conv2d(
        value,
        weight,
        bias,
        stride=attributes["strides"],
        padding=attributes["pads"][:2],
        groups=attributes["group"],
    )


def _norm(value: Tensor, weight: Tensor, bias: Tensor, axis: int, epsilon: float) -> Tensor:
    assert axis == -1
    return functional.layer_norm(value, weight.shape, weight, bias, epsilon)


def _resize(value: Tensor, _: None, __: None, shape: Tensor, **attributes: Any) -> Tensor:
    """Channels last, as the decode head has them; half-pixel centres."""
    assert attributes["mode"] == b"linear"
    large = functional.interpolate(
        value.permute(0, 3, 1, 2), size=shape[1:3].tolist(), mode="bilinear", align_corners=False
    )
    return large.permute(0, 2, 3, 1)


class _OnGrid(torch.autograd.Function):
    """Divide, round half to even, saturate, multiply: as ONNX defines the pair."""

    @staticmethod
    def forward(context: Any, value: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        limits, shift = torch.iinfo(zero.dtype), int(zero)
        steps = torch.round(value / scale)
        kept = steps.clamp(limits.min - shift, limits.max - shift)
        context.save_for_backward(kept == steps)
        return kept * scale

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (inside,) = context.saved_tensors
        return gradients[0] * inside, None, None


def _quantize(value: Tensor, scale: Tensor, zero: Tensor) -> Any:
    """The value on the grid, not yet its number: what `_dequantize` then gives."""
    return _OnGrid.apply(value, scale, zero)


def _dequantize(value: Tensor, scale: Tensor, zero: Tensor, axis: int = 1) -> Tensor:
    if value.is_floating_point():
        return value
    sides = [-1 if index == axis else 1 for index in range(value.ndim)]
    return (value.float() - zero.float().reshape(sides)) * scale.reshape(sides)


OPERATORS: dict[str, Callable[..., Any]] = {
    "Add": torch.add,
    "Cast": lambda value, to: value.float(),
    "Concat": lambda *values, axis: torch.cat(values, axis),
    "Conv": _convolution,
    "DequantizeLinear": _dequantize,
    "Gelu": lambda value, approximate: functional.gelu(value),
    "LayerNormalization": _norm,
    "MatMul": torch.matmul,
    "QuantizeLinear": _quantize,
    "Relu": torch.relu,
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": _shape,
    "Softmax": lambda value, axis: value.softmax(axis),
    "Split": _split,
    "Sub": torch.sub,
    "Transpose": lambda value, perm: value.permute(*perm),
}
