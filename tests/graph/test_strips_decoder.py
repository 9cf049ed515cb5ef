"""The decoder in strips: bits where stages divide one another, algebra elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segformer_deploy.graph.chunk_edit import static_shapes
from segformer_deploy.graph.chunk_fixed_size import fix_size
from segformer_deploy.graph.strips_decoder import (
    TOLERANCE,
    bilinear_rows,
    is_exact_to_the_bit,
    strip_decoder,
)
from segformer_deploy.model.export import onnx_from_model
from segformer_deploy.model.segformer import Segformer
from segformer_deploy.spec import FrameSize
from tests.graph.lively import logits_of
from tests.graph.pieces import (
    SIZES,
    count,
    fixed,
    frame,
    node_named,
    same_nodes,
    set_attribute,
)
from tests.model.checkpoint_builders import randomise
from tests.model.tiny import TINY, spec_for

EXACT = {FrameSize(64, 96), FrameSize(128, 64)}


@pytest.mark.parametrize("limit", [1, 3000, 7000])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_same_logits(size: FrameSize, limit: int) -> None:
    whole = fixed(size)
    cut = strip_decoder(whole, limit)
    onnx.checker.check_model(cut, full_check=True)
    assert count(cut, "Resize") > count(whole, "Resize")
    expected, found = logits_of(whole, frame(size)), logits_of(cut, frame(size))
    assert is_exact_to_the_bit(whole) == (size in EXACT)
    if size in EXACT:
        np.testing.assert_array_equal(found, expected)
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_a_head_that_projects_and_activates_first() -> None:
    config = replace(TINY, stage_activation=True)
    model = onnx_from_model(randomise(Segformer(config), 2), spec_for(config))
    size = FrameSize(97, 133)
    whole = fix_size(model, size)
    cut = strip_decoder(whole, 3000)
    expected, found = logits_of(whole, frame(size)), logits_of(cut, frame(size))
    assert count(cut, "Resize") > count(whole, "Resize")
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_no_map_of_the_sum_is_larger_than_the_limit() -> None:
    limit = 3000
    cut = strip_decoder(fixed(FrameSize(128, 64)), limit)
    shapes = static_shapes(cut)
    relus = [node.output[0] for node in cut.graph.node if node.op_type == "Relu"]
    assert len(relus) > 1
    assert all(4 * int(np.prod(shapes[name])) <= limit for name in relus)


def test_a_strip_without_its_halo_would_be_noticed() -> None:
    size = FrameSize(128, 64)
    cut = strip_decoder(fixed(size), 7000)
    expected = logits_of(cut, frame(size))
    source = node_named(cut, "decoder.stage2.resized.source.rows1")
    (start,) = (one for one in cut.graph.initializer if one.name == source.input[1])
    row = int(onnx.numpy_helper.to_array(start)[0])
    cut.graph.initializer.append(onnx.numpy_helper.from_array(np.array([row - 1]), "other"))
    (end,) = (one for one in cut.graph.initializer if one.name == source.input[2])
    last = int(onnx.numpy_helper.to_array(end)[0])
    cut.graph.initializer.append(onnx.numpy_helper.from_array(np.array([last - 1]), "last"))
    source.input[1], source.input[2] = "other", "last"
    assert np.abs(logits_of(cut, frame(size)) - expected).max() > 1e-3


@given(st.integers(1, 40), st.integers(0, 400))
def test_row_weights_are_pytorch_s(source: int, more: int) -> None:
    target = source + more
    values = torch.eye(source, dtype=torch.float64)[None, :, :, None]
    whole = torch.nn.functional.interpolate(
        values, (target, 1), mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(
        bilinear_rows(source, target), whole[0, :, :, 0].numpy().T, rtol=0, atol=1e-12
    )


def test_what_fits_already_is_left_alone() -> None:
    whole = fixed(FrameSize(64, 96))
    assert same_nodes(strip_decoder(whole, 1 << 30), whole)


def _corners_aligned(model: onnx.ModelProto) -> None:
    node = node_named(model, "decoder.stage3.resized")
    set_attribute(node, "coordinate_transformation_mode", "align_corners")


def _nearest(model: onnx.ModelProto) -> None:
    set_attribute(node_named(model, "decoder.stage3.resized"), "mode", "nearest")


@pytest.mark.parametrize("change", [_corners_aligned, _nearest])
def test_a_near_miss_is_left_alone(change: Callable[[onnx.ModelProto], None]) -> None:
    whole = fixed(FrameSize(64, 96))
    change(whole)
    assert same_nodes(strip_decoder(whole, 3000), whole)


def test_a_sum_that_is_read_elsewhere_is_left_alone() -> None:
    whole = fixed(FrameSize(64, 96))
    shape = static_shapes(whole)["decoder.sum2"]
    twin = onnx.helper.make_node("Identity", ["decoder.sum2"], ["twin"], name="twin")
    whole.graph.node.append(twin)
    whole.graph.output.append(
        onnx.helper.make_tensor_value_info("twin", onnx.TensorProto.FLOAT, shape)
    )
    assert same_nodes(strip_decoder(whole, 3000), whole)
