"""What the tests of strips and chunks share: fixed graphs, and a reference that knows no pieces."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch

from segformer_deploy.graph.chunk_fixed_size import fix_size
from segformer_deploy.model.segformer import Segformer
from segformer_deploy.spec import FrameSize
from tests.graph.lively import lively_model
from tests.model.checkpoint_builders import randomise
from tests.model.tiny import TINY, random_frames, spec_for

Array = npt.NDArray[Any]

SIZES = (FrameSize(64, 96), FrameSize(97, 133), FrameSize(128, 64), FrameSize(66, 71))
"""Multiples of 32, and others, whose stages do not divide one another."""


def fixed(size: FrameSize, seed: int = 1) -> onnx.ModelProto:
    return fix_size(lively_model(seed), size)


def frame(size: FrameSize, seed: int = 3) -> npt.NDArray[np.uint8]:
    return random_frames(1, size.height, size.width, seed)


def published_logits(size: FrameSize, seed: int = 1) -> Array:
    """The published network in PyTorch, float64; without the shift that makes classes lively."""
    spec = spec_for(TINY)
    network = randomise(Segformer(TINY), seed).double().eval()
    mean = torch.tensor(spec.mean, dtype=torch.float64).view(1, 3, 1, 1)
    std = torch.tensor(spec.std, dtype=torch.float64).view(1, 3, 1, 1)
    pixels = torch.from_numpy(frame(size)).permute(0, 3, 1, 2).double() / 255
    with torch.inference_mode():
        answer: Array = network((pixels - mean) / std).numpy()
    return answer


def count(model: onnx.ModelProto, op: str) -> int:
    return sum(node.op_type == op for node in model.graph.node)


def same_nodes(one: onnx.ModelProto, other: onnx.ModelProto) -> bool:
    """Whether a rewrite left every node where and as it was."""
    return list(one.graph.node) == list(other.graph.node)


def node_named(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    (found,) = (node for node in model.graph.node if node.name == name)
    return found


def set_attribute(node: onnx.NodeProto, name: str, value: Any) -> None:
    kept = [one for one in node.attribute if one.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])
