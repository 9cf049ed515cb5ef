"""The network that a checkpoint's weights belong to, and whether they fit it exactly."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from segformer_deploy.errors import CheckpointError
from segformer_deploy.model.checkpoint_names import BATCH_COUNT, ENCODER, STAGES, Style
from segformer_deploy.model.segformer import VARIANTS, Four, Segformer, SegformerConfig

# LayerNorm's epsilon (inside blocks and at stage ends; in patch embeddings and after sequence
# reduction). transformers reads `layer_norm_eps` from config.json and never uses it: every one
# of its LayerNorms keeps PyTorch's 1e-5. The authors pass 1e-6 to the blocks alone,
# mmsegmentation to every LayerNorm of the encoder.
_EPSILONS: dict[Style, tuple[float, float]] = {
    "transformers": (1e-5, 1e-5),
    "nvlabs": (1e-6, 1e-5),
    "mmseg": (1e-6, 1e-6),
}
# What config.json may state and only one value of is a SegFormer.
_FIXED: dict[str, Any] = {"num_encoder_blocks": STAGES, "num_channels": 3, "hidden_act": "gelu"}
# Where a config.json leaves a field out, transformers takes B0's value.
_B0 = VARIANTS["b0"]
_STAGE_FIELDS: dict[str, Four] = {
    "hidden_sizes": _B0.widths,
    "depths": _B0.depths,
    "num_attention_heads": _B0.heads,
    "sr_ratios": _B0.reductions,
    "patch_sizes": _B0.patch_sizes,
    "strides": _B0.strides,
    "mlp_ratios": (_B0.mlp_ratio, _B0.mlp_ratio, _B0.mlp_ratio, _B0.mlp_ratio),
}


def config_from_json(data: Mapping[str, Any], state: Mapping[str, Tensor]) -> SegformerConfig:
    """The network that transformers' ``config.json`` describes; classes as in `state`.

    Raises:
        CheckpointError: another model, or a network that is no SegFormer.
    """
    for key, wanted in _FIXED.items():
        if data.get(key, wanted) != wanted:
            raise CheckpointError(
                f"config.json has {key} = {data[key]!r}",
                f"{key} = {wanted!r}, as every SegFormer",
                "give a SegFormer checkpoint for RGB frames",
            )
    stages = {name: _four(data.get(name, default), name) for name, default in _STAGE_FIELDS.items()}
    ratio, *others = stages["mlp_ratios"]
    if any(other != ratio for other in others):
        raise CheckpointError(
            f"config.json has mlp_ratios = {list(stages['mlp_ratios'])}",
            "one ratio for all stages",
            "give one of the published variants",
        )
    channels = data.get("decoder_hidden_size", _B0.head_channels)
    if not isinstance(channels, int):
        raise _unreadable("decoder_hidden_size", channels)
    block_eps, embed_eps = _EPSILONS["transformers"]
    return SegformerConfig(
        widths=stages["hidden_sizes"],
        depths=stages["depths"],
        head_channels=channels,
        classes=_size(state, "decode_head.classifier.weight"),
        heads=stages["num_attention_heads"],
        reductions=stages["sr_ratios"],
        mlp_ratio=ratio,
        patch_sizes=stages["patch_sizes"],
        strides=stages["strides"],
        block_eps=block_eps,
        embed_eps=embed_eps,
    )


def _four(value: Any, name: str) -> Four:
    if not isinstance(value, (list, tuple)) or len(value) != STAGES:
        raise _unreadable(name, value)
    # 4.0 is as whole as 4; JSON has one kind of number.
    if not all(isinstance(v, (int, float)) and float(v).is_integer() and v >= 1 for v in value):
        raise _unreadable(name, value)
    first, second, third, fourth = (int(v) for v in value)
    return first, second, third, fourth


def _unreadable(name: str, value: Any) -> CheckpointError:
    return CheckpointError(
        f"config.json has {name} = {value!r}",
        "a whole number"
        if name == "decoder_hidden_size"
        else "four whole numbers from 1 up, one per stage",
        "download config.json again",
    )


def config_from_shapes(state: Mapping[str, Tensor], style: Style) -> SegformerConfig:
    """The network whose weights these are; the number of heads is the published one.

    Raises:
        CheckpointError: a tensor that tells a width is missing.
    """
    widths = [
        _size(state, f"{ENCODER}.patch_embeddings.{stage}.proj.weight") for stage in range(STAGES)
    ]
    block = re.compile(rf"{re.escape(ENCODER)}\.block\.(\d+)\.(\d+)\.")
    blocks = {(int(m[1]), int(m[2])) for name in state if (m := block.match(name))}
    # The largest index, not the count: a block lost in the middle is then a missing tensor.
    depths = [1 + max((b for s, b in blocks if s == stage), default=0) for stage in range(STAGES)]
    block_eps, embed_eps = _EPSILONS[style]
    return SegformerConfig(
        widths=_four(widths, "hidden_sizes"),
        depths=_four(depths, "depths"),
        head_channels=_size(state, "decode_head.linear_fuse.weight"),
        classes=_size(state, "decode_head.classifier.weight"),
        block_eps=block_eps,
        embed_eps=embed_eps,
    )


def variant_of(config: SegformerConfig) -> str:
    """``b0`` to ``b5``, or ``custom`` for a network of other sizes."""
    same = (name for name, other in VARIANTS.items() if _sizes(other) == _sizes(config))
    return next(same, "custom")


def _sizes(config: SegformerConfig) -> tuple[Any, ...]:
    """What makes a variant; classes, epsilons and the head's activation do not."""
    encoder = (config.widths, config.depths, config.heads, config.reductions, config.mlp_ratio)
    return (*encoder, config.patch_sizes, config.strides, config.head_channels)


