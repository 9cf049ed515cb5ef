"""The parameter names under which SegFormer is published, and how each becomes ours.

before -> after: a state dict as some library saved it -> the same numbers under the names that
transformers has always written to disk (``segformer.encoder.block.0.0.mlp.dense1.weight``),
which are this package's own. Renaming, splitting joint projections and reordering slices move
bits and change none; folding a stage's batch norm (mmsegmentation) is algebra, done in float64.

Three spellings are known:

* ``transformers``: what every version saves, and what transformers 5 names its modules
  (``segformer.stages.0.blocks.0.attention.q_proj``); one table reads both.
* ``nvlabs``: the authors' own code on mmsegmentation 0.x (``backbone.block1.0.attn.kv``).
* ``mmseg``: mmsegmentation's rewrite (``backbone.layers.0.1.0.attn.attn.in_proj_weight``), with
  another decode head: batch norm and ReLU after each stage's projection, stage 1 first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor

from segformer_deploy.errors import CheckpointError

Style = Literal["transformers", "nvlabs", "mmseg"]

ENCODER = "segformer.encoder"
BATCH_COUNT = "decode_head.batch_norm.num_batches_tracked"
"""A counter for training: a checkpoint may have it or not, and no answer depends on it."""
BATCH_NORM_EPS = 1e-5
"""PyTorch's default, which every published decode head keeps."""
STAGES = 4

# Inside one transformer block: their name -> ours, without `.weight` and `.bias`.
# `key_value` and `query_key_value` are joint projections, split further down.
_BLOCK: dict[str, str] = {
    # transformers 5, module names
    "layernorm_before": "layer_norm_1",
    "layernorm_after": "layer_norm_2",
    "attention.q_proj": "attention.self.query",
    "attention.k_proj": "attention.self.key",
    "attention.v_proj": "attention.self.value",
    "attention.o_proj": "attention.output.dense",
    "attention.sequence_reduction.sequence_reduction": "attention.self.sr",
    "attention.sequence_reduction.layer_norm": "attention.self.layer_norm",
    "mlp.fc1": "mlp.dense1",
    "mlp.fc2": "mlp.dense2",
    # NVlabs and mmsegmentation
    "norm1": "layer_norm_1",
    "norm2": "layer_norm_2",
    "attn.q": "attention.self.query",
    "attn.kv": "attention.self.key_value",
    "attn.attn.in_proj": "attention.self.query_key_value",
    "attn.proj": "attention.output.dense",
    "attn.attn.out_proj": "attention.output.dense",
    "attn.sr": "attention.self.sr",
    "attn.norm": "attention.self.layer_norm",
    "ffn.layers.0": "mlp.dense1",
    "ffn.layers.1": "mlp.dwconv.dwconv",
    "ffn.layers.4": "mlp.dense2",
}
_EMBEDDING = {"norm": "layer_norm", "projection": "proj"}
_HEAD: dict[Style, dict[str, str]] = {
    "transformers": {},
    "nvlabs": {
        "linear_fuse.conv": "linear_fuse",
        "linear_fuse.bn": "batch_norm",
        "linear_pred": "classifier",
    },
    "mmseg": {
        "fusion_conv.conv": "linear_fuse",
        "fusion_conv.bn": "batch_norm",
        "conv_seg": "classifier",
    },
}
# In mmsegmentation 0.x every head inherits `conv_seg`; the authors' head never calls it.
_UNUSED: dict[Style, frozenset[str]] = {
    "transformers": frozenset(),
    "nvlabs": frozenset({"decode_head.conv_seg.weight", "decode_head.conv_seg.bias"}),
    "mmseg": frozenset(),
}
# (pattern, part, whether stages are counted from 1) of the encoder, per style.
_ENCODER_PATTERNS: dict[Style, tuple[tuple[str, str, int], ...]] = {
    "transformers": (
        (r"segformer\.stages\.(\d+)\.patch_embeddings\.(.+)", "embedding", 0),
        (r"segformer\.stages\.(\d+)\.blocks\.(\d+)\.(.+)", "block", 0),
        (r"segformer\.stages\.(\d+)\.layer_norm\.(.+)", "norm", 0),
    ),
    "nvlabs": (
        (r"backbone\.patch_embed(\d+)\.(.+)", "embedding", 1),
        (r"backbone\.block(\d+)\.(\d+)\.(.+)", "block", 1),
        (r"backbone\.norm(\d+)\.(.+)", "norm", 1),
    ),
    "mmseg": (
        (r"backbone\.layers\.(\d+)\.0\.(.+)", "embedding", 0),
        (r"backbone\.layers\.(\d+)\.1\.(\d+)\.(.+)", "block", 0),
        (r"backbone\.layers\.(\d+)\.2\.(.+)", "norm", 0),
    ),
}
_PROJECTION_PATTERNS: dict[Style, tuple[str, int]] = {
    "transformers": (r"decode_head\.linear_projections\.(\d+)\.(.+)", 0),
    "nvlabs": (r"decode_head\.linear_c(\d+)\.(.+)", 1),
    "mmseg": (r"(?!)", 0),
}
# A 1x1 convolution and a linear layer hold the same numbers; ours are linear.
_LINEAR = re.compile(r"\.(mlp\.dense[12]|linear_c\.\d+\.proj)\.weight$")


