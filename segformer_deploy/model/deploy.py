"""The exact deploy form: half the multiply-accumulates of the published graph, the same masks.

    uint8 frames [B, H, W, 3] -> logits [B, classes, ceil(H/4), ceil(W/4)]

The multiply-accumulates go down because the decode head works at each stage's own size;
the steps, and which kind of exact each is, stand in `folds`.

What stays: the mean is subtracted in the graph, since the convolution pads with zeros *after*
normalising; LayerNorm's affine stays where it is, since a stage's last norm feeds a
zero-padded convolution, and its gamma is what INT8 equalises ranges with.

Tokens are held as [B, h, w, C]: LayerNorm and the projections want channels last, and a
resize that walks contiguous channels is several times faster on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from segformer_deploy.model.folds import (
    Affine,
    bias_after_softmax,
    folded_head,
    frame_convolution,
    joined_key_value,
    scaled_query,
)
from segformer_deploy.model.layers import (
    Convolution,
    Norm,
    Projection,
    channels_first,
    channels_last,
)
from segformer_deploy.model.segformer import (
    Block,
    PatchEmbedding,
    Segformer,
    SegformerConfig,
    SelfAttention,
    StageProjection,
)


class DeployAttention(nn.Module):
    """[B, h, w, C] -> [B, h, w, C]."""

    def __init__(self, source: SelfAttention, output: nn.Linear) -> None:
        super().__init__()
        self.heads = source.heads
        query = scaled_query(_affine(source.query), source.query.in_features // source.heads)
        self.query = Projection(*_rounded(query, source.query))
        joined = joined_key_value(source.key.weight.detach(), source.value.weight.detach())
        self.key_value = Projection(joined)
        after = bias_after_softmax(source.value.bias.detach().double(), _affine(output))
        self.output = Projection(*_rounded(after, output))
        self.reduce: Convolution | None = None
        self.reduce_norm: Norm | None = None
        if source.reduction > 1:
            self.reduce = _convolution(source.sr)
            self.reduce_norm = Norm(source.layer_norm)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, _, channels = x.shape
        source = x
        if self.reduce is not None and self.reduce_norm is not None:
            source = self.reduce_norm(channels_last(self.reduce(channels_first(x))))
        by_head = (batch, -1, self.heads, channels // self.heads)
        key, value = self.key_value(source).chunk(2, dim=-1)
        query = self.query(x).reshape(by_head).transpose(1, 2)
        key = key.reshape(by_head).permute(0, 2, 3, 1)
        value = value.reshape(by_head).transpose(1, 2)
        mixed = (query @ key).softmax(dim=-1) @ value
        return cast(Tensor, self.output(mixed.transpose(1, 2).reshape(x.shape)))


class DeployFFN(nn.Module):
    """Mix-FFN with its projections as 1x1 convolutions: only C channels change layout, not 4C."""

    def __init__(self, source: Block) -> None:
        super().__init__()
        mlp = source.mlp
        self.expand = _pointwise(mlp.dense1)
        self.depthwise = _convolution(mlp.dwconv.dwconv)
        self.contract = _pointwise(mlp.dense2)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.gelu(self.depthwise(self.expand(channels_first(x))))
        return channels_last(self.contract(y))


class DeployBlock(nn.Module):
    def __init__(self, source: Block) -> None:
        super().__init__()
        self.norm1 = Norm(source.layer_norm_1)
        self.attention = DeployAttention(source.attention.self, source.attention.output.dense)
        self.norm2 = Norm(source.layer_norm_2)
        self.ffn = DeployFFN(source)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return cast(Tensor, x + self.ffn(self.norm2(x)))


class DeployStage(nn.Module):
    """[B, C_in, H, W] -> [B, h, w, C]; its blocks are ``block0``, ``block1``, …"""

    def __init__(self, embed: PatchEmbedding, blocks: Sequence[Block], norm: nn.LayerNorm) -> None:
        super().__init__()
        self.embed = _convolution(embed.proj)
        self.embed_norm = Norm(embed.layer_norm)
        self.depth = len(blocks)
        for index, block in enumerate(blocks):
            self.add_module(f"block{index}", DeployBlock(block))
        self.norm = Norm(norm)

    @property
    def blocks(self) -> list[DeployBlock]:
        return [cast(DeployBlock, self.get_submodule(f"block{i}")) for i in range(self.depth)]

    def forward(self, image: Tensor) -> Tensor:
        x = self.embed_norm(channels_last(self.embed(image)))
        for block in self.blocks:
            x = block(x)
        return cast(Tensor, self.norm(x))


class DeployHeadStage(nn.Module):
    """A stage's way into the decode head, at its own resolution.

    `project` (with ReLU) is there only for heads with `SegformerConfig.stage_activation`:
    ReLU stands between the two projections, so they cannot be multiplied together; the fuse
    still commutes with the resize.
    """

    def __init__(self, project: Projection | None, fuse: Projection) -> None:
        super().__init__()
        self.project = project
        self.fuse = fuse

    def forward(self, x: Tensor) -> Tensor:
        if self.project is not None:
            x = functional.relu(self.project(x))
        return cast(Tensor, self.fuse(x))


class DeployHead(nn.Module):
    """Four stages [B, h, w, C] -> logits [B, classes, h1, w1]."""

    def __init__(self, stages: Sequence[DeployHeadStage], classifier: Projection) -> None:
        super().__init__()
        self.stage1, self.stage2, self.stage3, self.stage4 = stages
        self.classifier = classifier

    @property
    def stages(self) -> tuple[DeployHeadStage, ...]:
        return self.stage1, self.stage2, self.stage3, self.stage4

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        own, *coarser = (stage(x) for stage, x in zip(self.stages, maps, strict=True))
        # Stage 1's size, not a factor: sizes that are no multiple of 32 have ceil'd stages.
        size = own.shape[1:3]
        resized = [
            functional.interpolate(channels_first(x), size, mode="bilinear") for x in coarser[::-1]
        ]
        total = channels_last(resized[0] + resized[1] + resized[2])
        return channels_first(self.classifier(functional.relu(own + total)))


class DeployForm(nn.Module):
    """The exact deploy form; `state_dict` names are the ONNX graph's initializers.

    forward: uint8 RGB frames [B, H, W, 3] -> logits [B, classes, ceil(H/4), ceil(W/4)].
    """

    mean: Tensor

    def __init__(
        self, config: SegformerConfig, mean: Tensor, stages: Sequence[DeployStage], head: DeployHead
    ) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", mean)
        self.stage1, self.stage2, self.stage3, self.stage4 = stages
        self.decoder = head
        self.eval()

    @property
    def stages(self) -> tuple[DeployStage, ...]:
        return self.stage1, self.stage2, self.stage3, self.stage4

    def forward(self, frames: Tensor) -> Tensor:
        image = channels_first(frames).to(self.mean.dtype) - self.mean
        maps = []
        for stage in self.stages:
            maps.append(stage(image))
            image = channels_first(maps[-1])
        return cast(Tensor, self.decoder(maps))


def deploy_form(model: Segformer, mean: Sequence[float], std: Sequence[float]) -> DeployForm:
    """The deploy form of `model`, in the model's own floating-point type.

    Args:
        model: in its published form.
        mean, std: per RGB channel, of pixel values divided by 255.
    """
    encoder = model.segformer.encoder
    with torch.no_grad():
        stages = [
            DeployStage(
                cast(PatchEmbedding, embed),
                cast("Sequence[Block]", list(cast(nn.ModuleList, blocks))),
                cast(nn.LayerNorm, norm),
            )
            for embed, blocks, norm in zip(
                encoder.patch_embeddings, encoder.block, encoder.layer_norm, strict=True
            )
        ]
        first = stages[0].embed
        source = cast(PatchEmbedding, encoder.patch_embeddings[0]).proj.weight.double()
        first.weight = frame_convolution(source, std).to(first.weight.dtype)
        mean255 = 255 * torch.tensor(mean, dtype=torch.float64).reshape(3, 1, 1)
        return DeployForm(model.config, mean255.to(first.weight.dtype), stages, _head(model))


def _head(model: Segformer) -> DeployHead:
    head = model.decode_head
    dtype = head.linear_fuse.weight.dtype
    norm = head.batch_norm
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    shift = norm.bias.double() - scale * norm.running_mean.double()
    linears = [_affine(cast(StageProjection, layer).proj) for layer in head.linear_c]
    projects: list[Projection | None] = [None] * 4
    if model.config.stage_activation:
        projects = [Projection(weight.to(dtype), bias.to(dtype)) for weight, bias in linears]
        unit = torch.eye(model.config.head_channels, dtype=torch.float64)
        linears = [(unit, torch.zeros_like(shift)) for _ in linears]
    folded = folded_head(head.linear_fuse.weight.double()[:, :, 0, 0], scale, shift, linears)
    # The bias enters at the coarsest stage, where adding it costs least.
    biases = [None, None, None, folded.bias.to(dtype)]
    stages = [
        DeployHeadStage(project, Projection(weight.to(dtype), bias))
        for project, weight, bias in zip(projects, folded.weights, biases, strict=True)
    ]
    classifier = head.classifier
    assert classifier.bias is not None
    return DeployHead(
        stages, Projection(classifier.weight.detach()[:, :, 0, 0], classifier.bias.detach())
    )


def _affine(layer: nn.Linear) -> Affine:
    return layer.weight.detach().double(), layer.bias.detach().double()


def _rounded(pair: Affine, like: nn.Linear) -> Affine:
    dtype = like.weight.dtype
    return pair[0].to(dtype), pair[1].to(dtype)


def _convolution(layer: nn.Conv2d) -> Convolution:
    assert layer.bias is not None
    assert not isinstance(layer.padding, str)
    return Convolution(
        layer.weight.detach(),
        layer.bias.detach(),
        layer.stride[0],
        layer.padding[0],
        layer.groups,
    )


def _pointwise(layer: nn.Linear) -> Convolution:
    return Convolution(layer.weight.detach()[:, :, None, None], layer.bias.detach())