def _size(state: Mapping[str, Tensor], name: str) -> int:
    """The output channels that tensor `name` has."""
    value = state.get(name)
    if value is None or not value.ndim:
        raise CheckpointError(
            f"the checkpoint has no {name}",
            "every tensor of a SegFormer for semantic segmentation",
            "download the checkpoint again",
        )
    return int(value.shape[0])


def check_request(config: SegformerConfig, variant: str | None, classes: int | None) -> None:
    """Refuse a checkpoint of another variant, or with another number of classes, than asked."""
    if variant is not None and variant not in VARIANTS:
        raise CheckpointError(f"variant '{variant}'", "one of " + ", ".join(VARIANTS))
    found = variant_of(config)
    if variant is not None and found != variant:
        raise CheckpointError(
            f"the checkpoint is a SegFormer {found} (channels {config.widths}, "
            f"depths {config.depths}), and {variant} was asked for",
            f"a checkpoint of {variant}",
            f"leave --variant out, or give --variant {found}"
            if found in VARIANTS
            else "leave --variant out",
        )
    if classes is not None and classes != config.classes:
        raise CheckpointError(
            f"the checkpoint's classifier has {config.classes} classes, {classes} were asked for",
            f"a checkpoint with {classes} classes",
            f"leave --classes out, or give --classes {config.classes}",
        )


def fitted_state(state: Mapping[str, Tensor], config: SegformerConfig) -> dict[str, Tensor]:
    """`state` as FP32 in the model's own order; nothing missing, nothing left over.

    Raises:
        CheckpointError: missing or extra tensors, another shape or kind of number, NaN or Inf.
    """
    with torch.device("meta"):
        shapes = {name: tuple(t.shape) for name, t in Segformer(config).state_dict().items()}
    given = dict(state)
    given.setdefault(BATCH_COUNT, torch.zeros((), dtype=torch.int64))
    _check_names(set(shapes), set(given))
    fitted = {}
    for name, shape in shapes.items():
        value = given[name]
        if tuple(value.shape) != shape:
            raise CheckpointError(
                f"tensor {name} has shape {tuple(value.shape)}",
                f"shape {shape} for this network",
                "check that the weights and their configuration belong together",
            )
        fitted[name] = value if name == BATCH_COUNT else _finite_fp32(name, value)
    return fitted


def _check_names(wanted: set[str], given: set[str]) -> None:
    for what, names in (("lacks", wanted - given), ("has", given - wanted)):
        if names:
            tensors = "tensor" if len(names) == 1 else "tensors"
            listed = ", ".join(sorted(names)[:3]) + (", …" if len(names) > 3 else "")
            kind = "unknown " if what == "has" else ""
            raise CheckpointError(
                f"the checkpoint {what} {len(names)} {kind}{tensors}: {listed}",
                "exactly the tensors of a SegFormer for semantic segmentation",
                "download the checkpoint again, or save the bare network's state dict",
            )


def _finite_fp32(name: str, value: Tensor) -> Tensor:
    if not value.is_floating_point():
        raise CheckpointError(
            f"tensor {name} holds {str(value.dtype).removeprefix('torch.')}",
            "floating-point weights",
            "give the checkpoint from before it was quantised",
        )
    value = value.detach().to(torch.float32).contiguous()
    if not bool(torch.isfinite(value).all()):
        kind = "NaN" if bool(torch.isnan(value).any()) else "Inf"
        raise CheckpointError(
            f"found {kind} in tensor {name}",
            "finite weights",
            "take an earlier checkpoint of that training, or download it again",
        )
    return value
