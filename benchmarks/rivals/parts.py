"""What all rivals are made of: convolution + batch norm + activation, and bilinear upsampling."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional


class Unit(nn.Sequential):
    """Convolution without bias -> batch norm -> activation (None: none); size / stride, ceil'd.

    Args:
        kernel: side, odd; padding keeps the size at stride 1 whatever the dilation.
        depthwise: one filter per channel.
    """

    def __init__(
        self,
        channels_in: int,
        channels: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        dilation: int = 1,
        depthwise: bool = False,
        activation: type[nn.Module] | None = nn.ReLU,
    ) -> None:
        layers: list[Any] = [
            nn.Conv2d(
                channels_in,
                channels,
                kernel,
                stride=stride,
                padding=dilation * (kernel // 2),
                dilation=dilation,
                groups=channels_in if depthwise else 1,
                bias=False,
            ),
            nn.BatchNorm2d(channels),
        ]
        if activation is not None:
            layers.append(activation(inplace=True))
        super().__init__(*layers)


def separable(channels_in: int, channels: int, dilation: int = 1) -> nn.Sequential:
    """Depthwise 3x3, then 1x1, each with batch norm and ReLU (DeepLabV3+, section 3.1)."""
    return nn.Sequential(
        Unit(channels_in, channels_in, 3, dilation=dilation, depthwise=True),
        Unit(channels_in, channels),
    )


def enlarged(values: Tensor, size: Any) -> Tensor:
    """Bilinear to `size` (h, w), half-pixel centres, as mmsegmentation's heads do."""
    return functional.interpolate(values, size=size, mode="bilinear", align_corners=False)