def style_of(names: Iterable[str]) -> Style:
    """The spelling that these parameter names follow.

    Raises:
        CheckpointError: an image classifier, an encoder alone, or another model.
    """
    names = list(names)
    encoder = next((style for style, start in _STARTS if any(map(start.match, names))), None)
    if encoder is None:
        first = ", ".join(names[:3]) or "none"
        raise CheckpointError(
            f"the weights are not a SegFormer's (their first names: {first})",
            "the names of transformers, NVlabs/SegFormer or mmsegmentation",
            "give a SegFormer checkpoint trained for semantic segmentation",
        )
    if not any(name.startswith("decode_head.") for name in names):
        classifier = any(name in ("classifier.weight", "head.weight") for name in names)
        what = "an image classifier" if classifier else "an encoder alone"
        raise CheckpointError(
            f"the weights are {what}: SegFormer's encoder without a decode head",
            "a checkpoint trained for semantic segmentation, with decode_head.* weights",
            "fine-tune it for segmentation first, or give one that was "
            "(for example nvidia/segformer-b0-finetuned-ade-512-512)",
        )
    return encoder


_STARTS: tuple[tuple[Style, re.Pattern[str]], ...] = (
    ("transformers", re.compile(r"(segformer\.)?(encoder\.(patch_embeddings|block)|stages)\.\d")),
    ("nvlabs", re.compile(r"(backbone\.)?(patch_embed\d\.proj|block\d\.\d+\.attn)\.")),
    ("mmseg", re.compile(r"(backbone\.)?layers\.\d\.(0\.projection|1\.\d+\.attn\.attn)\.")),
)


def without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop the ``module.`` that PyTorch's data-parallel wrappers put before every name."""
    if state and all(name.startswith("module.") for name in state):
        return {name[len("module.") :]: value for name, value in state.items()}
    return dict(state)


def canonical_state(state: Mapping[str, Tensor], style: Style) -> dict[str, Tensor]:
    """The same weights under our names; a name that no table knows stays as it is.

    Bits, except for mmsegmentation's per-stage batch norms, which are folded (algebra).

    Raises:
        CheckpointError: two tensors for one place, or a joint projection that does not divide.
    """
    renamed: dict[str, Tensor] = {}
    for theirs, value in state.items():
        if theirs in _UNUSED[style]:
            continue
        name = _our_name(theirs, style)
        if name in renamed:
            raise CheckpointError(
                f"the weights hold {name} twice, under an old and a new name",
                "each tensor once",
                "save the checkpoint again with transformers",
            )
        renamed[name] = value.flatten(1) if _is_1x1(name, value) else value
    _split_joint(renamed)
    if style == "mmseg":
        _fold_stage_norms(renamed)
        _order_fuse(renamed)
    return renamed


def _is_1x1(name: str, value: Tensor) -> bool:
    return bool(_LINEAR.search(name)) and value.ndim == 4 and value.shape[2:] == (1, 1)


