"""FP16 on a CPU: every result is an FP16 number, and the one that rounding the exact one gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto

from segformer_deploy.graph.cast_fp16 import cast_fp16
from segformer_deploy.graph.insert_qdq import Recipe, insert_qdq
from segformer_deploy.graph.round_fp16 import round_fp16
from tests.graph.half_reference import run_node, run_rounding
from tests.graph.lively import (
    lively_model,
    lively_ranges,
    logits_of,
    scale_weight,
    set_weight,
    values_of,
    weights_of,
)
from tests.model.tiny import random_frames

ISLANDS = ("stage1.block0.norm1", "stage2.block0.attention.softmax", "stage3.embed")
Array = npt.NDArray[Any]


def int8_model() -> onnx.ModelProto:
    return insert_qdq(lively_model(), lively_ranges(), Recipe.everything(), "signed")


GRAPHS = {
    "fp16": lambda: cast_fp16(lively_model()),
    "fp16 logits": lambda: cast_fp16(lively_model(), logits="fp16"),
    "islands": lambda: cast_fp16(lively_model(), ISLANDS),
    "int8": lambda: cast_fp16(int8_model()),
}


@pytest.fixture(params=GRAPHS)
def half(request: pytest.FixtureRequest) -> onnx.ModelProto:
    """A graph in FP16."""
    return GRAPHS[request.param]()


def dtypes_of(model: onnx.ModelProto, reference: Mapping[str, Array]) -> dict[str, np.dtype[Any]]:
    return {name: reference[name].dtype for node in model.graph.node for name in node.output}


def ulps(found: Array, expected: Array) -> Array:
    """By how many FP16 numbers two arrays of such numbers differ."""

    def rank(values: Array) -> Array:
        bits = values.astype(np.float16).view(np.int16).astype(np.int32)
        return np.where(bits < 0, -(bits & 0x7FFF), bits)

    return np.abs(rank(found) - rank(expected))


def test_every_node_gives_the_exact_result_rounded(half: onnx.ModelProto) -> None:
    """Node by node on the same inputs: the reference computes in float64 and rounds once.

    FP32's own error moves a result across the border between two FP16 numbers now and then:
    one step, in 1 % of the results of a node at most (or in a single one).
    """
    frames = random_frames(1, 64, 96, seed=3)
    reference = run_rounding(half, frames)
    dtypes = dtypes_of(half, reference)
    seen = values_of(round_fp16(half), dtypes, frames, literal=True)
    values = {**reference, **{name: seen[name].astype(dtypes[name]) for name in dtypes}}
    halves = 0
    for node in half.graph.node:
        for name, expected in zip(node.output, run_node(node, values), strict=True):
            if expected.dtype == np.float16:
                halves += 1
                assert seen[name].dtype == np.float32
                assert np.array_equal(values[name].astype(np.float32), seen[name]), name
                steps = ulps(values[name], expected)
                # Where terms cancel, FP32's error is many steps of what is left.
                near_0 = np.abs(expected) < 1e-3 * np.abs(expected).max()
                assert steps[~near_0].max(initial=0) <= 1, name
                assert np.count_nonzero(steps) <= 1 + 0.01 * steps.size, name
            elif expected.dtype == np.float32:
                np.testing.assert_allclose(seen[name], expected, rtol=1e-4, atol=1e-4)
            else:
                assert np.mean(seen[name] != expected) < 1e-3, name
    assert halves > 100


@pytest.mark.parametrize("seed", [1, 3])
def test_a_whole_network_answers_as_the_reference_does(seed: int) -> None:
    """Within 8 FP16 steps of the largest logit: one flipped bit goes through all that follows."""
    model = cast_fp16(lively_model(seed), logits="fp16")
    for frames in (random_frames(1, 64, 64, seed=4), random_frames(2, 97, 133, seed=5)):
        expected = run_rounding(model, frames)["logits"]
        found = logits_of(round_fp16(model), frames)
        assert (expected.dtype, found.dtype) == (np.float16, np.float32)
        assert len(np.unique(expected.argmax(axis=1))) > 3
        step = float(np.spacing(np.abs(expected).max()))
        assert np.abs(found - expected.astype(np.float64)).max() <= 8 * step
        assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() >= 0.99


def test_optimisation_leaves_the_roundings_in() -> None:
    """Bits of the value after the first convolution, which ONNX Runtime fuses where it may."""
    model, frames = round_fp16(cast_fp16(lively_model())), random_frames(1, 64, 96)
    names = ["stage1.embed", "stage1.embed_norm", "stage1.block0.ffn.gelu", "decoder.relu"]
    for literal in (False, True):
        for name, value in values_of(model, names, frames, literal=literal).items():
            assert np.array_equal(value, value.astype(np.float16)), (name, literal)
    exact = values_of(lively_model(), names, frames)
    assert all((value != value.astype(np.float16)).mean() > 0.3 for value in exact.values())


def test_the_graph_is_fp32_with_fp16_between_two_casts(half: onnx.ModelProto) -> None:
    untouched = half.SerializeToString()
    model = round_fp16(half)
    assert half.SerializeToString() == untouched
    onnx.checker.check_model(model, full_check=True)
    assert not [w for w in weights_of(model).values() if w.dtype == np.float16]
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.output)}
    assert kinds["logits"] == TensorProto.FLOAT
    for node in model.graph.node:
        halves = [name for name in node.output if kinds[name] == TensorProto.FLOAT16]
        assert not halves or node.op_type == "Cast", node.name
    for name, weight in weights_of(half).items():
        assert np.array_equal(weights_of(model)[name], weight), name
    assert [one.name for one in model.graph.output] == ["logits"]


def test_a_graph_without_fp16_stays_as_it_is() -> None:
    for model in (lively_model(), int8_model()):
        assert round_fp16(model).SerializeToString() == model.SerializeToString()


def test_what_fp16_cannot_hold_is_infinite() -> None:
    source, name = lively_model(), "stage1.embed"
    scale_weight(source, f"{name}.weight", 1e5)
    frames = random_frames(1, 64, 64)
    exact = values_of(source, [name], frames)[name]
    assert np.abs(exact).max() > 65504 * 2
    found = values_of(round_fp16(cast_fp16(source)), [name], frames)[name]
    beyond = np.abs(exact) > 66000
    assert beyond.any()
    assert np.array_equal(found[beyond], np.sign(exact[beyond]) * np.inf)
    assert np.isfinite(found[np.abs(exact) < 65000]).all()
    kept = round_fp16(cast_fp16(source, [name]))
    assert np.isfinite(values_of(kept, [name], frames)[name]).all()


def test_what_is_too_small_for_fp16_is_0() -> None:
    source, name = lively_model(), "stage1.block0.ffn.contract"
    set_weight(source, f"{name}.bias", np.zeros(8))
    scale_weight(source, f"{name}.weight", 1e-4)
    scale_weight(source, "stage1.block0.ffn.depthwise.weight", 1e-4)
    set_weight(source, "stage1.block0.ffn.depthwise.bias", np.zeros(32))
    frames = random_frames(1, 64, 64)
    exact = values_of(source, [name], frames)[name]
    assert 0 < np.abs(exact).max() < 2e-7
    found = values_of(round_fp16(cast_fp16(source)), [name], frames)[name]
    assert set(np.abs(found).ravel()) <= {k * 2.0**-24 for k in range(5)}
    assert (found == 0).mean() > 0.5
