"""The steps from the published network to the deploy form, one function each.

A fold multiplies constants together in float64 and rounds once. Each step says which kind of
exact it is: "bits" (difference 0) or "algebra" (equal in real numbers; in floating point
within a stated multiple of the type's epsilon):

=====================  =======  ==========================================================
`frame_convolution`    algebra  1/255 and 1/std go into the first convolution
`scaled_query`         algebra  1/sqrt(d) goes into Wq and bq ("bits" for heads of 64)
`joined_key_value`     bits     one projection makes keys and values
`bias_after_softmax`   algebra  keys and values need no bias
`folded_head`          algebra  linear_c x slice of the fuse x BatchNorm, at the stage's size
=====================  =======  ==========================================================

Tolerances for "algebra" are tested: a few hundred epsilons of the largest value in float32,
and 1e-12 in float64, where rounding can no longer hide a wrong step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Affine = tuple[Tensor, Tensor]
"""A weight and its bias."""


def frame_convolution(weight: Tensor, std: Sequence[float]) -> Tensor:
    """Algebra: conv((x/255 - mean)/std, W) = conv(x - 255*mean, W/(255*std))."""
    return weight / (255 * torch.tensor(std, dtype=weight.dtype)).reshape(1, 3, 1, 1)


def scaled_query(query: Affine, head_width: int) -> Affine:
    """Algebra: (x Wq + bq) k / sqrt(d) = (x (Wq/sqrt(d)) + bq/sqrt(d)) k.

    For heads of 64 the factor is 1/8, a power of two: there it is exact to the bit.
    Also what fused attention kernels and FP16's range ask for.
    """
    return query[0] / head_width**0.5, query[1] / head_width**0.5


def joined_key_value(key: Tensor, value: Tensor) -> Tensor:
    """Bits: both read the same sequence, so their weights stand in one matrix [2C, C]."""
    return torch.cat([key, value])


def bias_after_softmax(value_bias: Tensor, output: Affine) -> Affine:
    """Algebra: the output projection with the value's bias in its own; the key's is dropped.

    A key's bias adds the same number to all scores of one query, which softmax cancels.
    Softmax's rows sum to one, so a value's bias passes through them unchanged:
    (P (v + bv)) Wo + bo = (P v) Wo + (bv Wo + bo).
    """
    weight, bias = output
    return weight, bias + weight @ value_bias


@dataclass(frozen=True)
class FoldedHead:
    """Per stage [head_channels, C]; one bias for their sum."""

    weights: list[Tensor]
    bias: Tensor


def folded_head(fuse: Tensor, scale: Tensor, shift: Tensor, stages: Sequence[Affine]) -> FoldedHead:
    """Algebra: resizing mixes pixels, a projection channels, both linear, so they commute.

    BatchNorm(fuse(concat(resize(linear_c(x_s))))) = sum over s of resize(x_s W_s) + bias with
    W_s = scale * fuse_s * linear_c_s. Bilinear weights sum to one, so a constant passes
    through the resize and all biases join in one.

    Args:
        fuse: [head_channels, 4*head_channels], stage 4 first.
        scale, shift: BatchNorm as y = scale*x + shift, [head_channels] each.
        stages: linear_c, stage 1 first: [head_channels, C] and [head_channels] each.
    """
    slices = (scale[:, None] * fuse).chunk(4, dim=1)[::-1]
    bias = shift.clone()
    for part, (_, stage_bias) in zip(slices, stages, strict=True):
        bias += part @ stage_bias
    weights = [part @ weight for part, (weight, _) in zip(slices, stages, strict=True)]
    return FoldedHead(weights, bias)
