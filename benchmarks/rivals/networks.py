"""The rivals by name, what the paper's Table 2 says of them, and the counts that prove them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from rivals.heads import AuxiliaryHead, DeepLabV3PlusHead, FcnHead, PspHead
from rivals.mobilenet import MobileNetV2
from rivals.setr import Setr
from segformer_deploy.model.segformer import Segformer
from segformer_deploy.model.variants import VARIANTS
from segformer_deploy.spec import MEAN_IMAGENET, STD_IMAGENET


@dataclass(frozen=True)
class Published:
    """Table 2 of the SegFormer paper; frames per second on its GPU, mIoU in percent.

    Parameters in millions, multiply-accumulates in 1e9 at 512x512 with ADE20K's 150 classes.
    """

    parameters_m: float
    gmac: float
    fps_ade20k: float
    miou_ade20k: float
    fps_cityscapes: float
    miou_cityscapes: float


PUBLISHED = {
    "fcn": Published(9.8, 39.6, 64.4, 19.7, 14.2, 61.5),
    "pspnet": Published(13.7, 52.9, 57.7, 29.6, 11.2, 70.2),
    "deeplabv3plus": Published(15.4, 69.4, 43.1, 34.0, 8.4, 75.2),
    "b0": Published(3.8, 8.4, 50.5, 37.4, 15.2, 76.2),
}


class EncoderDecoder(nn.Module):
    """Backbone and head; the auxiliary head takes no part in `forward`."""

    def __init__(self, head: nn.Module, classes: int) -> None:
        super().__init__()
        self.backbone, self.head = MobileNetV2(), head
        self.auxiliary = AuxiliaryHead(classes)

    def forward(self, image: Tensor) -> Tensor:
        answer: Tensor = self.head(self.backbone(image))
        return answer


NETWORKS: dict[str, Callable[[int, int], nn.Module]] = {
    "fcn": lambda classes, _: EncoderDecoder(FcnHead(classes), classes),
    "pspnet": lambda classes, _: EncoderDecoder(PspHead(classes), classes),
    "deeplabv3plus": lambda classes, _: EncoderDecoder(DeepLabV3PlusHead(classes), classes),
    "setr": Setr,
    "b0": lambda classes, _: Segformer(replace(VARIANTS["b0"], classes=classes)),
}
"""Name -> network of so many classes for square pictures of that side, which SETR alone needs."""


class FromPixels(nn.Module):
    """uint8 frames [B, H, W, 3], RGB -> logits, or with `size` the class map [B, *size].

    The same first step for every network: cast, to [B, 3, H, W], (x - mean) / std.
    """

    def __init__(self, network: nn.Module, size: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.network, self.size = network, size
        self.register_buffer("mean", 255 * torch.tensor(MEAN_IMAGENET).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(STD_IMAGENET).view(1, 3, 1, 1))

    def forward(self, image: Tensor) -> Any:
        pixels = (image.permute(0, 3, 1, 2).float() - self.mean) / self.std
        logits = self.network(pixels)
        if self.size is None:
            return logits
        large = nn.functional.interpolate(
            logits, size=self.size, mode="bilinear", align_corners=False
        )
        return large.argmax(dim=1)


def parameters_of(network: nn.Module, *, inference: bool = False) -> int:
    """Learned numbers; with `inference` without the head that only training runs."""
    names = dict(network.named_parameters())
    kept = [p for name, p in names.items() if not (inference and name.startswith("auxiliary."))]
    return sum(parameter.numel() for parameter in kept)


def macs_of(network: nn.Module, size: int = 512) -> int:
    """Multiply-accumulates of convolutions and products for one square picture; none is computed.

    The network must be on the device ``meta``.
    """
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.empty(1, 3, size, size, device="meta"))
    return int(counter.get_total_flops()) // 2


def network_on_meta(name: str, classes: int = 150, size: int = 512) -> nn.Module:
    """Shapes without numbers: made and counted in milliseconds."""
    with torch.device("meta"):
        return NETWORKS[name](classes, size).eval()
