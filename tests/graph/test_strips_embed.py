"""The first convolution in strips: the same bits, and what is left alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from segformer_deploy.graph.strips_embed import strip_embedding
from segformer_deploy.spec import FrameSize
from tests.graph.lively import logits_of
from tests.graph.pieces import SIZES, fixed, frame, node_named, same_nodes, set_attribute


@pytest.mark.parametrize("limit", [1, 20_000])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_same_bits(size: FrameSize, limit: int) -> None:
    whole = fixed(size)
    cut = strip_embedding(whole, limit)
    onnx.checker.check_model(cut, full_check=True)
    assert not same_nodes(cut, whole)
    np.testing.assert_array_equal(logits_of(cut, frame(size)), logits_of(whole, frame(size)))


def test_zeros_stand_only_where_the_frame_ends() -> None:
    cut = strip_embedding(fixed(FrameSize(97, 133)), 20_000)
    pads = [
        list(next(one.ints for one in node.attribute if one.name == "pads"))
        for node in cut.graph.node
        if node.name.startswith("stage1.embed.rows")
    ]
    assert len(pads) > 2
    # The 7x7 with stride 4 reads 3 rows above the frame, and 2 below one of 97 = 4 * 24 + 1.
    assert pads[0] == [3, 3, 0, 3]
    assert pads[-1] == [0, 3, 3, 3]
    assert all(inner == [0, 3, 0, 3] for inner in pads[1:-1])


def test_what_fits_already_is_left_alone() -> None:
    whole = fixed(FrameSize(64, 96))
    assert same_nodes(strip_embedding(whole, 1 << 30), whole)


def _mean_per_pixel(model: onnx.ModelProto) -> None:
    (mean,) = (one for one in model.graph.initializer if one.name == "mean")
    values = np.broadcast_to(onnx.numpy_helper.to_array(mean), (3, 64, 96))
    mean.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(values), "mean"))


def _dilated(model: onnx.ModelProto) -> None:
    set_attribute(node_named(model, "stage1.embed"), "dilations", [2, 2])
    set_attribute(node_named(model, "stage1.embed"), "pads", [6, 6, 6, 6])


@pytest.mark.parametrize("change", [_mean_per_pixel, _dilated])
def test_a_near_miss_is_left_alone(change: Callable[[onnx.ModelProto], None]) -> None:
    whole = fixed(FrameSize(64, 96))
    change(whole)
    assert same_nodes(strip_embedding(whole, 20_000), whole)
