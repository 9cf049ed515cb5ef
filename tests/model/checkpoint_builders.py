"""Small checkpoints in every published spelling, made by networks that are not ours.

`tiny_transformers` is transformers' own model. `NvlabsNetwork` and `MmsegNetwork` are written
here from the published descriptions with the attribute names that give their state dicts the
published parameter names, and compute their answers their own way (fused attention,
`nn.MultiheadAttention`, 1x1 convolutions), so that a renaming of ours cannot agree with itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

WIDTHS = (8, 16, 40, 64)
DEPTHS = (1, 2, 1, 1)
HEADS = (1, 2, 5, 8)
REDUCTIONS = (8, 4, 2, 1)
HEAD_CHANNELS = 12
CLASSES = 5
NAMES = ["sky", "road", "car", "tree", "pole"]

# transformers 5's module names of one block, by the names that it saves.
NEW_BLOCK_NAMES = {
    "layer_norm_1": "layernorm_before",
    "layer_norm_2": "layernorm_after",
    "attention.self.query": "attention.q_proj",
    "attention.self.key": "attention.k_proj",
    "attention.self.value": "attention.v_proj",
    "attention.self.sr": "attention.sequence_reduction.sequence_reduction",
    "attention.self.layer_norm": "attention.sequence_reduction.layer_norm",
    "attention.output.dense": "attention.o_proj",
    "mlp.dense1": "mlp.fc1",
    "mlp.dense2": "mlp.fc2",
    "mlp.dwconv.dwconv": "mlp.dwconv.dwconv",
}


def randomise(model: nn.Module, seed: int) -> nn.Module:
    """Weights in which every tensor matters: no gain of 1, no bias of 0, no mean of 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("num_batches_tracked"):
                continue
            fan_in = max(1, tensor[0].numel()) if tensor.ndim > 1 else 1
            if tensor.ndim > 1:
                tensor.normal_(0, fan_in**-0.5, generator=generator)
            elif name.endswith(("running_var", "weight")):
                tensor.uniform_(0.5, 1.5, generator=generator)
            else:
                tensor.normal_(0, 0.3, generator=generator)
    return model.eval()


def tiny_transformers(classes: int = CLASSES, seed: int = 0, **settings: object) -> nn.Module:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig(
        hidden_sizes=list(WIDTHS),
        depths=list(DEPTHS),
        num_attention_heads=list(HEADS),
        decoder_hidden_size=HEAD_CHANNELS,
        id2label=dict(enumerate(NAMES[:classes])),
        label2id={name: index for index, name in enumerate(NAMES[:classes])},
        **settings,
    )
    return randomise(SegformerForSemanticSegmentation(config), seed)


def tokens(image: Tensor) -> Tensor:
    return image.flatten(2).transpose(1, 2)


def image_like(x: Tensor, size: Iterable[int]) -> Tensor:
    return x.transpose(1, 2).unflatten(2, tuple(size))