def _our_name(theirs: str, style: Style) -> str:
    for pattern, part, first in _ENCODER_PATTERNS[style]:
        if found := re.fullmatch(pattern, theirs):
            stage, *rest = found.groups()
            return _encoder_name(part, int(stage) - first, rest)
    projection, first = _PROJECTION_PATTERNS[style]
    if found := re.fullmatch(projection, theirs):
        return f"decode_head.linear_c.{int(found[1]) - first}.{found[2]}"
    if theirs.startswith("decode_head."):
        return "decode_head." + _renamed(theirs.removeprefix("decode_head."), _HEAD[style])
    return theirs


def _encoder_name(part: str, stage: int, rest: list[str]) -> str:
    if part == "embedding":
        return f"{ENCODER}.patch_embeddings.{stage}.{_renamed(rest[0], _EMBEDDING)}"
    if part == "block":
        return f"{ENCODER}.block.{stage}.{rest[0]}.{_renamed(rest[1], _BLOCK)}"
    return f"{ENCODER}.layer_norm.{stage}.{rest[0]}"


def _renamed(name: str, table: Mapping[str, str]) -> str:
    """Look the module part of ``module.weight`` up in `table`."""
    # nn.MultiheadAttention alone writes `in_proj_weight`, without a dot.
    name = re.sub(r"\.in_proj_(weight|bias)$", r".in_proj.\1", name)
    module, _, parameter = name.rpartition(".")
    return f"{table.get(module, module)}.{parameter}"


def _split_joint(state: dict[str, Tensor]) -> None:
    """Split K|V (NVlabs) and Q|K|V (nn.MultiheadAttention) along the output axis."""
    parts = {"key_value": ("key", "value"), "query_key_value": ("query", "key", "value")}
    for name in list(state):
        found = re.fullmatch(r"(.+\.attention\.self)\.(key_value|query_key_value)\.(\w+)", name)
        if not found:
            continue
        joint, names = state.pop(name), parts[found[2]]
        if not joint.ndim or joint.shape[0] % len(names):
            raise CheckpointError(
                f"tensor {name} has shape {tuple(joint.shape)}",
                f"{len(names)} projections of equal size, one after the other",
                "download the checkpoint again",
            )
        for part, piece in zip(names, joint.chunk(len(names)), strict=True):
            state[f"{found[1]}.{part}.{found[3]}"] = piece.contiguous()


def _fold_stage_norms(state: dict[str, Tensor]) -> None:
    """``convs.i``: projection without bias, then batch norm -> one projection with a bias.

    BN(Wx) = (g/s) W x + (b - m g/s) with s = sqrt(variance + eps): equal in real numbers.
    A stage with a tensor missing is left alone; the check of names reports what lacks.
    """
    for stage in range(STAGES):
        start = f"decode_head.convs.{stage}"
        names = [f"{start}.conv.weight"] + [
            f"{start}.bn.{part}" for part in ("weight", "bias", "running_mean", "running_var")
        ]
        if not all(name in state for name in names):
            continue
        weight, gamma, beta, mean, variance = (state.pop(name).double() for name in names)
        if any(part.shape != weight.shape[:1] for part in (gamma, beta, mean, variance)):
            raise CheckpointError(
                f"the batch norm of {start} does not fit its convolution of {tuple(weight.shape)}",
                "one value per output channel",
                "download the checkpoint again",
            )
        state.pop(f"{start}.bn.num_batches_tracked", None)
        factor = gamma / torch.sqrt(variance + BATCH_NORM_EPS)
        target = f"decode_head.linear_c.{stage}.proj"
        state[f"{target}.weight"] = (weight.flatten(1) * factor[:, None]).float()
        state[f"{target}.bias"] = (beta - mean * factor).float()


def _order_fuse(state: dict[str, Tensor]) -> None:
    """Stage 1 first (mmsegmentation) -> stage 4 first (the authors' and ours)."""
    name = "decode_head.linear_fuse.weight"
    weight = state.get(name)
    if weight is not None and weight.ndim >= 2 and weight.shape[1] % STAGES == 0:
        state[name] = torch.cat(weight.chunk(STAGES, dim=1)[::-1], dim=1)
