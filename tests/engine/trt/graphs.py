"""Graphs of a tiny network in the precisions that TensorRT gets, and their sizes as profiles."""

from __future__ import annotations

from functools import cache

import onnx

from segformer_deploy.engine.trt.build import Profile
from segformer_deploy.graph.cast_fp16 import cast_fp16
from segformer_deploy.graph.insert_qdq import Recipe, insert_qdq
from tests.graph.lively import lively_model, lively_ranges


def profile(*shapes: tuple[int, int, int]) -> Profile:
    """(batch, height, width), once for a fixed size, or smallest, usual and largest."""
    low, usual, high = ((*shape, 3) for shape in (shapes * 3 if len(shapes) == 1 else shapes))
    return {"image": (low, usual, high)}


STATIC = profile((1, 64, 64))
DYNAMIC = profile((1, 64, 64), (1, 96, 128), (2, 128, 160))


def int8_model(recipe: Recipe | None = None, *, fp16: bool = True) -> onnx.ModelProto:
    """The INT8 graph as TensorRT takes it, in FP16 or FP32 around the products."""
    model = insert_qdq(lively_model(), lively_ranges(), recipe, spelling="signed")
    return cast_fp16(model) if fp16 else model


@cache
def graph_bytes(name: str) -> bytes:
    models = {
        "fp32": lively_model,
        "fp16": lambda: cast_fp16(lively_model(), logits="fp16"),
        "int8": int8_model,
    }
    return bytes(models[name]().SerializeToString())
