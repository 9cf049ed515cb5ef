"""INT8 graphs: with which integers, against a quantiser written here; and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch.nn import functional

from segformer_deploy.errors import OnnxFileError, SpecError
from segformer_deploy.graph.append_class_map import append_class_map
from segformer_deploy.graph.cast_fp16 import cast_fp16
from segformer_deploy.graph.insert_qdq import (
    Recipe,
    Spelling,
    insert_qdq,
    quantised_values,
    quantised_weight,
    scale_from_range,
)
from tests.graph.lively import (
    lively_model,
    lively_ranges,
    logits_of,
    nodes_of,
    scale_weight,
    values_of,
    weights_of,
)
from tests.model.tiny import random_frames

HALVES = np.arange(1, 0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
"""All finite FP16 numbers above 0, in order."""


def smallest_half_that_holds(largest: float) -> float:
    """The smallest FP16 number of which 127 hold `largest`, from the list of all."""
    return float(HALVES[np.searchsorted(HALVES * 127, largest)])


def int8_model(recipe: Recipe | None = None, spelling: Spelling = "unsigned") -> onnx.ModelProto:
    return insert_qdq(lively_model(), lively_ranges(), recipe, spelling)


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


@pytest.fixture(params=["signed", "unsigned"])
def spelling(request: pytest.FixtureRequest) -> Spelling:
    return request.param


@pytest.mark.parametrize("recipe", [Recipe(), Recipe.everything()], ids=["default", "everything"])
def test_both_spellings_are_the_same_integers(recipe: Recipe) -> None:
    frames = random_frames(2, 64, 96, seed=3)
    signed, unsigned = (int8_model(recipe, one) for one in ("signed", "unsigned"))
    names = [f"{name}.quantized" for name in quantised_values(lively_model(), recipe)]
    found = values_of(signed, [*names, "logits"], frames, literal=True)
    other = values_of(unsigned, [*names, "logits"], frames, literal=True)
    for name in names:
        assert (found[name].dtype, other[name].dtype) == (np.int8, np.uint8)
        assert np.array_equal(found[name], other[name].astype(np.int16) - 128), name
        assert len(np.unique(found[name])) > 20, name
    assert np.array_equal(found["logits"], other["logits"])
    classes = found["logits"].argmax(axis=1)
    assert len(np.unique(classes)) > 2
    in_fp32 = logits_of(lively_model(), frames).argmax(axis=1)
    assert (classes == in_fp32).mean() > 0.7


@pytest.mark.parametrize("name", ["stage1.block0.norm1", "decoder.relu", "stage2.block0.ffn.gelu"])
def test_values_are_rounded_to_the_nearest_step(name: str, spelling: Spelling) -> None:
    ranges = lively_ranges()
    ranges[name] *= 0.7  # so that some values lie beyond the grid
    model = insert_qdq(lively_model(), ranges, spelling=spelling)
    frames = random_frames(1, 64, 96, seed=3)
    found = values_of(model, [name, f"{name}.quantized"], frames, literal=True)
    scale = np.float32(smallest_half_that_holds(ranges[name]))
    expected = np.clip(np.rint(found[name] / scale), -128, 127)
    zero = 128 if spelling == "unsigned" else 0
    assert np.array_equal(found[f"{name}.quantized"].astype(np.int64) - zero, expected)


@pytest.mark.parametrize(
    ("product", "source"),
    [
        ("stage1.block0.ffn.expand", "stage1.block0.norm2"),
        ("stage2.embed", "stage1.norm"),
        ("stage3.block0.ffn.depthwise", "stage3.block0.ffn.expand"),
        ("stage2.block0.attention.query.product", "stage2.block0.norm1"),
        ("decoder.classifier.product", "decoder.relu"),
    ],
)
def test_a_product_is_that_of_integers(product: str, source: str) -> None:
    """sum(qa * qw) * sa * sw + bias, with weights quantised here in float64."""
    model = int8_model(Recipe.everything(), "signed")
    original, node = weights_of(lively_model()), nodes_of(lively_model())[product]
    weight = original[node.input[1]].astype(np.float64)
    wanted = [f"{source}.quantized", product]
    values = values_of(model, wanted, random_frames(2, 64, 96, seed=3), literal=True)
    steps = torch.from_numpy(values[wanted[0]]).double()
    is_conv = node.op_type == "Conv"
    others = tuple(range(1, weight.ndim)) if is_conv else (0,)
    largest = np.abs(weight).max(axis=others)
    scales = np.array([smallest_half_that_holds(one) for one in largest])
    shape = (-1, *[1] * (weight.ndim - 1)) if is_conv else (-1,)
    whole = torch.from_numpy(np.rint(weight / scales.reshape(shape)))
    if is_conv:
        attributes: dict[str, Any] = {
            a.name: onnx.helper.get_attribute_value(a) for a in node.attribute
        }
        if nodes_of(lively_model())[node.input[0]].op_type == "Transpose":
            steps = steps.permute(0, 3, 1, 2)
        sums = functional.conv2d(
            steps,
            whole,
            stride=attributes["strides"],
            padding=attributes["pads"][:2],
            groups=attributes["group"],
        ).movedim(1, -1)
    else:
        sums = steps @ whole
    assert sums.abs().max() > 2000
    assert torch.equal(sums, sums.round())
    step = smallest_half_that_holds(lively_ranges()[source])
    expected = sums.numpy() * step * scales
    if is_conv:
        expected += original[node.input[2]]
    found = np.moveaxis(values[product], 1, -1) if is_conv else values[product]
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


# The quantiser --------------------------------------------------------------------------------


@given(st.floats(2.0**-24, 65504.0 * 127))
@example(65504.0 * 127)
@example(1e-12)
@example(2.0**-24 * 127)
@example(127.0)
def test_a_scale_is_the_next_fp16_number_above(largest: float) -> None:
    scale = scale_from_range(largest)
    assert scale == smallest_half_that_holds(largest)
    assert scale_from_range(np.float32(largest)) == smallest_half_that_holds(np.float32(largest))


@pytest.mark.parametrize("largest", [0.0, 1e-30, 5e-324])
def test_a_scale_is_never_0(largest: float) -> None:
    assert scale_from_range(largest) == HALVES[0]


LEVELS = st.sampled_from([0.0, 1e-30, 1e-9, 1e-4, 0.05, 1.0, 300.0, 8e6])


@given(
    st.lists(LEVELS, min_size=1, max_size=5),
    st.sampled_from([(4,), (3, 3, 3), (1, 2, 2)]),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_weights_are_rounded_within_half_a_step(
    levels: list[float], inner: tuple[int, ...], last: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    channels = [rng.uniform(-1, 1, inner) * level for level in levels]
    axis = len(inner) if last else 0
    weight = np.stack(channels, axis=axis).astype(np.float32)
    steps, scales = quantised_weight(weight, axis)
    assert (steps.dtype, scales.dtype, steps.shape) == (np.int8, np.float32, weight.shape)
    assert scales.shape == (len(levels),)
    for index in range(len(levels)):
        one = np.take(weight, index, axis).astype(np.float64)
        found, scale = np.take(steps, index, axis).astype(np.float64), float(scales[index])
        assert scale == smallest_half_that_holds(np.abs(one).max())
        assert np.abs(found).max() <= 127
        # FP32's division may turn a tie: 2^-17 of a step at most.
        assert (np.abs(found * scale - one) <= scale * (0.5 + 2.0**-17)).all()


def test_the_weights_in_the_graph_are_those_of_the_quantiser(spelling: Spelling) -> None:
    original, found = weights_of(lively_model()), weights_of(int8_model(spelling=spelling))
    names = [name.removesuffix(".quantized") for name in found if name.endswith("weight.quantized")]
    assert len(names) > 30
    for name in names:
        weight: npt.NDArray[np.float64] = original[name].astype(np.float64)
        others = tuple(range(1, weight.ndim)) if weight.ndim == 4 else (0,)
        largest = np.abs(weight).max(axis=others, keepdims=True)
        scales = np.vectorize(smallest_half_that_holds)(largest)
        steps = found[f"{name}.quantized"]
        assert steps.dtype == np.int8
        assert np.array_equal(found[f"{name}.scale"], scales.ravel().astype(np.float32))
        assert not found[f"{name}.zero_point"].any()
        # Within half a step of what was there, and every output channel uses its grid.
        assert np.abs(steps * scales - weight).max() <= scales.max() / 2 * (1 + 1e-5)
        assert (np.abs(steps.astype(int)).max(axis=others) >= 126).all()


# Where it runs --------------------------------------------------------------------------------


def test_onnxruntime_runs_it_at_every_size(spelling: Spelling) -> None:
    model = int8_model(spelling=spelling)
    for batch, height, width in [(1, 64, 64), (2, 97, 133)]:
        frames = random_frames(batch, height, width)
        expected = (batch, 7, -(-height // 4), -(-width // 4))
        assert logits_of(model, frames).shape == expected
        found = logits_of(model, frames, literal=True)
        exact = logits_of(lively_model(), frames)
        assert found.shape == expected
        assert np.sqrt(np.mean((found - exact) ** 2)) < 0.1 * exact.std()


def test_the_class_map_may_be_appended_behind(spelling: Spelling) -> None:
    model = append_class_map(int8_model(spelling=spelling))
    onnx.checker.check_model(model, full_check=True)
    found = values_of(model, ["class_map"], random_frames(1, 97, 133), literal=True)["class_map"]
    assert found.shape == (1, 97, 133)
    assert len(np.unique(found)) > 2


# What is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [None, float("nan"), float("inf"), -float("inf"), -1e-3])
def test_a_wrong_range_is_refused_by_name(wrong: float | None) -> None:
    ranges = lively_ranges()
    ranges["stage2.block1.norm2"] = wrong
    if wrong is None:
        del ranges["stage2.block1.norm2"]
    with pytest.raises(SpecError, match=r"stage2\.block1\.norm2"):
        insert_qdq(lively_model(), ranges)


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_what_no_fp16_scale_can_hold_is_refused() -> None:
    """127 times the largest FP16 number, for values and for weights."""
    with pytest.raises(SpecError, match=r"decoder\.relu"):
        insert_qdq(lively_model(), {**lively_ranges(), "decoder.relu": 8.4e6})
    model = lively_model()
    scale_weight(model, "decoder.stage1.fuse.weight", 1e8)
    with pytest.raises(SpecError, match=r"decoder\.stage1\.fuse\.weight"):
        insert_qdq(model, lively_ranges())


def test_a_range_that_the_recipe_does_not_need_is_not_asked_for() -> None:
    recipe = Recipe(residuals=False)
    needed = quantised_values(lively_model(), recipe)
    ranges = {name: lively_ranges()[name] for name in needed}
    assert "decoder.relu" in ranges
    assert "frames.centred" not in ranges
    insert_qdq(lively_model(), ranges, recipe)
    del ranges["decoder.relu"]
    insert_qdq(lively_model(), ranges, Recipe(residuals=False, classifier=False))
    with pytest.raises(SpecError, match=r"decoder\.relu"):
        insert_qdq(lively_model(), ranges, recipe)


def test_a_range_of_0_is_a_grid_of_zeros() -> None:
    ranges = {**lively_ranges(), "stage1.block0.norm2": 0.0}
    model = insert_qdq(lively_model(), ranges)
    assert np.isfinite(logits_of(model, random_frames(1, 64, 64), literal=True)).all()


def test_what_is_not_an_fp32_graph_with_logits_is_refused() -> None:
    for model in (int8_model(), cast_fp16(lively_model()), append_class_map(lively_model())):
        with pytest.raises(OnnxFileError) as caught:
            insert_qdq(model, lively_ranges())
        assert "segdeploy export" in str(caught.value)
    with pytest.raises(SpecError, match="sideways"):
        insert_qdq(lively_model(), lively_ranges(), spelling="sideways")  # type: ignore[arg-type]
