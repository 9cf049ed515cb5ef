"""A SegFormer's weights as NumPy arrays, in the deploy form (see `segformer_deploy.model.folds`).

The only module here that uses torch. Projections are [in, out]; a convolution is one such
matrix per row of its kernel, [k, k*C_in, C_out], because a row of channels-last tokens lies
contiguous; a depthwise kernel is [3, 3, C].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from segformer_deploy.errors import CheckpointError
from segformer_deploy.model.variants import SegformerConfig

if TYPE_CHECKING:
    from segformer_deploy.model.segformer import Segformer

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Affine:
    weight: Floats
    bias: Floats


@dataclass(frozen=True)
class Norm:
    gain: Floats
    bias: Floats
    eps: float


@dataclass(frozen=True)
class Block:
    norm1: Norm
    query: Affine
    reduce: Affine | None
    reduce_norm: Norm | None
    key_value: Affine
    output: Affine
    norm2: Norm
    expand: Affine
    depthwise: Affine
    contract: Affine


@dataclass(frozen=True)
class StageWeights:
    embed: Affine
    embed_norm: Norm
    blocks: tuple[Block, ...]
    norm: Norm


@dataclass(frozen=True)
class Network:
    """`mean`: subtracted from pixel values 0 to 255; `fuse`: [sum of C, head channels]."""

    config: SegformerConfig
    mean: Floats
    stages: tuple[StageWeights, ...]
    fuse: Affine
    classifier: Affine

    @property
    def weights(self) -> int:
        """Weights without biases and norms: bytes in flash at 8 bits."""
        parts = [self.fuse, self.classifier]
        for stage in self.stages:
            parts.append(stage.embed)
            for b in stage.blocks:
                parts += [b.query, b.key_value, b.output, b.expand, b.depthwise, b.contract]
                parts += [b.reduce] if b.reduce is not None else []
        return sum(part.weight.size for part in parts)


def network_from_model(model: Segformer, mean: Sequence[float], std: Sequence[float]) -> Network:
    """The arrays of `model`; CheckpointError for a head with an activation per stage."""
    from segformer_deploy.model.deploy import deploy_form

    if model.config.stage_activation:
        raise CheckpointError(
            "a decode head with ReLU after each stage's projection",
            "the published decode head: its projections fold into one",
        )
    form = deploy_form(model, mean, std)
    head = form.decoder
    fuse = np.concatenate([_array(stage.fuse.weight) for stage in head.stages])
    return Network(
        model.config,
        _array(form.mean).reshape(3),
        tuple(_stage(stage) for stage in form.stages),
        Affine(fuse, _array(head.stage4.fuse.bias)),
        _projection(head.classifier),
    )


def _array(tensor: Any) -> Floats:
    return np.ascontiguousarray(tensor.detach().numpy(), np.float32)


def _projection(layer: Any) -> Affine:
    weight = _array(layer.weight)
    bias = np.zeros(weight.shape[1], np.float32) if layer.bias is None else _array(layer.bias)
    return Affine(weight, bias)


def _convolution(layer: Any) -> Affine:
    """[O, C, k, k] -> [k, k*C, O]."""
    outputs, inputs, rows, columns = layer.weight.shape
    weight = _array(layer.weight.permute(2, 3, 1, 0))
    return Affine(weight.reshape(rows, columns * inputs, outputs), _array(layer.bias))


def _norm(layer: Any) -> Norm:
    return Norm(_array(layer.weight), _array(layer.bias), float(layer.eps))


def _block(block: Any) -> Block:
    attention, ffn = block.attention, block.ffn
    reduces = attention.reduce is not None
    depthwise = ffn.depthwise
    return Block(
        norm1=_norm(block.norm1),
        query=_projection(attention.query),
        reduce=_convolution(attention.reduce) if reduces else None,
        reduce_norm=_norm(attention.reduce_norm) if reduces else None,
        key_value=_projection(attention.key_value),
        output=_projection(attention.output),
        norm2=_norm(block.norm2),
        expand=Affine(_array(ffn.expand.weight[:, :, 0, 0].T), _array(ffn.expand.bias)),
        depthwise=Affine(_array(depthwise.weight[:, 0].permute(1, 2, 0)), _array(depthwise.bias)),
        contract=Affine(_array(ffn.contract.weight[:, :, 0, 0].T), _array(ffn.contract.bias)),
    )


def _stage(stage: Any) -> StageWeights:
    return StageWeights(
        _convolution(stage.embed),
        _norm(stage.embed_norm),
        tuple(_block(block) for block in stage.blocks),
        _norm(stage.norm),
    )
