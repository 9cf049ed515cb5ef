"""The decode heads: FCN, PSPNet, DeepLabV3+; 512 channels each, from a backbone's stages.

Each takes (fine at 1/4, auxiliary, last at 1/8) and gives logits. Dropout is the identity at
inference and left out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rivals.parts import Unit, enlarged, separable

CHANNELS = 512
Stages = tuple[Tensor, Tensor, Tensor]


class FcnHead(nn.Module):
    """Long et al. 2015, as mmsegmentation has it: two 3x3, the input concatenated, one more 3x3.

    Logits at 1/8.
    """

    def __init__(self, classes: int, channels_in: int = 320) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            Unit(channels_in, CHANNELS, 3), Unit(CHANNELS, CHANNELS, 3)
        )
        self.joined = Unit(channels_in + CHANNELS, CHANNELS, 3)
        self.classify = nn.Conv2d(CHANNELS, classes, 1)

    def forward(self, stages: Stages) -> Tensor:
        last = stages[2]
        both = torch.cat([last, self.convolutions(last)], dim=1)
        answer: Tensor = self.classify(self.joined(both))
        return answer


def averaging(length: int, cells: int) -> Tensor:
    """[cells, length]: adaptive average pooling of one axis as a matrix; cells may overlap.

    Cell i averages floor(i * length / cells) to ceil((i + 1) * length / cells), exclusive. As two
    products it exports at any size; the operator does not where the sides do not divide.
    """
    matrix = torch.zeros(cells, length)
    for cell in range(cells):
        begin, end = cell * length // cells, -(-(cell + 1) * length // cells)
        matrix[cell, begin:end] = 1 / (end - begin)
    return matrix


class PspHead(nn.Module):
    """Zhao et al. 2017: means over 1, 2x2, 3x3 and 6x6 cells beside the map, then a 3x3.

    Logits at 1/8.
    """

    CELLS = (1, 2, 3, 6)

    def __init__(self, classes: int, channels_in: int = 320) -> None:
        super().__init__()
        self.levels = nn.ModuleList(Unit(channels_in, CHANNELS) for _ in self.CELLS)
        self.bottleneck = Unit(channels_in + len(self.CELLS) * CHANNELS, CHANNELS, 3)
        self.classify = nn.Conv2d(CHANNELS, classes, 1)

    def forward(self, stages: Stages) -> Tensor:
        last = stages[2]
        height, width = last.shape[2:]
        maps = [last]
        for cells, level in zip(self.CELLS, self.levels, strict=True):
            rows, columns = averaging(height, cells), averaging(width, cells).T
            pooled = rows.to(last.device) @ last @ columns.to(last.device)
            maps.append(enlarged(level(pooled), (height, width)))
        answer: Tensor = self.classify(self.bottleneck(torch.cat(maps, dim=1)))
        return answer


class DeepLabV3PlusHead(nn.Module):
    """Chen et al. 2018: atrous pyramid of separable convolutions, joined with the fine stage.

    Logits at 1/4.
    """

    DILATIONS = (12, 24, 36)
    FINE = 48

    def __init__(self, classes: int, channels_in: int = 320, fine_in: int = 24) -> None:
        super().__init__()
        self.whole = Unit(channels_in, CHANNELS)
        self.point = Unit(channels_in, CHANNELS)
        self.pyramid = nn.ModuleList(separable(channels_in, CHANNELS, d) for d in self.DILATIONS)
        self.bottleneck = Unit((2 + len(self.DILATIONS)) * CHANNELS, CHANNELS, 3)
        self.fine = Unit(fine_in, self.FINE)
        self.decode = nn.Sequential(
            separable(CHANNELS + self.FINE, CHANNELS), separable(CHANNELS, CHANNELS)
        )
        self.classify = nn.Conv2d(CHANNELS, classes, 1)

    def forward(self, stages: Stages) -> Tensor:
        fine, _, last = stages
        whole = self.whole(last.mean(dim=(2, 3), keepdim=True))
        maps = [enlarged(whole, last.shape[2:]), self.point(last)]
        maps += [level(last) for level in self.pyramid]
        coarse = enlarged(self.bottleneck(torch.cat(maps, dim=1)), fine.shape[2:])
        answer: Tensor = self.classify(self.decode(torch.cat([coarse, self.fine(fine)], dim=1)))
        return answer


class AuxiliaryHead(nn.Module):
    """Training's second head on stage 5; published parameter counts hold it, inference does not."""

    def __init__(self, classes: int, channels_in: int = 96, channels: int = 256) -> None:
        super().__init__()
        self.convolution = Unit(channels_in, channels, 3)
        self.classify = nn.Conv2d(channels, classes, 1)

    def forward(self, stages: Stages) -> Tensor:
        answer: Tensor = self.classify(self.convolution(stages[1]))
        return answer
