"""MobileNetV2 (Sandler et al. 2018, table 2) dilated to an output stride of 8.

Without the last 1x1 to 1280 channels, which classification needs. Where a stage gives up its
stride (the fourth and the sixth), what follows is dilated instead: 2 from the fourth on, 4 from the
sixth on, in the first block of each stage, as mmsegmentation has it.
"""

from __future__ import annotations

from torch import Tensor, nn

from rivals.parts import Unit

STAGES = (
    # expansion, channels, blocks, stride, dilation of the first block
    (1, 16, 1, 1, 1),
    (6, 24, 2, 2, 1),
    (6, 32, 3, 2, 1),
    (6, 64, 4, 1, 2),
    (6, 96, 3, 1, 2),
    (6, 160, 3, 1, 4),
    (6, 320, 1, 1, 4),
)
FINE, AUXILIARY, LAST = 1, 4, 6
"""Stages that the heads read: 24 channels at 1/4, 96 and 320 at 1/8."""


class Residual(nn.Module):
    """Inverted residual: 1x1 up, depthwise 3x3, 1x1 down without an activation."""

    def __init__(
        self, channels_in: int, channels: int, expansion: int, stride: int, dilation: int
    ) -> None:
        super().__init__()
        hidden = channels_in * expansion
        layers = [] if expansion == 1 else [Unit(channels_in, hidden, activation=nn.ReLU6)]
        layers.append(
            Unit(
                hidden,
                hidden,
                3,
                stride=stride,
                dilation=dilation,
                depthwise=True,
                activation=nn.ReLU6,
            )
        )
        layers.append(Unit(hidden, channels, activation=None))
        self.layers = nn.Sequential(*layers)
        self.adds = stride == 1 and channels_in == channels

    def forward(self, values: Tensor) -> Tensor:
        answer: Tensor = self.layers(values)
        return values + answer if self.adds else answer


class MobileNetV2(nn.Module):
    """[B, 3, H, W] -> stages 2, 5 and 7: 24 channels at 1/4, 96 at 1/8, 320 at 1/8."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Unit(3, 32, 3, stride=2, activation=nn.ReLU6)
        self.stages = nn.ModuleList()
        before = 32
        for expansion, channels, blocks, stride, dilation in STAGES:
            stage = nn.Sequential()
            for index in range(blocks):
                begins = index == 0
                stage.append(
                    Residual(
                        before,
                        channels,
                        expansion,
                        stride if begins else 1,
                        dilation if begins else 1,
                    )
                )
                before = channels
            self.stages.append(stage)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        values = self.first(image)
        found = []
        for stage in self.stages:
            values = stage(values)
            found.append(values)
        return found[FINE], found[AUXILIARY], found[LAST]
