"""The deploy form's layers: constants without gradients, laid out as ONNX takes them."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class Projection(nn.Module):
    """x @ weight + bias over the last axis; weight [in, out], as ONNX's MatMul takes it."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("weight", weight.T.contiguous())
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.weight
        return y if self.bias is None else y + self.bias


class Convolution(nn.Module):
    """A convolution over [B, C, h, w]."""

    weight: Tensor
    bias: Tensor

    def __init__(
        self, weight: Tensor, bias: Tensor, stride: int = 1, padding: int = 0, groups: int = 1
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.stride, self.padding, self.groups = stride, padding, groups

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(
            x, self.weight, self.bias, self.stride, self.padding, 1, self.groups
        )


class Norm(nn.Module):
    """LayerNorm over the last axis."""

    weight: Tensor
    bias: Tensor

    def __init__(self, source: nn.LayerNorm) -> None:
        super().__init__()
        self.register_buffer("weight", source.weight.detach())
        self.register_buffer("bias", source.bias.detach())
        self.eps = source.eps

    def forward(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)


def channels_first(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


def channels_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)
