"""What a SegFormer is made of, and the paper's six sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from segformer_deploy.errors import CheckpointError

Four = tuple[int, int, int, int]


@dataclass(frozen=True)
class SegformerConfig:
    """What a SegFormer is made of; a tuple holds one value per stage.

    Attributes:
        widths: channels C of the stages.
        depths: blocks per stage.
        head_channels: channels of the decode head.
        classes: logit channels.
        heads: attention heads.
        reductions: kernel and stride of the sequence reduction, the paper's sqrt(R).
        mlp_ratio: expansion of the Mix-FFN.
        patch_sizes, strides: of the overlap patch embeddings.
        block_eps: LayerNorm epsilon in blocks and at stage ends (published code 1e-6,
            transformers 1e-5).
        embed_eps: LayerNorm epsilon after patch embedding and sequence reduction.
        batch_norm_eps: epsilon of the decode head's BatchNorm.
        stage_activation: ReLU after each stage's projection in the decode head, before the
            upsampling; mmsegmentation 1.x has it, the authors and transformers do not.

    The activation is the exact (erf) GELU, as in every published checkpoint.
    """

    widths: Four
    depths: Four
    head_channels: int
    classes: int = 150
    heads: Four = (1, 2, 5, 8)
    reductions: Four = (8, 4, 2, 1)
    mlp_ratio: int = 4
    patch_sizes: Four = (7, 3, 3, 3)
    strides: Four = (4, 2, 2, 2)
    block_eps: float = 1e-5
    embed_eps: float = 1e-5
    batch_norm_eps: float = 1e-5
    stage_activation: bool = False

    def __post_init__(self) -> None:
        for width, heads in zip(self.widths, self.heads, strict=True):
            if width % heads:
                raise CheckpointError(
                    f"a stage of {width} channels with {heads} attention heads",
                    "channels that the heads divide evenly",
                )
        smallest = min(*self.widths, *self.depths, *self.heads, self.head_channels, self.classes)
        if smallest < 1:
            raise CheckpointError(f"a size of {smallest} in {self}", "sizes of at least 1")


VARIANTS: Mapping[str, SegformerConfig] = {
    "b0": SegformerConfig((32, 64, 160, 256), (2, 2, 2, 2), 256),
    "b1": SegformerConfig((64, 128, 320, 512), (2, 2, 2, 2), 256),
    "b2": SegformerConfig((64, 128, 320, 512), (3, 4, 6, 3), 768),
    "b3": SegformerConfig((64, 128, 320, 512), (3, 4, 18, 3), 768),
    "b4": SegformerConfig((64, 128, 320, 512), (3, 8, 27, 3), 768),
    "b5": SegformerConfig((64, 128, 320, 512), (3, 6, 40, 3), 768),
}
"""The paper's six sizes (its Table 6), with ADE20K's 150 classes."""


def config_for(
    variant: str, classes: int, *, block_eps: float = 1e-5, embed_eps: float = 1e-5
) -> SegformerConfig:
    """The configuration of `variant` (``b0`` to ``b5``); CheckpointError for another name."""
    if variant not in VARIANTS:
        raise CheckpointError(f"variant '{variant}'", "one of " + ", ".join(VARIANTS))
    return replace(VARIANTS[variant], classes=classes, block_eps=block_eps, embed_eps=embed_eps)
