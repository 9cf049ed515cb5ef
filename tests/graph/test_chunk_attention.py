"""Attention in chunks of queries: the same bits, and what is left alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from segformer_deploy.graph.chunk_attention import chunk_attention
from segformer_deploy.graph.chunk_edit import static_shapes
from segformer_deploy.graph.chunk_fixed_size import fix_size
from segformer_deploy.graph.insert_qdq import Recipe, insert_qdq
from segformer_deploy.spec import FrameSize
from tests.graph.lively import lively_model, lively_ranges, logits_of
from tests.graph.pieces import (
    SIZES,
    count,
    fixed,
    frame,
    node_named,
    same_nodes,
    set_attribute,
)

ATTENTION = "stage1.block0.attention"


@pytest.mark.parametrize("limit", [1, 2000])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_same_answer(size: FrameSize, limit: int) -> None:
    """To the bit where a chunk has several rows; a library may treat a single one otherwise."""
    whole = fixed(size)
    cut = chunk_attention(whole, limit)
    onnx.checker.check_model(cut, full_check=True)
    assert count(cut, "Softmax") > count(whole, "Softmax")
    expected = logits_of(whole, frame(size))
    found = logits_of(cut, frame(size))
    if limit > 1:
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(found, expected, rtol=0, atol=4e-6 * np.abs(expected).max())


def test_no_scores_are_larger_than_the_limit() -> None:
    limit = 2000
    cut = chunk_attention(fixed(FrameSize(128, 64)), limit)
    shapes = static_shapes(cut)
    sizes = [
        (4 * int(np.prod(shapes[node.output[0]])), "rows" in node.name)
        for node in cut.graph.node
        if node.op_type == "Softmax"
    ]
    assert all(nbytes <= limit for nbytes, _ in sizes)
    assert any(in_piece for _, in_piece in sizes)


def test_keys_and_values_are_made_once() -> None:
    whole = fixed(FrameSize(64, 96))
    cut = chunk_attention(whole, 2000)
    for name in ("key_value", "reduce", "reduce_norm"):
        node_named(cut, f"{ATTENTION}.{name}")
    assert count(cut, "LayerNormalization") == count(whole, "LayerNormalization")


def test_what_fits_already_is_left_alone() -> None:
    whole = fixed(FrameSize(64, 96))
    assert same_nodes(chunk_attention(whole, 1 << 30), whole)


def _over_queries(model: onnx.ModelProto) -> None:
    """A softmax over the queries: no query is apart from the others then."""
    softmax = node_named(model, f"{ATTENTION}.softmax")
    rank = len(static_shapes(model)[softmax.output[0]])
    set_attribute(softmax, "axis", rank - 2)


def _weights_given_out(model: onnx.ModelProto) -> None:
    name = f"{ATTENTION}.softmax"
    shape = static_shapes(model)[name]
    value = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
    model.graph.output.append(value)


@pytest.mark.parametrize("change", [_over_queries, _weights_given_out])
def test_a_near_miss_is_left_alone(change: Callable[[onnx.ModelProto], None]) -> None:
    whole = fixed(FrameSize(64, 96))
    change(whole)
    cut = chunk_attention(whole, 1000)
    softmaxes = [node.name for node in cut.graph.node if node.op_type == "Softmax"]
    assert f"{ATTENTION}.softmax" in softmaxes
    assert not any(name.startswith(f"{ATTENTION}.softmax.rows") for name in softmaxes)
    assert any(".rows" in name for name in softmaxes)


def test_int8_is_left_alone() -> None:
    quantised = insert_qdq(lively_model(), lively_ranges(), Recipe(attention=True))
    whole = fix_size(quantised, FrameSize(64, 96))
    assert same_nodes(chunk_attention(whole, 1000), whole)
