"""SegFormer as the paper publishes it: plain PyTorch, parameter names as checkpoints carry them.

Xie et al., "SegFormer: Simple and Efficient Design for Semantic Segmentation with
Transformers", NeurIPS 2021 (arXiv 2105.15203). Four stages of overlap patch embedding and
blocks of efficient self-attention and Mix-FFN, then the all-MLP decode head. There is no
positional encoding: any height and width go in.

Shapes: B batch, h and w a stage's height and width, N = h*w tokens, C the stage's channels.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from segformer_deploy.model.variants import VARIANTS, Four, SegformerConfig, config_for
from segformer_deploy.spec import FrameSize

Grid = tuple[int, int]
"""Height and width of a stage, in tokens."""

__all__ = [
    "VARIANTS",
    "Four",
    "Segformer",
    "SegformerConfig",
    "config_for",
    "macs_of_model",
    "random_segformer",
]


def tokens_from_map(image: Tensor) -> Tensor:
    """[B, C, h, w] -> [B, h*w, C]."""
    return image.flatten(2).transpose(1, 2)


def map_from_tokens(tokens: Tensor, grid: Grid) -> Tensor:
    """[B, h*w, C] -> [B, C, h, w]."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], *grid)


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """[B, N, C] -> [B, heads, N, C/heads]."""
    batch, length, channels = tokens.shape
    return tokens.reshape(batch, length, heads, channels // heads).transpose(1, 2)


class PatchEmbedding(nn.Module):
    """Overlapped patch merging (section 3.1): strided convolution, then LayerNorm."""

    def __init__(self, inputs: int, width: int, patch: int, stride: int, eps: float) -> None:
        super().__init__()
        self.proj = nn.Conv2d(inputs, width, patch, stride, padding=patch // 2)
        self.layer_norm = nn.LayerNorm(width, eps)

    def forward(self, image: Tensor) -> tuple[Tensor, Grid]:
        image = self.proj(image)
        return self.layer_norm(tokens_from_map(image)), (image.shape[2], image.shape[3])


class SelfAttention(nn.Module):
    """Efficient self-attention (equations 1 and 2): keys and values from a reduced sequence."""

    def __init__(self, width: int, heads: int, reduction: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.reduction = reduction
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        if reduction > 1:
            self.sr = nn.Conv2d(width, width, reduction, reduction)
            self.layer_norm = nn.LayerNorm(width, eps)

    def reduced(self, tokens: Tensor, grid: Grid) -> Tensor:
        """The sequence that keys and values are made from: [B, N, C] -> [B, N/R, C]."""
        if self.reduction == 1:
            return tokens
        image = self.sr(map_from_tokens(tokens, grid))
        return cast(Tensor, self.layer_norm(tokens_from_map(image)))

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        source = self.reduced(tokens, grid)
        query = split_heads(self.query(tokens), self.heads)
        key = split_heads(self.key(source), self.heads)
        value = split_heads(self.value(source), self.heads)
        scores = query @ key.transpose(2, 3) / query.shape[3] ** 0.5
        mixed = scores.softmax(dim=3) @ value
        return cast(Tensor, mixed.transpose(1, 2).reshape(tokens.shape))


class AttentionOutput(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)


class Attention(nn.Module):
    """Self-attention and its output projection."""

    def __init__(self, width: int, heads: int, reduction: int, eps: float) -> None:
        super().__init__()
        self.self = SelfAttention(width, heads, reduction, eps)
        self.output = AttentionOutput(width)

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        return cast(Tensor, self.output.dense(self.self(tokens, grid)))


class DepthwiseConv(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 3, padding=1, groups=width)


class MixFFN(nn.Module):
    """Mix-FFN (equation 3): the zero padding of its 3x3 convolution is what tells position."""

    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        self.dense1 = nn.Linear(width, ratio * width)
        self.dwconv = DepthwiseConv(ratio * width)
        self.dense2 = nn.Linear(ratio * width, width)

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        image = self.dwconv.dwconv(map_from_tokens(self.dense1(tokens), grid))
        return cast(Tensor, self.dense2(functional.gelu(tokens_from_map(image))))


class Block(nn.Module):
    """Pre-norm transformer block: attention, then Mix-FFN, each added to its input."""

    def __init__(self, config: SegformerConfig, stage: int) -> None:
        super().__init__()
        width = config.widths[stage]
        self.layer_norm_1 = nn.LayerNorm(width, config.block_eps)
        self.attention = Attention(
            width, config.heads[stage], config.reductions[stage], config.embed_eps
        )
        self.layer_norm_2 = nn.LayerNorm(width, config.block_eps)
        self.mlp = MixFFN(width, config.mlp_ratio)

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        tokens = tokens + self.attention(self.layer_norm_1(tokens), grid)
        return cast(Tensor, tokens + self.mlp(self.layer_norm_2(tokens), grid))


class Encoder(nn.Module):
    """The four stages; gives their outputs, finest first."""

    def __init__(self, config: SegformerConfig) -> None:
        super().__init__()
        inputs = (3, *config.widths[:3])
        self.patch_embeddings = nn.ModuleList(
            PatchEmbedding(*sizes, config.embed_eps)
            for sizes in zip(inputs, config.widths, config.patch_sizes, config.strides, strict=True)
        )
        self.block = nn.ModuleList(
            nn.ModuleList(Block(config, stage) for _ in range(depth))
            for stage, depth in enumerate(config.depths)
        )
        self.layer_norm = nn.ModuleList(nn.LayerNorm(w, config.block_eps) for w in config.widths)

    def forward(self, image: Tensor) -> list[Tensor]:
        outputs = []
        for embed, blocks, norm in zip(
            self.patch_embeddings, self.block, self.layer_norm, strict=True
        ):
            tokens, grid = embed(image)
            for block in cast(nn.ModuleList, blocks):
                tokens = block(tokens, grid)
            image = map_from_tokens(norm(tokens), grid)
            outputs.append(image)
        return outputs


class Backbone(nn.Module):
    def __init__(self, config: SegformerConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config)


class StageProjection(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.proj = nn.Linear(inputs, outputs)


class DecodeHead(nn.Module):
    """The all-MLP decode head (equation 4) in its published form."""

    def __init__(self, config: SegformerConfig) -> None:
        super().__init__()
        channels = config.head_channels
        self.stage_activation = config.stage_activation
        self.linear_c = nn.ModuleList(StageProjection(w, channels) for w in config.widths)
        self.linear_fuse = nn.Conv2d(4 * channels, channels, 1, bias=False)
        self.batch_norm = nn.BatchNorm2d(channels, config.batch_norm_eps)
        self.classifier = nn.Conv2d(channels, config.classes, 1)

    def upsampled(self, stages: list[Tensor]) -> Tensor:
        """The projected stages at stage 1's size, stage 4 first: [B, 4*head_channels, h1, w1]."""
        size = stages[0].shape[2:]
        projected = []
        for image, layer in zip(stages, self.linear_c, strict=True):
            tokens = cast(StageProjection, layer).proj(tokens_from_map(image))
            if self.stage_activation:
                tokens = functional.relu(tokens)
            image = map_from_tokens(tokens, (image.shape[2], image.shape[3]))
            projected.append(
                functional.interpolate(image, size, mode="bilinear", align_corners=False)
            )
        return torch.cat(projected[::-1], dim=1)

    def forward(self, stages: list[Tensor]) -> Tensor:
        fused = functional.relu(self.batch_norm(self.linear_fuse(self.upsampled(stages))))
        return cast(Tensor, self.classifier(fused))


class Segformer(nn.Module):
    """The whole network; `state_dict` names are those of published checkpoints.

    forward: normalised float image [B, 3, H, W] -> logits [B, classes, ceil(H/4), ceil(W/4)].
    """

    def __init__(self, config: SegformerConfig) -> None:
        super().__init__()
        self.config = config
        self.segformer = Backbone(config)
        self.decode_head = DecodeHead(config)
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        return cast(Tensor, self.decode_head(self.segformer.encoder(image)))


def macs_of_model(model: nn.Module, size: FrameSize) -> int:
    """Multiply-accumulates of one forward pass of a `Segformer` at `size` (the paper's "FLOPs").

    Counted by PyTorch's flop counter (convolutions and matrix products) on a copy without
    memory, so even B5 at 1024x2048 takes milliseconds.
    """
    from torch.utils.flop_counter import FlopCounterMode

    config = cast(SegformerConfig, model.config)
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        Segformer(config)(torch.empty(1, 3, size.height, size.width))
    return int(counter.get_total_flops()) // 2


def random_segformer(config: SegformerConfig, seed: int = 0) -> Segformer:
    """A `Segformer` with random weights whose class maps are not constant.

    The weights keep the activations' variance (He scaling); the BatchNorm is centred on what
    it sees for one noise image, and the classifier's rows sum to zero, so that no class wins
    everywhere. The same seed gives the same weights.
    """
    generator = torch.Generator().manual_seed(seed)
    model = Segformer(config)
    with torch.no_grad():
        for module in model.modules():
            _fill(module, generator)
        head = model.decode_head
        weight = head.classifier.weight
        weight -= weight.mean(dim=1, keepdim=True)
        coarse = torch.randn(1, 3, 12, 12, generator=generator)
        image = functional.interpolate(coarse, (96, 96), mode="bilinear")
        fused = head.linear_fuse(head.upsampled(model.segformer.encoder(image)))
        head.batch_norm.running_mean = fused.mean(dim=(0, 2, 3))
        head.batch_norm.running_var = fused.var(dim=(0, 2, 3))
    return model


def _fill(module: nn.Module, generator: torch.Generator) -> None:
    if isinstance(module, nn.Linear | nn.Conv2d):
        fan_in = module.weight[0].numel()
        module.weight.normal_(0.0, fan_in**-0.5, generator=generator)
        if module.bias is not None:
            module.bias.normal_(0.0, 0.1, generator=generator)
    elif isinstance(module, nn.LayerNorm | nn.BatchNorm2d):
        module.weight.uniform_(0.8, 1.2, generator=generator)
        module.bias.normal_(0.0, 0.1, generator=generator)
