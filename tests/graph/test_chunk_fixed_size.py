"""A graph of one size answers to the bit as the graph of all sizes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from segformer_deploy.errors import OnnxFileError, SpecError
from segformer_deploy.graph.append_class_map import append_class_map
from segformer_deploy.graph.chunk_fixed_size import fix_size
from segformer_deploy.spec import FrameSize
from tests.graph.lively import lively_model, logits_of
from tests.graph.pieces import SIZES, count, fixed, frame, published_logits


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_same_bits(size: FrameSize) -> None:
    model = fixed(size)
    onnx.checker.check_model(model, full_check=True)
    assert count(model, "Shape") == 0
    np.testing.assert_array_equal(
        logits_of(model, frame(size)), logits_of(lively_model(), frame(size))
    )


def test_it_is_the_published_network() -> None:
    """But for the classifier's bias, which `lively_model` moves: one number per class."""
    size = SIZES[1]
    difference = logits_of(fixed(size), frame(size)) - published_logits(size)
    shift = np.median(difference, axis=(0, 2, 3), keepdims=True)
    assert np.abs(difference - shift).max() < 1e-4 * np.abs(published_logits(size)).max()


def test_its_borders_say_the_size() -> None:
    model = fixed(FrameSize(97, 133))
    dims = [d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim]
    assert dims == [1, 7, 25, 34]
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [1, 97, 133, 3]


def test_the_source_is_not_changed() -> None:
    model = lively_model()
    before = model.SerializeToString()
    fix_size(model, FrameSize(64, 64))
    assert model.SerializeToString() == before


def test_a_graph_that_gives_class_maps_is_refused() -> None:
    with pytest.raises(OnnxFileError, match="class_map"):
        fix_size(append_class_map(lively_model()), FrameSize(64, 64))


def test_a_size_below_the_network_s_is_refused() -> None:
    with pytest.raises(SpecError, match="32x64"):
        fix_size(lively_model(), FrameSize(32, 64))
