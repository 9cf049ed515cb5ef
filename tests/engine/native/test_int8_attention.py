"""The compiled network on INT8 graphs whose attention's own two products are INT8 as well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from segformer_deploy.engine.native import program
from segformer_deploy.engine.native.engine import NativeEngine
from segformer_deploy.engine.native.library import VARIANTS
from segformer_deploy.errors import BackendError, RunError
from segformer_deploy.graph.insert_qdq import Recipe
from segformer_deploy.spec import FrameSize
from segformer_deploy.streets import street_frame
from tests.engine.native.compiled import force_variant
from tests.engine.native.quantise import (
    SMALL,
    assert_same_but_for_edges,
    change,
    float_model,
    int8_model,
    logits_of,
    onnxruntime_logits,
    quantised,
    saved,
)
from tests.model.tiny import random_frames

STREETS = Path(__file__).parents[3] / "models" / "segformer-b0-streets" / "model.onnx"
BOTH = Recipe(attention=True)
ATTENTIONS = [
    *(f"stage{stage}.block0.attention" for stage in range(1, 5)),
    "stage2.block1.attention",
]
OURS = ATTENTIONS[1]
"""One of two heads, so that layout lies between its values and the products."""
SIDES = ["query", "key", "softmax", "value"]
SHAPES = [(1, 64, 64), (1, 64, 72), (1, 66, 80)]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(int8_model(recipe=BOTH), tmp_path_factory.mktemp("int8") / "small.onnx")


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    return force_variant(monkeypatch, request.param)


# The same answer ------------------------------------------------------------------------------


def test_logits_are_onnxruntimes(small: Path, variant: str) -> None:
    sides = [(64, 64), (64, 65), (70, 98), (96, 64), (65, 161), (64, 96), (128, 66)]
    assert_same_but_for_edges(small, [(1, *size) for size in sides])


def test_they_are_not_those_of_a_float_attention(small: Path, tmp_path: Path) -> None:
    frames = random_frames(1, 64, 96)
    other = logits_of(saved(int8_model(), tmp_path / "m.onnx"), frames)
    assert 1e-3 < np.abs(logits_of(small, frames) - other).max() / np.abs(other).max() < 0.5


@pytest.mark.parametrize("block", ATTENTIONS)
def test_any_block_may_stay_in_float32(tmp_path: Path, variant: str, block: str) -> None:
    recipe = replace(BOTH, kept=frozenset({block}))
    assert_same_but_for_edges(saved(int8_model(recipe=recipe), tmp_path / "m.onnx"), SHAPES)


@pytest.mark.parametrize("block", ATTENTIONS)
def test_any_block_may_be_the_only_one(tmp_path: Path, variant: str, block: str) -> None:
    recipe = replace(BOTH, kept=frozenset(ATTENTIONS) - {block})
    assert_same_but_for_edges(saved(int8_model(recipe=recipe), tmp_path / "m.onnx"), SHAPES)


def test_residuals_need_not_be_rounded(tmp_path: Path, variant: str) -> None:
    model = int8_model(recipe=replace(BOTH, residuals=False))
    assert_same_but_for_edges(saved(model, tmp_path / "m.onnx"), SHAPES)


def test_without_a_reduction(tmp_path: Path, variant: str) -> None:
    model = int8_model(replace(SMALL, reductions=(2, 1, 1, 1)), recipe=BOTH)
    assert_same_but_for_edges(saved(model, tmp_path / "m.onnx"), SHAPES)


def test_both_spellings_are_one_grid(small: Path, tmp_path: Path) -> None:
    signed = saved(int8_model(recipe=BOTH, spelling="signed"), tmp_path / "m.onnx")
    frames = random_frames(1, 70, 90)
    np.testing.assert_array_equal(logits_of(signed, frames), logits_of(small, frames))


def test_class_maps_of_the_shipped_network(tmp_path: Path) -> None:
    size = FrameSize(192, 256)
    frames = [street_frame(seed, size)[0][None, :, :, ::-1].copy() for seed in range(4)]
    path = saved(quantised(onnx.load(STREETS), frames[:2], BOTH), tmp_path / "m.onnx")
    for frame in frames:
        ours, theirs = logits_of(path, frame), onnxruntime_logits(path, frame)
        assert np.median(np.abs(ours - theirs)) <= 5e-3 * np.abs(theirs).max()
        assert (ours.argmax(1) == theirs.argmax(1)).mean() >= 0.99


# Bits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 64), (65, 161), (130, 166), (64, 556)])
def test_neither_threads_nor_batches_change_a_bit(
    small: Path, variant: str, size: tuple[int, int]
) -> None:
    frames = random_frames(3, *size)
    one = logits_of(small, frames, 1)
    np.testing.assert_array_equal(one, logits_of(small, frames, 2))
    np.testing.assert_array_equal(one, logits_of(small, frames, 5))
    for index in range(3):
        np.testing.assert_array_equal(one[index], logits_of(small, frames[index : index + 1])[0])


def test_what_another_size_left_behind_changes_nothing(tmp_path: Path, variant: str) -> None:
    """Keys and values of blocks in float32 and in integers lie in one buffer."""
    recipe = replace(BOTH, kept=frozenset(ATTENTIONS[::2]))
    path, frames = saved(int8_model(recipe=recipe), tmp_path / "m.onnx"), random_frames(2, 70, 98)
    engine = NativeEngine(path, 2)
    session = engine.session()
    first = session.run({"image": frames})["logits"].copy()
    session.run({"image": random_frames(1, 128, 130)})
    np.testing.assert_array_equal(session.run({"image": frames})["logits"], first)
    np.testing.assert_array_equal(logits_of(path, frames), first)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_a_number_breaks_nothing(tmp_path: Path, variant: str, value: float) -> None:
    model = int8_model(recipe=BOTH)
    change(model, "stage1.embed_norm.bias", lambda bias: np.full_like(bias, value))
    path = saved(model, tmp_path / "m.onnx")
    one = logits_of(path, random_frames(1, 64, 64), 1)
    assert one.shape == (1, 7, 16, 16)
    np.testing.assert_array_equal(one, logits_of(path, random_frames(1, 64, 64), 2))


# What is refused ------------------------------------------------------------------------------


def node_of(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.name == name)


def refused(model: onnx.ModelProto, path: Path, match: str) -> None:
    with pytest.raises(BackendError, match=match) as caught:
        NativeEngine(saved(model, path), 1)
    assert "onnxruntime" in caught.value.next_step


def _constant(value: object, dtype: type) -> Callable[[np.ndarray], np.ndarray]:
    return lambda old: np.full(old.shape, value, dtype)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(
    ("part", "new"),
    [
        *(("scale", _constant(value, np.float32)) for value in (0, -1, np.nan, np.inf, 1e-30)),
        ("scale", _constant(1, np.float16)),
        ("scale", lambda old: old.reshape(1)),
        ("zero_point", _constant(0, np.uint8)),
        ("zero_point", _constant(1, np.int8)),
        ("zero_point", lambda old: old.reshape(1)),
    ],
)
def test_another_grid_is_refused(
    tmp_path: Path, side: str, part: str, new: Callable[[np.ndarray], np.ndarray]
) -> None:
    model = int8_model(recipe=BOTH)
    change(model, f"{OURS}.{side}.{part}", new)
    refused(model, tmp_path / "m.onnx", rf"{side}\.{part}")


def without_grid(model: onnx.ModelProto, value: str, weights: bool) -> None:
    """What read the grid of `value` reads the value itself; its numbers go too if `weights`."""
    for part in ("quantized", "dequantized"):
        model.graph.node.remove(node_of(model, f"{value}.{part}"))
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == f"{value}.dequantized":
                node.input[index] = value
    for tensor in list(model.graph.initializer):
        if weights and tensor.name in (f"{value}.scale", f"{value}.zero_point"):
            model.graph.initializer.remove(tensor)


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("side", SIDES)
def test_a_side_in_float32_is_refused(tmp_path: Path, side: str, weights: bool) -> None:
    model = int8_model(recipe=BOTH)
    without_grid(model, f"{OURS}.{side}", weights)
    refused(model, tmp_path / "m.onnx", "missing")


@pytest.mark.parametrize("sides", [SIDES[:2], SIDES[2:]])
def test_one_of_the_two_products_in_float32_is_refused(tmp_path: Path, sides: list[str]) -> None:
    model = int8_model(recipe=BOTH)
    for side in sides:
        without_grid(model, f"{OURS}.{side}", True)
    refused(model, tmp_path / "m.onnx", "missing")


READERS = [
    ("query.tokens", 0, "query"),
    ("key.tokens", 0, "key"),
    ("value.tokens", 0, "value"),
    ("mixed", 0, "softmax"),
]


@pytest.mark.parametrize(("reader", "index", "side"), READERS)
@pytest.mark.parametrize("part", ["", ".quantized"])
def test_what_does_not_read_the_grid_is_refused(
    tmp_path: Path, reader: str, index: int, side: str, part: str
) -> None:
    model = int8_model(recipe=BOTH)
    node_of(model, f"{OURS}.{reader}").input[index] = f"{OURS}.{side}{part}"
    refused(model, tmp_path / "m.onnx", "other values")


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("number", [1, 2])
def test_another_grid_on_the_way_back_is_refused(tmp_path: Path, side: str, number: int) -> None:
    model = int8_model(recipe=BOTH)
    other = f"{OURS}.{'key' if side == 'query' else 'query'}"
    name = f"{other}.{('scale', 'zero_point')[number - 1]}"
    node_of(model, f"{OURS}.{side}.dequantized").input[number] = name
    refused(model, tmp_path / "m.onnx", "other values")


@pytest.mark.parametrize("side", SIDES)
def test_other_attributes_are_refused(tmp_path: Path, side: str) -> None:
    model = int8_model(recipe=BOTH)
    attribute = helper.make_attribute("saturate", 0)
    node_of(model, f"{OURS}.{side}.quantized").attribute.append(attribute)
    refused(model, tmp_path / "m.onnx", "saturate")


def test_another_axis_of_the_softmax_is_refused(tmp_path: Path) -> None:
    model = int8_model(recipe=BOTH)
    node_of(model, f"{OURS}.softmax").attribute[0].i = -2
    refused(model, tmp_path / "m.onnx", "axis")


def test_heads_of_an_odd_width_are_refused(tmp_path: Path) -> None:
    odd = replace(SMALL, widths=(8, 14, 40, 64))
    NativeEngine(saved(float_model(odd, 1), tmp_path / "float.onnx"), 1).close()
    refused(int8_model(odd, recipe=BOTH), tmp_path / "m.onnx", "heads of 7 channels")


def test_more_keys_than_int32_can_sum_are_an_error(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "DEEPEST", 3)
    session = NativeEngine(small, 1).session()
    with pytest.raises(RunError, match="keys in stage"):
        session.run({"image": random_frames(1, 64, 64)})
