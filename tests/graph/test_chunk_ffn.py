"""Mix-FFN in chunks of rows: the same bits, and what is left alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from segformer_deploy.graph.chunk_edit import static_shapes
from segformer_deploy.graph.chunk_ffn import chunk_ffn
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

FFN = "stage1.block0.ffn"


@pytest.mark.parametrize("limit", [1, 3000, 9000])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_same_bits(size: FrameSize, limit: int) -> None:
    whole = fixed(size)
    cut = chunk_ffn(whole, limit)
    onnx.checker.check_model(cut, full_check=True)
    assert count(cut, "Gelu") > count(whole, "Gelu")
    np.testing.assert_array_equal(logits_of(cut, frame(size)), logits_of(whole, frame(size)))


def test_no_hidden_map_is_larger_than_the_limit() -> None:
    size, limit = FrameSize(128, 64), 9000
    cut = chunk_ffn(fixed(size), limit)
    shapes = static_shapes(cut)
    gelus = [node.output[0] for node in cut.graph.node if node.op_type == "Gelu"]
    assert max(4 * int(np.prod(shapes[name])) for name in gelus) <= limit


def test_a_chunk_without_its_halo_would_be_noticed() -> None:
    size = FrameSize(64, 96)
    cut = chunk_ffn(fixed(size), 9000)
    whole = logits_of(cut, frame(size))
    inner = node_named(cut, f"{FFN}.depthwise.rows1")
    rows = node_named(cut, "stage1.block0.attended.ffn.rows1")
    start, end = (_first_number(cut, name) for name in rows.input[1:3])
    for name, value in (("a", start + 1), ("b", end)):
        cut.graph.initializer.append(onnx.numpy_helper.from_array(np.array([value]), name))
    rows.input[1] = "a"
    pads = list(next(one.ints for one in inner.attribute if one.name == "pads"))
    set_attribute(inner, "pads", [1, *pads[1:]])
    assert np.abs(logits_of(cut, frame(size)) - whole).max() > 1e-3


def _first_number(model: onnx.ModelProto, name: str) -> int:
    (tensor,) = (one for one in model.graph.initializer if one.name == name)
    return int(onnx.numpy_helper.to_array(tensor)[0])


def test_what_fits_already_is_left_alone() -> None:
    whole = fixed(FrameSize(64, 96))
    assert same_nodes(chunk_ffn(whole, 1 << 30), whole)


def _dilated(model: onnx.ModelProto) -> None:
    node = node_named(model, f"{FFN}.depthwise")
    set_attribute(node, "dilations", [2, 2])
    set_attribute(node, "pads", [2, 2, 2, 2])


def _hidden_read_twice(model: onnx.ModelProto) -> None:
    model.graph.output.append(
        onnx.helper.make_tensor_value_info(
            f"{FFN}.gelu", onnx.TensorProto.FLOAT, static_shapes(model)[f"{FFN}.gelu"]
        )
    )


@pytest.mark.parametrize("change", [_dilated, _hidden_read_twice])
def test_a_near_miss_is_left_alone(change: Callable[[onnx.ModelProto], None]) -> None:
    whole = fixed(FrameSize(64, 96))
    change(whole)
    cut = chunk_ffn(whole, 3000)
    node_named(cut, f"{FFN}.depthwise")  # as it was; the others are cut
    assert not any(node.name.startswith(f"{FFN}.depthwise.") for node in cut.graph.node)
    assert count(cut, "Gelu") > count(whole, "Gelu")


def test_int8_is_left_alone() -> None:
    quantised = insert_qdq(lively_model(), lively_ranges(), Recipe())
    whole = fix_size(quantised, FrameSize(64, 96))
    assert same_nodes(chunk_ffn(whole, 3000), whole)
