"""SETR with ViT-L/16 and the naive head (Zheng et al. 2021), and its memory by formula."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from rivals.parts import Unit, enlarged

PATCH, CHANNELS, DEPTH, HEADS, EXPANSION, HEAD_CHANNELS = 16, 1024, 24, 16, 4, 256
FLOAT_BYTES = 4


class Layer(nn.Module):
    """Pre-norm transformer layer, [B, N, C] -> [B, N, C]; every token sees every token."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(CHANNELS, 1e-6), nn.LayerNorm(CHANNELS, 1e-6)
        self.qkv = nn.Linear(CHANNELS, 3 * CHANNELS)
        self.out = nn.Linear(CHANNELS, CHANNELS)
        self.up = nn.Linear(CHANNELS, EXPANSION * CHANNELS)
        self.down = nn.Linear(EXPANSION * CHANNELS, CHANNELS)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, count, _ = tokens.shape
        joint = self.qkv(self.norm1(tokens)).view(batch, count, 3, HEADS, CHANNELS // HEADS)
        query, key, value = joint.permute(2, 0, 3, 1, 4)
        scores = (query * (CHANNELS // HEADS) ** -0.5) @ key.transpose(2, 3)
        mixed = (scores.softmax(dim=-1) @ value).transpose(1, 2).reshape(batch, count, CHANNELS)
        tokens = tokens + self.out(mixed)
        hidden = functional.gelu(self.up(self.norm2(tokens)))
        answer: Tensor = tokens + self.down(hidden)
        return answer


class Setr(nn.Module):
    """[B, 3, size, size] -> logits [B, classes, size / 4, size / 4].

    Its positional encoding has one row per patch: another size needs another encoding.
    """

    def __init__(self, classes: int, size: int = 512) -> None:
        super().__init__()
        self.side = size // PATCH
        self.embed = nn.Conv2d(3, CHANNELS, PATCH, stride=PATCH)
        self.class_token = nn.Parameter(torch.zeros(1, 1, CHANNELS))
        self.position = nn.Parameter(torch.zeros(1, 1 + self.side**2, CHANNELS))
        self.layers = nn.Sequential(*(Layer() for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(CHANNELS, 1e-6)
        self.convolution = Unit(CHANNELS, HEAD_CHANNELS)
        self.classify = nn.Conv2d(HEAD_CHANNELS, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        patches = self.embed(image).flatten(2).transpose(1, 2)
        first = self.class_token.expand(patches.shape[0], -1, -1)
        tokens = self.layers(torch.cat([first, patches], dim=1) + self.position)
        tokens = self.norm(tokens)[:, 1:]
        maps = tokens.transpose(1, 2).reshape(-1, CHANNELS, self.side, self.side)
        wide = enlarged(self.convolution(maps), (4 * self.side, 4 * self.side))
        answer: Tensor = self.classify(wide)
        return answer


def memory_by_formula(parameters: int, size: int = 512) -> dict[str, float]:
    """MB (1e6 bytes) in FP32: parameters, and what lives at once inside one attention.

    At its widest a layer holds the residual tokens, Q, K and V, and the scores of all heads
    before and after softmax. An engine that computes softmax in place holds one of the two.
    """
    count = 1 + (size // PATCH) ** 2
    tokens, scores = count * CHANNELS, HEADS * count**2
    return {
        "parameters_mb": parameters * FLOAT_BYTES / 1e6,
        "activations_mb": (4 * tokens + 2 * scores) * FLOAT_BYTES / 1e6,
    }
