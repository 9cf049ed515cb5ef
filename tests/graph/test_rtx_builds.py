"""FP16, INT8 and mixed graphs parse and build with TensorRT-RTX, which needs no GPU for it.

Needs the extra `tensorrt-rtx`, which `make test-slow` installs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from segformer_deploy.graph.cast_fp16 import cast_fp16
from segformer_deploy.graph.insert_qdq import Recipe, insert_qdq, quantised_values
from segformer_deploy.shipped import ONNX_FILE, shipped_file
from tests.engine.trt.proof import rtx

pytestmark = pytest.mark.slow
NAMES = (
    *("fp32", "fp16", "fp16 with an island"),
    *("int8", "int8 and fp16", "int8 everywhere and fp16"),
)
STATIC = ((1, 512, 512, 3),) * 3
DYNAMIC = ((1, 64, 64, 3), (1, 512, 512, 3), (2, 1024, 1024, 3))


def graphs() -> dict[str, onnx.ModelProto]:
    path = shipped_file(ONNX_FILE)
    assert path is not None
    model = onnx.load(path)
    # What a range is makes no difference to a builder.
    ranges = dict.fromkeys(quantised_values(model), 4.0)
    int8 = insert_qdq(model, ranges, spelling="signed")
    everything = insert_qdq(model, ranges, Recipe.everything(), "signed")
    return {
        "fp32": model,
        "fp16": cast_fp16(model),
        "fp16 with an island": cast_fp16(model, ["stage1.block0.attended"]),
        "int8": int8,
        "int8 and fp16": cast_fp16(int8),
        "int8 everywhere and fp16": cast_fp16(everything),
    }


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("profile", [STATIC, DYNAMIC], ids=["static", "dynamic"])
def test_it_parses_and_builds(name: str, profile: Any) -> None:
    trt = rtx().api
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse(graphs()[name].SerializeToString())
    assert parsed, [parser.get_error(index).desc() for index in range(parser.num_errors)]
    config = builder.create_builder_config()
    shapes = builder.create_optimization_profile()
    shapes.set_shape("image", *profile)
    config.add_optimization_profile(shapes)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None
    assert np.frombuffer(plan, np.uint8).size > 1 << 20