class _Named(nn.Module):
    """A bag of modules under chosen names."""

    def __init__(self, **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


def _reduction(width: int, ratio: int, eps: float) -> dict[str, nn.Module]:
    if ratio == 1:
        return {}
    return {"sr": nn.Conv2d(width, width, ratio, ratio), "norm": nn.LayerNorm(width, eps=eps)}


def _sequence(attn: nn.Module, x: Tensor, size: Iterable[int]) -> Tensor:
    return attn.norm(tokens(attn.sr(image_like(x, size)))) if hasattr(attn, "sr") else x


class NvlabsBlock(nn.Module):
    def __init__(self, width: int, heads: int, ratio: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = _Named(
            q=nn.Linear(width, width),
            kv=nn.Linear(width, 2 * width),
            proj=nn.Linear(width, width),
            **_reduction(width, ratio, 1e-5),
        )
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        hidden = 4 * width
        self.mlp = _Named(
            fc1=nn.Linear(width, hidden),
            dwconv=_Named(dwconv=nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)),
            fc2=nn.Linear(hidden, width),
        )

    def forward(self, x: Tensor, size: Iterable[int]) -> Tensor:
        normed = self.norm1(x)
        key, value = self.attn.kv(_sequence(self.attn, normed, size)).chunk(2, dim=-1)
        parts = (self.attn.q(normed), key, value)
        mixed = nn.functional.scaled_dot_product_attention(
            *(part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        )
        x = x + self.attn.proj(mixed.transpose(1, 2).flatten(2))
        image = self.mlp.dwconv.dwconv(image_like(self.mlp.fc1(self.norm2(x)), size))
        return x + self.mlp.fc2(nn.functional.gelu(tokens(image)))


class NvlabsNetwork(nn.Module):
    """The authors' spelling: epsilon 1e-6 in blocks and at stage ends, 1e-5 elsewhere."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.backbone = nn.Module()
        for i, width in enumerate(WIDTHS):
            before = WIDTHS[i - 1] if i else 3
            patch, stride = (3, 2) if i else (7, 4)
            self.backbone.add_module(
                f"patch_embed{i + 1}",
                _Named(
                    proj=nn.Conv2d(before, width, patch, stride, patch // 2),
                    norm=nn.LayerNorm(width, eps=1e-5),
                ),
            )
            blocks = [NvlabsBlock(width, HEADS[i], REDUCTIONS[i]) for _ in range(DEPTHS[i])]
            self.backbone.add_module(f"block{i + 1}", nn.ModuleList(blocks))
            self.backbone.add_module(f"norm{i + 1}", nn.LayerNorm(width, eps=1e-6))
        channels = HEAD_CHANNELS
        self.decode_head = _Named(
            conv_seg=nn.Conv2d(channels, classes, 1),
            **{
                f"linear_c{i + 1}": _Named(proj=nn.Linear(w, channels))
                for i, w in enumerate(WIDTHS)
            },
            linear_fuse=_Named(
                conv=nn.Conv2d(4 * channels, channels, 1, bias=False), bn=nn.BatchNorm2d(channels)
            ),
            linear_pred=nn.Conv2d(channels, classes, 1),
        )

    def forward(self, image: Tensor) -> Tensor:
        stages = []
        for i in range(1, 5):
            embed = getattr(self.backbone, f"patch_embed{i}")
            image = embed.proj(image)
            size, x = image.shape[2:], embed.norm(tokens(image))
            for block in getattr(self.backbone, f"block{i}"):
                x = block(x, size)
            image = image_like(getattr(self.backbone, f"norm{i}")(x), size)
            stages.append(image)
        head, upsampled = self.decode_head, []
        for i in (4, 3, 2, 1):
            linear = getattr(head, f"linear_c{i}").proj
            small = image_like(linear(tokens(stages[i - 1])), stages[i - 1].shape[2:])
            upsampled.append(nn.functional.interpolate(small, stages[0].shape[2:], mode="bilinear"))
        fuse = head.linear_fuse
        return head.linear_pred(nn.functional.relu(fuse.bn(fuse.conv(torch.cat(upsampled, dim=1)))))


class MmsegBlock(nn.Module):
    def __init__(self, width: int, heads: int, ratio: int) -> None:
        super().__init__()
        hidden = 4 * width
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = _Named(
            attn=nn.MultiheadAttention(width, heads, batch_first=True),
            **_reduction(width, ratio, 1e-6),
        )
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        layers = nn.Sequential(
            nn.Conv2d(width, hidden, 1),
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden),
            nn.GELU(),
            nn.Dropout(),
            nn.Conv2d(hidden, width, 1),
            nn.Dropout(),
        )
        self.ffn = _Named(layers=layers)

    def forward(self, x: Tensor, size: Iterable[int]) -> Tensor:
        normed = self.norm1(x)
        source = _sequence(self.attn, normed, size)
        x = x + self.attn.attn(normed, source, source)[0]
        return x + tokens(self.ffn.layers(image_like(self.norm2(x), size)))


def _conv_norm(inputs: int, outputs: int) -> nn.Module:
    return _Named(conv=nn.Conv2d(inputs, outputs, 1, bias=False), bn=nn.BatchNorm2d(outputs))


class MmsegNetwork(nn.Module):
    """mmsegmentation's spelling and head: epsilon 1e-6; ReLU per stage; stage 1 first."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        layers = []
        for i, width in enumerate(WIDTHS):
            before = WIDTHS[i - 1] if i else 3
            patch, stride = (3, 2) if i else (7, 4)
            embed = _Named(
                projection=nn.Conv2d(before, width, patch, stride, patch // 2),
                norm=nn.LayerNorm(width, eps=1e-6),
            )
            blocks = [MmsegBlock(width, HEADS[i], REDUCTIONS[i]) for _ in range(DEPTHS[i])]
            stage = [embed, nn.ModuleList(blocks), nn.LayerNorm(width, eps=1e-6)]
            layers.append(nn.ModuleList(stage))
        self.backbone = _Named(layers=nn.ModuleList(layers))
        self.decode_head = _Named(
            conv_seg=nn.Conv2d(HEAD_CHANNELS, classes, 1),
            convs=nn.ModuleList(_conv_norm(width, HEAD_CHANNELS) for width in WIDTHS),
            fusion_conv=_conv_norm(4 * HEAD_CHANNELS, HEAD_CHANNELS),
        )

    def stages(self, image: Tensor) -> list[Tensor]:
        outputs = []
        for embed, blocks, norm in self.backbone.layers:
            image = embed.projection(image)
            size, x = image.shape[2:], embed.norm(tokens(image))
            for block in blocks:
                x = block(x, size)
            image = image_like(norm(x), size)
            outputs.append(image)
        return outputs

    def forward(self, image: Tensor) -> Tensor:
        stages, head, upsampled = self.stages(image), self.decode_head, []
        for stage, conv in zip(stages, head.convs, strict=True):
            small = nn.functional.relu(conv.bn(conv.conv(stage)))
            upsampled.append(nn.functional.interpolate(small, stages[0].shape[2:], mode="bilinear"))
        fused = head.fusion_conv.bn(head.fusion_conv.conv(torch.cat(upsampled, dim=1)))
        return head.conv_seg(nn.functional.relu(fused))


def nvlabs_file(path: Path, *, meta: dict | None = None, **changes: Tensor) -> nn.Module:
    """Write a .pth in the authors' spelling; give the network that it came from."""
    network = randomise(NvlabsNetwork(), seed=1)
    state = {**network.state_dict(), **changes}
    torch.save({"state_dict": state, "meta": meta or {}, "optimizer": {"lr": 6e-5}}, path)
    return network


def mmseg_file(path: Path, *, meta: dict | None = None) -> MmsegNetwork:
    """Write a .pth in mmsegmentation's spelling; give the network that it came from."""
    network = randomise(MmsegNetwork(), seed=2)
    torch.save({"state_dict": network.state_dict(), "meta": meta or {}}, path)
    return network


def new_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The saved names -> transformers 5's module names, written out from its documentation."""
    renamed = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[1] == "encoder" and parts[2] == "block":
            stage, block, rest = parts[3], parts[4], ".".join(parts[5:-1])
            name = f"segformer.stages.{stage}.blocks.{block}.{NEW_BLOCK_NAMES[rest]}.{parts[-1]}"
        elif parts[1] == "encoder" and parts[2] == "patch_embeddings":
            name = f"segformer.stages.{parts[3]}.patch_embeddings.{parts[4]}.{parts[5]}"
        elif parts[1] == "encoder":
            name = f"segformer.stages.{parts[3]}.layer_norm.{parts[4]}"
        elif parts[1] == "linear_c":
            name = f"decode_head.linear_projections.{parts[2]}.proj.{parts[4]}"
        renamed[name] = value
    return renamed
