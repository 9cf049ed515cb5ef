"""The buffers of one network at one size, in the order in which the executor takes them.

A *map* is a stage's tokens [h, w, C] at 8 bits. Workspace holds 4-byte numbers. `schedule` says
which of these are alive together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from floor.arena import Buffer
from segformer_deploy.model.variants import SegformerConfig
from segformer_deploy.spec import FrameSize


@dataclass(frozen=True)
class Plan:
    """How finely the work is cut. The answer's bits do not depend on it.

    Attributes:
        tokens: at once in a projection or as queries.
        keys: at once against the queries.
        columns, hidden: outputs and hidden channels of a Mix-FFN tile.
        pixels: of the class map at once.
        keep_c1: False makes stage 1's rows again instead of keeping its output.
    """

    tokens: int = 1
    keys: int = 16
    columns: int = 1
    hidden: int = 32
    pixels: int = 32
    keep_c1: bool = True

    def __post_init__(self) -> None:
        if min(self.tokens, self.keys, self.columns, self.hidden, self.pixels) < 1:
            raise ValueError(f"{self}: chunks of at least 1")


LEAN = Plan()
"""Small enough that what stays alive, not the workspace, decides the arena."""
LEAN_AGAIN = replace(LEAN, keep_c1=False)
FAST = Plan(tokens=512, keys=512, columns=512, hidden=1024, pixels=2048)
"""Whole rows at once: what NumPy likes. The same bits as LEAN, in a larger arena."""


@dataclass(frozen=True)
class Stage:
    """One stage at one frame size: h x w tokens of `width` channels, `keys` reduced ones."""

    index: int
    height: int
    width_px: int
    channels: int
    depth: int
    heads: int
    reduction: int
    hidden: int
    patch: int
    inputs: int

    @property
    def reduced(self) -> tuple[int, int]:
        return self.height // self.reduction, self.width_px // self.reduction

    @property
    def keys(self) -> int:
        return self.reduced[0] * self.reduced[1]

    @property
    def head_width(self) -> int:
        return self.channels // self.heads


def stages_of(config: SegformerConfig, size: FrameSize) -> tuple[Stage, ...]:
    stages = []
    height, width, inputs = size.height, size.width, 3
    for index in range(4):
        patch, stride = config.patch_sizes[index], config.strides[index]
        height, width = (
            (n + 2 * (patch // 2) - patch) // stride + 1 for n in (height, width)
        )  # as a convolution counts
        channels = config.widths[index]
        stages.append(
            Stage(
                *(index, height, width, channels, config.depths[index], config.heads[index]),
                *(config.reductions[index], config.mlp_ratio * channels, patch, inputs),
            )
        )
        inputs = channels
    return tuple(stages)


@dataclass(frozen=True)
class Space:
    """The buffers of one network at one size, cut as `plan` says.

    Attributes:
        act: NumPy type of a stored activation: int8, or float32 in the executor that proves
            the schedule against PyTorch.
        out_width: pixels in a row of the class map.
    """

    config: SegformerConfig
    size: FrameSize
    plan: Plan
    act: str = "int8"

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        return stages_of(self.config, self.size)

    def map(self, s: Stage) -> Buffer:
        return Buffer((s.height, s.width_px, s.channels), self.act)

    def row(self, s: Stage) -> Buffer:
        return Buffer((s.width_px, s.channels), self.act)

    def key_value(self, s: Stage) -> Buffer:
        return Buffer((s.keys, 2 * s.channels), self.act)

    def ring(self, s: Stage) -> Buffer:
        return Buffer((2, s.width_px, s.channels), self.act)

    def frame_window(self) -> Buffer:
        s = self.stages[0]
        return Buffer((s.patch, self.size.width, s.inputs), self.act)

    def stage1_window(self) -> Buffer:
        s = self.stages[0]
        return Buffer((self.stages[1].patch, s.width_px, s.channels), self.act)

    def logit_rows(self) -> Buffer:
        return Buffer((2, self.config.classes, self.stages[0].width_px), self.act)

    def embedding(self, s: Stage) -> list[Buffer]:
        """operand [T, k, C_in], sum [T, C], partial sum [T, C], row statistics [T, 1]."""
        tokens = min(self.plan.tokens, s.width_px)
        return [
            Buffer((tokens, s.patch, s.inputs), "float32"),
            Buffer((tokens, s.channels), "float32"),
            Buffer((tokens, s.channels), "float32"),
            Buffer((tokens, 1), "float32"),
        ]

    def reduction(self, s: Stage) -> list[Buffer]:
        """source and normalised [T*r, C], partial [T, C], keys and values [T, 2C], statistics."""
        tokens = max(1, min(self.plan.tokens, s.reduced[1]))
        source = tokens * s.reduction
        return [
            Buffer((source, s.channels), "float32"),
            Buffer((source, s.channels), "float32"),
            Buffer((tokens, s.channels), "float32"),
            Buffer((tokens, 2 * s.channels), "float32"),
            Buffer((source, 1), "float32"),
        ]

    def reduction_sum(self, s: Stage) -> Buffer:
        """A row of reduced tokens, summed over the rows of its kernel."""
        return Buffer((s.reduced[1] if s.reduction > 1 else 0, s.channels), "float32")

    def attention(self, s: Stage) -> list[Buffer]:
        """state, work [T, C]; scores [T, N']; keys [K, d]; partial [T, d]; statistics, sums."""
        tokens, keys = min(self.plan.tokens, s.width_px), max(1, min(self.plan.keys, s.keys))
        return [
            Buffer((tokens, s.channels), "float32"),
            Buffer((tokens, s.channels), "float32"),
            Buffer((tokens, s.keys), "float32"),
            Buffer((keys, s.head_width), "float32"),
            Buffer((tokens, s.head_width), "float32"),
            Buffer((tokens, 1), "float32"),
            Buffer((tokens, 1), "float32"),
        ]

    def ffn(self, s: Stage) -> list[Buffer]:
        """The buffers of one tile, in the order in which `rows.feed_forward_row` names them."""
        columns = min(self.plan.columns, s.width_px)
        tokens = min(self.plan.tokens, columns + 2)
        hidden = min(self.plan.hidden, s.hidden)
        return [
            Buffer((3, columns + 2, s.channels), self.act),  # normalised rows
            Buffer((tokens, s.channels), "float32"),
            Buffer((tokens, s.channels), "float32"),
            Buffer((tokens, 1), "float32"),
            Buffer((tokens, hidden), "float32"),
            Buffer((3, columns + 2, hidden), self.act),  # hidden rows
            Buffer((4, columns, hidden), "float32"),  # depthwise sum, and GELU's three
            Buffer((columns, s.channels), "float32"),  # output
            Buffer((columns, s.channels), "float32"),  # its part from these hidden channels
        ]

    def stage_norm(self, s: Stage) -> list[Buffer]:
        tokens = min(self.plan.tokens, s.width_px)
        token = Buffer((tokens, s.channels), "float32")
        return [token, token, Buffer((tokens, 1), "float32")]

    def decoder(self) -> list[Buffer]:
        """operand [T, sum of C]; a corner at 8 bits and as floats; fused; logits; statistics."""
        tokens, widest = min(self.plan.tokens, self.stages[0].width_px), max(self.config.widths)
        return [
            Buffer((tokens, sum(self.config.widths)), "float32"),
            Buffer((tokens * widest,), self.act),
            Buffer((tokens * widest,), "float32"),
            Buffer((tokens, self.config.head_channels), "float32"),
            Buffer((tokens, self.config.classes), "float32"),
            Buffer((tokens, 1), "float32"),
        ]

    def class_map(self) -> list[Buffer]:
        """Two mixed rows of one class; left, value, best [P]; winner and mask [P]."""
        pixels, width = self.plan.pixels, self.stages[0].width_px
        winner = "uint8" if self.config.classes <= 256 else "int32"
        return [
            *(Buffer((width,), "float32"), Buffer((width,), "float32")),
            *(Buffer((pixels,), "float32") for _ in range(3)),
            *(Buffer((pixels,), winner), Buffer((pixels,), "bool")),
        ]
